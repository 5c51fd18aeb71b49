package presence

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

func TestUserJoinsOnceAndLeavesOnce(t *testing.T) {
	var p Table
	tab := func(client string) broker.Member {
		return broker.Member{Client: client, User: "u", Name: "alice"}
	}
	require.True(t, p.Join(tab("1")), "the first tab joins")
	require.False(t, p.Join(tab("2")), "the second is the same user")
	require.False(t, p.Join(tab("2")), "a repeated join changes nothing")
	require.Equal(t, 1, p.Len())

	_, last := p.Leave("1")
	require.False(t, last)
	_, last = p.Leave("1")
	require.False(t, last, "a repeated leave changes nothing")
	m, last := p.Leave("2")
	require.True(t, last)
	require.Equal(t, broker.Member{User: "u", Name: "alice"}, m)
	require.Zero(t, p.Len())
	_, last = p.Leave("2")
	require.False(t, last)
}

func TestSomeIsBounded(t *testing.T) {
	var p Table
	for _, id := range []string{"a", "b", "c"} {
		p.Join(broker.Member{Client: id, User: id})
	}
	require.Len(t, p.Some(2), 2)
	require.Len(t, p.Some(9), 3)
	require.Empty(t, (&Table{}).Some(9))
}
