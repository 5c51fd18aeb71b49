package brokertest

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

// exactStrings are names and IDs that hubs let through, at most 64 bytes of them, and that an engine may
// have ideas about.
var exactStrings = []string{
	"lobby", "Lobby", "LOBBY", "0", "null", "lob by",
	"a.b*c>d:e?f#g{h}i[j]k|l\\m'n\"o`p%q$r&s;t,u=v+w~x!y@z<(--)^_",
	strings.Repeat("ü", 32), "x" + strings.Repeat("€", 21), strings.Repeat("r", 63) + "1", strings.Repeat("r", 63) + "2",
}

// exactData are any bytes: from none at all to 64 KiB, which hubs let through.
func exactData() [][]byte {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	return [][]byte{
		nil, {}, {0}, {0, 0, 'x', 0}, []byte("\r\n"), []byte(" "), []byte("null"), []byte("\xff\xfe not UTF-8"), every,
		bytes.Repeat(every, 256),
	}
}

// same checks that what was handed out is what was published.
func (e *env) same(want, got *broker.Message, what string) {
	e.Helper()
	require.Equal(e, want.Room, got.Room, "room of %s", what)
	require.Equal(e, want.ID, got.ID, "id of %s", what)
	require.Equal(e, want.From, got.From, "publisher of %s", what)
	require.Equal(e, want.Kind, got.Kind, "kind of %s", what)
	require.Equal(e, want.Key, got.Key, "key of %s", what)
	e.sameData(want.Data, got.Data, what)
}

// sameData tells of 64 KiB no more than where they begin.
func (e *env) sameData(want, got []byte, what string) {
	e.Helper()
	require.True(e, bytes.Equal(want, got), "data of %s: got %d bytes, %.40q, want %d bytes, %.40q", what, len(got), got, len(want), want)
}

// Whatever a message is made of comes out as it went in: no string is cut, folded or quoted.
func orderExact(e *env) {
	a, b := e.pair(Limits{})
	data := exactData()
	for i, room := range exactStrings {
		head := e.head(b, room)
		require.Zero(e, head.Seq, "seq of the head of %q, where nobody published", room)
		s := e.subscribe(b, room)
		var sent []*broker.Message
		for n, str := range exactStrings {
			next := exactStrings[(n+1)%len(exactStrings)]
			sent = append(sent, &broker.Message{
				Room: room, ID: str, Kind: broker.Kind(n%3 + 1), Key: next, Data: data[(n+i)%len(data)],
				From: broker.Member{Client: str, User: next, Name: str},
			})
			require.False(e, e.publish(a, sent[n]).Duplicate, "receipt of id %q is of a duplicate", str)
		}
		for what, list := range map[string][]*broker.Message{
			"a subscription": e.messages(s, len(sent)), "Since": e.since(b, room, head, 100).Messages, "Before": e.kept(a, room),
		} {
			require.Len(e, list, len(sent), "messages of %q by %s", room, what)
			e.chain(head, list)
			for n, m := range list {
				e.same(sent[n], m, fmt.Sprintf("message %d of %q by %s", n, room, what))
			}
		}
		for n, m := range e.kept(b, room) {
			e.repeat(b, sent[n], broker.Receipt{Cursor: m.Cursor, Time: m.Time})
		}
		s.Close()
	}
}

// So does whatever a signal is made of.
func signalExact(e *env) {
	a, b := e.pair(Limits{})
	for i, data := range exactData() {
		str := exactStrings[i]
		s := e.subscribe(b, str)
		sent := broker.Signal{
			Room: str, Type: str, ID: str, Kind: broker.KindBinary, Data: data, Key: str,
			From: broker.Member{Client: str, User: str, Name: str},
		}
		_, err := a.Signal(e.ctx, &sent)
		require.NoError(e, err, "Signal")
		got := *e.signal(s)
		e.sameData(data, got.Data, fmt.Sprint("signal ", i))
		got.Data, got.Time, sent.Data = nil, sent.Time, nil
		require.Equal(e, sent, got, "signal %d", i)
		s.Close()
	}
}
