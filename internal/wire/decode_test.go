package wire

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/chathub-go/hub/broker"
	"github.com/stretchr/testify/require"
)

const testCursor = "AQcAAAAAAAAAKmV4YW1wbGUx"

func TestDecode(t *testing.T) {
	publish := func(kind broker.Kind, data string) Command {
		return Command{Type: CommandPublish, Kind: kind, Data: []byte(data), History: -1, Limit: HistoryLimit}
	}
	with := func(c Command, change func(*Command)) Command {
		change(&c)
		return c
	}
	plain := func(name string) Command { return Command{Type: name, History: -1, Limit: HistoryLimit} }

	for _, tc := range []struct {
		in   string
		want Command
	}{
		{`{"type":"publish","data":"hello"}`, publish(broker.KindText, "hello")},
		{" { \"data\" : \"hello\" ,\t\"type\" : \"publish\" } \r\n", publish(broker.KindText, "hello")},
		{`{"type":"publish","data":""}`, publish(broker.KindText, "")},
		{`{"type":"publish","data":"<a\n\"\u00e9\ud83d\ude00>"}`, publish(broker.KindText, "<a\n\"é😀>")},
		{`{"type":"publish","data":"\ud83d!\ude00"}`, publish(broker.KindText, "\ufffd!\ufffd")},
		{`{"type":"publish","data":null}`, publish(broker.KindJSON, "null")},
		{`{"type":"publish","data":false}`, publish(broker.KindJSON, "false")},
		{`{"type":"publish","data":1e400}`, publish(broker.KindJSON, "1e400")},
		{`{"type":"publish","data":12345678901234567890}`, publish(broker.KindJSON, "12345678901234567890")},
		{`{"type":"publish","data":-0.10E+2}`, publish(broker.KindJSON, "-0.10E+2")},
		{`{"type":"publish","data":{ "b" : [ 1, "a b" ], "a" : "<&>" , "b":2 }}`,
			publish(broker.KindJSON, `{"b":[1,"a b"],"a":"<&>","b":2}`)},
		{`{"type":"publish","data":["\ud83d","\uD83D\uDE00","\\ud83d"]}`,
			publish(broker.KindJSON, `["\ufffd","\uD83D\uDE00","\\ud83d"]`)},
		{`{"type":"publish","data_base64":"AAEC\/w=="}`, publish(broker.KindBinary, "\x00\x01\x02\xff")},
		{`{"type":"publish","data_base64":"AAEC/w==","data_Base64":1}`, publish(broker.KindBinary, "\x00\x01\x02\xff")},
		{`{"type":"publish","data_base64":""}`, publish(broker.KindBinary, "")},
		{`{"type":"publish","data":"x","data_base64":null,"to":null,"id":null,"room":null}`, publish(broker.KindText, "x")},
		{`{"t\u0079pe":"publ\u0069sh","data":"x"}`, publish(broker.KindText, "x")},
		{`{"type":"publish","data":"x","id":"m 1","room":"lobby"}`, with(publish(broker.KindText, "x"),
			func(c *Command) { c.ID, c.Room = "m 1", "lobby" })},
		{`{"type":"publish","data":"x","key":"\u0000 ü"}`, with(publish(broker.KindText, "x"),
			func(c *Command) { c.Key = "\x00 ü" })},
		{`{"type":"publish","data":"x","key":""}`, publish(broker.KindText, "x")},
		{`{"type":"publish","data":"x","to":{"client":"c1","user":null,"more":[]}}`, with(publish(broker.KindText, "x"),
			func(c *Command) { c.To.Client = "c1" })},
		{`{"type":"publish","data":"x","to":{"\u0075ser":"u\u0031"}}`, with(publish(broker.KindText, "x"),
			func(c *Command) { c.To.User = "u1" })},

		// Names are compared exactly; what is unknown, or another command's, is ignored.
		{`{"type":"ping","Type":"publish","TYPE":1,"x":{"type":"join"},"x":2,"limit":"a","data":1}`, plain(CommandPing)},
		{`{"type":"ping","id":"` + strings.Repeat("é", 32) + `"}`, with(plain(CommandPing),
			func(c *Command) { c.ID = strings.Repeat("é", 32) })},
		{`{"type":"join","room":"games"}`, with(plain(CommandJoin), func(c *Command) { c.Room = "games" })},
		{`{"type":"join","room":"games","since":"` + testCursor + `","history":0}`, with(plain(CommandJoin),
			func(c *Command) { c.Room, c.Since, c.HasSince, c.History = "games", testCursor, true, 0 })},
		{`{"type":"join","room":"games","since":"","history":1000}`, with(plain(CommandJoin),
			func(c *Command) { c.Room, c.History = "games", 1000 })},
		{`{"type":"leave","room":"games"}`, with(plain(CommandLeave), func(c *Command) { c.Room = "games" })},
		{`{"type":"typing","on":true}`, with(plain(CommandTyping), func(c *Command) { c.On = true })},
		{`{"type":"typing","on":false}`, plain(CommandTyping)},
		{`{"type":"presence"}`, plain(CommandPresence)},
		{`{"type":"history"}`, plain(CommandHistory)},
		{`{"type":"history","before":18446744073709551615,"limit":100}`, with(plain(CommandHistory),
			func(c *Command) { c.Before, c.Limit = 1<<64-1, 100 })},
		{`{"type":"history","before":0,"limit":1}`, with(plain(CommandHistory), func(c *Command) { c.Limit = 1 })},
	} {
		c := Command{ID: "of before", Data: []byte("of before")}
		err := Decode([]byte(tc.in), &c)
		require.Nil(t, err, "%s", tc.in)
		require.Equal(t, tc.want, c, "%s", tc.in)
	}
}

