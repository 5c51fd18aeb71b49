package wire

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNames(t *testing.T) {
	long := strings.Repeat("é", 32)
	for _, tc := range []struct {
		s              string
		name, room, id bool // valid as such
	}{
		{"alice", true, true, true},
		{"alice smith", true, true, true},
		{"アリス", true, true, true},
		{"❤️ no. 1", true, true, true},
		{"guest-x7k2p", true, true, true},
		{long, true, true, true},
		{long + "a", false, false, false},
		{"", false, false, false},
		{" ", false, false, true},
		{" alice", false, false, true},
		{"alice ", false, false, true},
		{"a:b", false, true, true},
		{"*", false, true, true},
		{"* alice joined", false, true, true},
		{"a*", true, true, true},
		{"a/b", true, false, true},
		{".", true, false, true},
		{"..", true, false, true},
		{"...", true, true, true},
		{"a\nb", false, false, false},
		{"a\x00b", false, false, false},
		{"a\x7f", false, false, false},
		{"a\u0085b", false, false, false},
		{"a\u00a0b", false, false, false}, // another space
		{"a\u00adb", false, false, false}, // soft hyphen
		{"a\u200bb", false, false, false}, // zero width
		{"a\u202eb", false, false, false}, // right to left
		{"a\u2028b", false, false, false},
		{"a\u3000b", false, false, false},
		{"\u3164", false, false, false}, // a letter that shows nothing
		{"\u2800", false, false, false},
		{"a\ufeff", false, false, false},
		{"a\xff", false, false, false},
		{"\xed\xa0\x80", false, false, false},
	} {
		require.Equal(t, tc.name, ValidName(tc.s) == nil, "name %q: %v", tc.s, ValidName(tc.s))
		require.Equal(t, tc.room, ValidRoom(tc.s) == nil, "room %q: %v", tc.s, ValidRoom(tc.s))
		require.Equal(t, tc.id, ValidID(tc.s) == nil, "id %q: %v", tc.s, ValidID(tc.s))
	}
}

func TestGuestName(t *testing.T) {
	seen := map[string]bool{}
	for i := range 100 {
		name := GuestName(strconv.Itoa(i))
		require.Equal(t, name, GuestName(strconv.Itoa(i)), "the same when it comes back")
		require.NoError(t, ValidName(name))
		require.Regexp(t, `^guest-[a-z0-9]{5}$`, name)
		seen[name] = true
	}
	require.Greater(t, len(seen), 95)
}
