package wire

import (
	"net/url"
	"strings"
	"testing"

	"github.com/chathub-go/hub/broker"
	"github.com/stretchr/testify/require"
)

func TestParseQuery(t *testing.T) {
	cursor, err := broker.ParseCursor(testCursor)
	require.NoError(t, err)
	for raw, want := range map[string]Query{
		"":                                    {History: -1},
		"name=&since=&session=&history=&x=1":  {History: -1},
		"x=1&x=2":                             {History: -1},
		"name=alice+smith":                    {History: -1, Name: "alice smith"},
		"since=" + testCursor:                 {History: -1, Since: cursor, HasSince: true},
		"session=hG5pZlPq0VYb9sQ2mWc7Kw":      {History: -1, Session: "hG5pZlPq0VYb9sQ2mWc7Kw"},
		"history=0&ordered=0":                 {History: 0},
		"history=1000&ordered=1&name=alice":   {History: 1000, Ordered: true, Name: "alice"},
		"NAME=a:b&Since=garbage&History=lots": {History: -1},
	} {
		v, err := url.ParseQuery(raw)
		require.NoError(t, err)
		got, err := ParseQuery(v)
		require.NoError(t, err, raw)
		require.Equal(t, want, got, raw)
	}
	for _, raw := range []string{
		"name=a:b", "name=a&name=a", "name=&name=a", "since=garbage", "since=" + testCursor + "A", "history=-1", "history=1001",
		"history=5x", "ordered=yes", "session=short", "session=hG5pZlPq0VYb9sQ2mWc7Kx", "session=hG5pZlPq0VYb9sQ2mWc7Kw==",
		"session=" + strings.Repeat("A", 43),
	} {
		v, err := url.ParseQuery(raw)
		require.NoError(t, err)
		_, err = ParseQuery(v)
		field, _, _ := strings.Cut(raw, "=")
		require.ErrorContains(t, err, field+": ", raw)
	}
}

func TestSessions(t *testing.T) {
	a, b := NewSession(), NewSession()
	require.NotEqual(t, a, b)
	require.Len(t, a, 22)
	require.NoError(t, validSession(a))
	require.Equal(t, GuestUser(a), GuestUser(a))
	require.NotEqual(t, GuestUser(a), GuestUser(b))
	require.Regexp(t, "^guest:[a-z2-7]{16}$", GuestUser(a))
	require.NotContains(t, GuestUser(a), a)
}

func TestTemplateText(t *testing.T) {
	f := TemplateText(Templates{
		Message: "[{room}] {name}/{user}> {text}", Direct: "{name} whispers {text}", Joined: "+{name}", Left: "-{name}",
		Missed: "? {room}", Refused: "! {text}", Drain: "bye",
	})
	mallory := broker.Member{User: "u\n2", Name: "{text}\nx"}
	require.Equal(t, "[lobby] alice/u1> a\n    {name}", f.Message(&broker.Message{Room: "lobby", From: alice, Data: []byte("a\n{name}")}))
	require.Equal(t, "[lobby] {text} x/u\n    2> b", f.Message(&broker.Message{Room: "lobby", From: mallory, Data: []byte("b")}))
	require.Equal(t, "alice whispers psst", f.Direct(&broker.Signal{From: alice, Data: []byte("psst")}))
	require.Equal(t, "+alice", f.Joined("lobby", alice))
	require.Equal(t, "-alice", f.Left("lobby", alice, ReasonLost))
	require.Equal(t, "? lobby", f.Gap("lobby", 3))
	require.Equal(t, "! no\n    way", f.Error(&Error{Message: "no\nway"}))
	require.Equal(t, "bye", f.Drain())
	require.Equal(t, TextFormat{}, TemplateText(Templates{}))
}