func TestDecodeErrors(t *testing.T) {
	nested := func(levels int) string {
		return `{"type":"publish","data":` + strings.Repeat("[", levels) + strings.Repeat("]", levels) + `}`
	}
	var c Command
	require.Nil(t, Decode([]byte(nested(MaxDepth-1)), &c))

	for _, tc := range []struct {
		in   string
		want Error // the field that Message has to begin with in place of Message
	}{
		{"", Error{Code: CodeBadJSON}},
		{" ", Error{Code: CodeBadJSON}},
		{"null", Error{Code: CodeBadJSON}},
		{`"ping"`, Error{Code: CodeBadJSON}},
		{`[{"type":"ping"}]`, Error{Code: CodeBadJSON}},
		{`{"type":"ping"`, Error{Code: CodeBadJSON}},
		{`{"type":"ping"}}`, Error{Code: CodeBadJSON}},
		{`{"type":"ping"} {"type":"ping"}`, Error{Code: CodeBadJSON}},
		{`{"type":"ping","id":"a",}`, Error{Code: CodeBadJSON}},
		{`{"type":"ping","x":01}`, Error{Code: CodeBadJSON}},
		{"{\"type\":\"publish\",\"data\":\"\xff\"}", Error{Code: CodeBadJSON}},
		{"{\"type\":\"ping\",\"\xc0\x80\":1}", Error{Code: CodeBadJSON}},
		{"{\"type\":\"publish\",\"data\":\"\xed\xa0\x80\"}", Error{Code: CodeBadJSON}},
		{"\ufeff{\"type\":\"ping\"}", Error{Code: CodeBadJSON}},
		{"{\"type\":\"publish\",\"data\":\"a\nb\"}", Error{Code: CodeBadJSON}},
		{nested(MaxDepth), Error{Code: CodeBadJSON}},
		{nested(1 << 20), Error{Code: CodeBadJSON}},

		{`{"type":"shout","id":"a","room":"r"}`, Error{ID: "a", Room: "r", Code: CodeBadCommand, Message: "type"}},
		{`{"type":"Publish","data":1}`, Error{Code: CodeBadCommand, Message: "type"}},
		{`{"type":"","data":1}`, Error{Code: CodeBadCommand, Message: "type"}},
		{`{}`, Error{Code: CodeBadRequest, Message: "type: missing"}},
		{`{"type":null,"id":"a"}`, Error{ID: "a", Code: CodeBadRequest, Message: "type: missing"}},
		{`{"type":7,"id":"a"}`, Error{ID: "a", Code: CodeBadRequest, Message: "type"}},
		{`{"type":"ping","id":7}`, Error{Code: CodeBadRequest, Message: "id"}},
		{`{"type":"ping","id":""}`, Error{Code: CodeBadRequest, Message: "id"}},
		{`{"type":"ping","id":"a\nb"}`, Error{Code: CodeBadRequest, Message: "id"}},
		{`{"type":"ping","id":"` + strings.Repeat("a", 65) + `"}`, Error{Code: CodeBadRequest, Message: "id"}},
		{`{"type":"presence","id":"a","room":""}`, Error{ID: "a", Code: CodeBadRequest, Message: "room"}},
		{`{"type":"presence","id":"a","room":"x/y"}`, Error{ID: "a", Code: CodeBadRequest, Message: "room"}},
		{`{"type":"presence","id":"a","room":{}}`, Error{ID: "a", Code: CodeBadRequest, Message: "room"}},

		{`{"type":"ping","id":"a","type":"ping"}`, Error{ID: "a", Code: CodeBadRequest, Message: "type: given twice"}},
		{`{"type":"ping","id":"a","id":"a"}`, Error{Code: CodeBadRequest, Message: "id: given twice"}},
		{`{"type":"ping","id":null,"id":"a"}`, Error{Code: CodeBadRequest, Message: "id: given twice"}},
		{`{"type":"publish","id":"a","data":1,"data":1}`, Error{ID: "a", Code: CodeBadRequest, Message: "data: given twice"}},
		{`{"type":"publish","id":"a","data":1,"\u0064ata":1}`, Error{ID: "a", Code: CodeBadRequest, Message: "data: given twice"}},

		{`{"type":"publish","id":"a","room":"r"}`, Error{ID: "a", Room: "r", Code: CodeBadRequest, Message: "data: missing"}},
		{`{"type":"publish","data":1,"data_base64":""}`, Error{Code: CodeBadRequest, Message: "data: given as well"}},
		{`{"type":"publish","data":null,"data_base64":""}`, Error{Code: CodeBadRequest, Message: "data: given as well"}},
		{`{"type":"publish","data_base64":1}`, Error{Code: CodeBadRequest, Message: "data_base64"}},
		{`{"type":"publish","data_base64":"AAEC/w"}`, Error{Code: CodeBadRequest, Message: "data_base64"}},
		{`{"type":"publish","data_base64":"AAEC_w=="}`, Error{Code: CodeBadRequest, Message: "data_base64"}},
		{`{"type":"publish","data_base64":"AAEC/x=="}`, Error{Code: CodeBadRequest, Message: "data_base64"}},
		{`{"type":"publish","data_base64":"AAEC\n/w=="}`, Error{Code: CodeBadRequest, Message: "data_base64"}},
		{`{"type":"publish","data":1,"key":1}`, Error{Code: CodeBadRequest, Message: "key: must be a string"}},
		{`{"type":"publish","data":1,"key":"` + strings.Repeat("ü", 33) + `"}`, Error{Code: CodeBadRequest, Message: "key: must not be longer"}},
		{`{"type":"publish","data":1,"to":"bob"}`, Error{Code: CodeBadRequest, Message: "to"}},
		{`{"type":"publish","data":1,"to":{}}`, Error{Code: CodeBadRequest, Message: "to"}},
		{`{"type":"publish","data":1,"to":{"User":"bob"}}`, Error{Code: CodeBadRequest, Message: "to"}},
		{`{"type":"publish","data":1,"to":{"user":""}}`, Error{Code: CodeBadRequest, Message: "to"}},
		{`{"type":"publish","data":1,"to":{"user":1}}`, Error{Code: CodeBadRequest, Message: "to"}},
		{`{"type":"publish","data":1,"to":{"user":"a","client":"b"}}`, Error{Code: CodeBadRequest, Message: "to"}},
		{`{"type":"publish","data":1,"to":{"user":"a","user":"b"}}`, Error{Code: CodeBadRequest, Message: "to"}},

		{`{"type":"join"}`, Error{Code: CodeBadRequest, Message: "room: missing"}},
		{`{"type":"join","room":"r","since":7}`, Error{Room: "r", Code: CodeBadRequest, Message: "since"}},
		{`{"type":"join","room":"r","since":"garbage"}`, Error{Room: "r", Code: CodeBadRequest, Message: "since"}},
		{`{"type":"join","room":"r","history":-1}`, Error{Room: "r", Code: CodeBadRequest, Message: "history"}},
		{`{"type":"join","room":"r","history":1001}`, Error{Room: "r", Code: CodeBadRequest, Message: "history"}},
		{`{"type":"join","room":"r","history":"5"}`, Error{Room: "r", Code: CodeBadRequest, Message: "history"}},
		{`{"type":"leave"}`, Error{Code: CodeBadRequest, Message: "room: missing"}},
		{`{"type":"typing"}`, Error{Code: CodeBadRequest, Message: "on: missing"}},
		{`{"type":"typing","on":null}`, Error{Code: CodeBadRequest, Message: "on: missing"}},
		{`{"type":"typing","on":"true"}`, Error{Code: CodeBadRequest, Message: "on"}},
		{`{"type":"history","limit":0}`, Error{Code: CodeBadRequest, Message: "limit"}},
		{`{"type":"history","limit":101}`, Error{Code: CodeBadRequest, Message: "limit"}},
		{`{"type":"history","limit":5.5}`, Error{Code: CodeBadRequest, Message: "limit"}},
		{`{"type":"history","before":-1}`, Error{Code: CodeBadRequest, Message: "before"}},
		{`{"type":"history","before":18446744073709551616}`, Error{Code: CodeBadRequest, Message: "before"}},
	} {
		got := Decode([]byte(tc.in), &c)
		require.NotNil(t, got, "%.100s", tc.in)
		require.NotEmpty(t, got.Message)
		require.True(t, strings.HasPrefix(got.Message, tc.want.Message), "got %q, want %q", got.Message, tc.want.Message)
		tc.want.Message = got.Message
		require.Equal(t, tc.want, *got, "%.100s", tc.in)
	}
}

