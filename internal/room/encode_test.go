package room

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Different users, keys and kinds are different keys, whatever is in them.
func TestScopedKeys(t *testing.T) {
	seen := map[string][3]string{}
	for _, kind := range []byte{keyRoom, keyDirect, keyTyping} {
		for _, user := range []string{"", "u", "k", "uk", "\x01k", "guest:\x00"} {
			for _, key := range []string{"k", "ku", "kk", "k\x01k", "kuk"} {
				k := scoped(kind, user, key)
				require.NotContains(t, seen, k, "%q", []string{string(kind), user, key})
				seen[k] = [3]string{string(kind), user, key}
			}
			require.Empty(t, scoped(kind, user, ""))
		}
	}
}
