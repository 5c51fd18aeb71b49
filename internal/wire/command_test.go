package wire

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

// TestAppendCommand: what a client writes is what a server reads.
func TestAppendCommand(t *testing.T) {
	for _, want := range []Command{
		{Type: CommandPublish, Kind: broker.KindText, Data: []byte("hello")},
		{Type: CommandPublish, ID: "1", Room: "games", Kind: broker.KindText, Data: []byte("a \"quoted\"\x00\nline \u2028 日本")},
		{Type: CommandPublish, ID: "1", Kind: broker.KindText, Data: []byte{}},
		{Type: CommandPublish, ID: "日本 \"", Kind: broker.KindJSON, Data: []byte(`{"n":12345678901234567890,"n":[null]}`), Key: "cur\x00sor"},
		{Type: CommandPublish, ID: "1", Kind: broker.KindBinary, Data: []byte{0, 255, '"'}},
		{Type: CommandPublish, ID: "1", Kind: broker.KindBinary, Data: []byte{}},
		{Type: CommandPublish, ID: "1", Kind: broker.KindText, Data: []byte("psst"), To: broker.Target{User: "bob"}},
		{Type: CommandPublish, ID: "1", Kind: broker.KindText, Data: []byte("psst"), To: broker.Target{Client: "c-1"}},
		{Type: CommandJoin, Room: "games"},
		{Type: CommandJoin, Room: "games", History: 7},
		{Type: CommandJoin, Room: "games", Since: broker.Cursor{Epoch: "e", Seq: 7, Tag: 9}.String(), HasSince: true},
		{Type: CommandLeave, ID: "1", Room: "games"},
		{Type: CommandTyping, Room: "games", On: true},
		{Type: CommandTyping},
		{Type: CommandPresence, ID: "1"},
		{Type: CommandHistory, ID: "1", Room: "games", Before: 1<<53 - 1, Limit: 100},
		{Type: CommandHistory, Limit: 1},
		{Type: CommandPing, ID: "1"},
	} {
		if want.Type != CommandJoin || want.History == 0 {
			want.History = -1
		}
		if want.Type != CommandHistory {
			want.Limit = HistoryLimit
		}
		p := AppendCommand(nil, &want)
		var got Command
		require.Nil(t, Decode(p, &got), "%s", p)
		require.Equal(t, want, got, "%s", p)
	}
}