// What a broker keeps is counted by its length, so a payload holds little more.
func TestDecodeKeepsNoSpareRoom(t *testing.T) {
	pad := strings.Repeat(" ", 1<<16)
	for _, in := range []string{
		`{"type":"publish","data":[` + pad + `1]}`,
		`{"type":"publish","data":"` + strings.Repeat(`\u0041`, 1000) + `"}`,
		`{"type":"publish","data":1,"x":"` + pad + `"}`,
		`{"type":"publish","data_base64":"` + strings.Repeat("AAAA", 1000) + `"}`,
	} {
		var c Command
		require.Nil(t, Decode([]byte(in), &c))
		require.LessOrEqual(t, cap(c.Data), len(c.Data)*3/2+64)
	}
}

func TestDecodeKeepsNothingOfItsInput(t *testing.T) {
	in := []byte(`{"type":"publish","id":"abc","room":"r","data":"hello","to":{"user":"u"}}`)
	var c Command
	require.Nil(t, Decode(in, &c))
	clear(in)
	require.Equal(t, "publish abc r hello u", strings.Join([]string{c.Type, c.ID, c.Room, string(c.Data), c.To.User}, " "))
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"type":"publish","id":"m1","data":"hello"}`,
		`{"type":"publish","data":{"a":[1e400,null]},"to":{"user":"u"}}`,
		`{"type":"publish","data_base64":"AAEC\/w=="}`,
		`{"type":"publish","data":"\ud83d\ude00\ud83d"}`,
		`{"type":"join","room":"r","since":"` + testCursor + `","history":5}`,
		`{"type":"leave","room":"r"}`, `{"type":"typing","on":true}`, `{"type":"presence"}`,
		`{"type":"history","before":5,"limit":7}`, `{"type":"ping","id":"x"}`, `{"type":"ping","id":1}`, `{}`, `[]`, "{\"\xff\":1}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		var c Command
		e := Decode(p, &c)
		object := json.Valid(p) && utf8.Valid(p) && p[skipSpace(p, 0)] == '{' && depth(p) <= MaxDepth
		if e != nil {
			require.Equal(t, !object, e.Code == CodeBadJSON, "%v for %q", e, p)
			require.Contains(t, []string{CodeBadJSON, CodeBadCommand, CodeBadRequest}, e.Code)
			require.NotEmpty(t, e.Message)
			require.True(t, json.Valid(AppendError(nil, e)))
			return
		}
		require.True(t, object, "%q is taken", p)
		require.Contains(t, commands, c.Type)
		if c.ID != "" {
			require.NoError(t, ValidID(c.ID))
		}
		if c.Room != "" {
			require.NoError(t, ValidRoom(c.Room))
		}
		switch c.Kind {
		case broker.KindText:
			require.True(t, utf8.Valid(c.Data))
		case broker.KindJSON:
			require.True(t, json.Valid(c.Data) && c.Data[0] != '"')
		case broker.KindBinary:
		default:
			require.NotEqual(t, CommandPublish, c.Type)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	for _, bench := range []struct{ name, in string }{
		{"text", `{"type":"publish","id":"Jb1zrTn8GkM0","data":"` + strings.Repeat("x", 128) + `"}`},
		{"json", `{"type":"publish","id":"Jb1zrTn8GkM0","data":{"text":"` + strings.Repeat("x", 100) + `","n":[1,2,3]}}`},
		{"ping", `{"type":"ping"}`},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(bench.in)))
			in := []byte(bench.in)
			var c Command
			for b.Loop() {
				if err := Decode(in, &c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
