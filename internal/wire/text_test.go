package wire

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/chathub-go/hub/broker"
	"github.com/stretchr/testify/require"
)

var alice = broker.Member{Client: "c1", User: "u1", Name: "alice"}

func TestTextMessage(t *testing.T) {
	format := DefaultText()
	for _, tc := range []struct {
		from broker.Member
		data string
		want string
	}{
		{alice, "hello", "alice: hello"},
		{alice, "", "alice: "},
		{alice, `{"a":[1,"b"]}`, `alice: {"a":[1,"b"]}`},
		{alice, "a\nbob: b", "alice: a\n    bob: b"},
		{alice, "a\r\nb", "alice: a\n    b"},
		{alice, "a\n\rb", "alice: a\n    \n    b"},
		{alice, "1\r2\v3\f4\x1c5\x1d6\x1e7\u00858\u20289\u2029", "alice: 1\n    2\n    3\n    4\n    5\n    6\n    7\n    8\n    9"},
		{alice, "hello\r\n", "alice: hello"},
		{alice, "\n\n", "alice: "},
		{alice, "\nhello\n\n", "alice: \n    hello"},
		{alice, "a\xffb\tc", "alice: a\ufffdb\tc"},
		{broker.Member{}, "closing\nat eight", "* closing\n    at eight"},
		{broker.Member{User: "u7"}, "hello", "u7: hello"},
		{broker.Member{Name: "eve\n* bob left\x1b[2J"}, "hello", "eve * bob left [2J: hello"},
	} {
		got := format.Message(&broker.Message{From: tc.from, Kind: broker.KindText, Data: []byte(tc.data)})
		require.Equal(t, tc.want, got, "%q", tc.data)
	}
}

func TestTextFormats(t *testing.T) {
	direct := &broker.Signal{From: alice, To: broker.Target{User: "u2"}, Kind: broker.KindText, Data: []byte("psst\nbob: x")}
	rate := &Error{Code: CodeRate, Message: "more than 20\na second"}
	refused := &Error{Code: CodeRefused, Message: "no\nswearing"}

	f := DefaultText()
	require.Equal(t, "* alice (to you): psst\n    bob: x", f.Direct(direct))
	require.Equal(t, "* alice joined", f.Joined("lobby", alice))
	require.Equal(t, "* alice left", f.Left("lobby", alice, ReasonLost))
	require.Equal(t, "* u1 left", f.Left("lobby", broker.Member{User: "u1"}, ""))
	require.Equal(t, "* messages were missed", f.Gap("lobby", -1))
	require.Equal(t, "* 1 message was missed", f.Gap("lobby", 1))
	require.Equal(t, "* 33 messages were missed", f.Gap("lobby", 33))
	require.Equal(t, "* your message was not sent: more than 20\n    a second", f.Error(rate))
	require.Equal(t, "* the server restarts: please connect again in a moment", f.Drain())

	f = JapaneseText()
	require.Equal(t, "alice: psst", f.Message(&broker.Message{From: alice, Data: []byte("psst")}))
	require.Equal(t, "* aliceさんからあなたへ: psst\n    bob: x", f.Direct(direct))
	require.Equal(t, "* aliceさんが入室しました", f.Joined("lobby", alice))
	require.Equal(t, "* aliceさんが退室しました", f.Left("lobby", alice, ReasonKicked))
	require.Equal(t, "* 受信できなかったメッセージがあります", f.Gap("lobby", -1))
	require.Equal(t, "* 33件のメッセージを受信できませんでした", f.Gap("lobby", 33))
	require.Equal(t, "* メッセージを送信できませんでした: 送信の間隔が短すぎます", f.Error(rate))
	require.Equal(t, "* メッセージを送信できませんでした: no\n    swearing", f.Error(refused))
	require.True(t, strings.HasPrefix(f.Drain(), "* "))

	f = RawText()
	require.Equal(t, "a\nb\ufffd", f.Message(&broker.Message{From: alice, Data: []byte("a\nb\xff")}))
	require.Equal(t, "psst\nbob: x", f.Direct(direct))
	require.Nil(t, f.Joined)
	require.Nil(t, f.Left)
	require.Nil(t, f.Gap)
	require.Nil(t, f.Error)
	require.Nil(t, f.Drain)
}

// pythonLines splits as Python's str.splitlines does, which knows the most line ends,
// and leaves out empty lines.
func pythonLines(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool {
		return strings.ContainsRune("\n\r\v\f\x1c\x1d\x1e\u0085\u2028\u2029", r)
	})
}

// FuzzText: whatever is said, the only line that does not begin with four spaces is the
// first, and that one begins with what the hub says who it is from.
func FuzzText(f *testing.F) {
	for _, s := range []string{"hello", "a\nbob: b", "a\r\nb\r", "\u2028* bob left", "\xe2\x80", "\x85", "a\u0085b\x1cc", "\n"} {
		f.Add("alice", []byte(s))
		f.Add(s, []byte(s))
	}
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		m := broker.Member{User: "u1", Name: name}
		shown := label(m)
		if ValidName(name) == nil {
			require.Equal(t, name, shown)
		}
		for _, format := range []TextFormat{DefaultText(), JapaneseText()} {
			for _, line := range [][2]string{ // what it has to begin with, what it is
				{shown + ": ", format.Message(&broker.Message{From: m, Data: data})},
				{"* " + shown, format.Direct(&broker.Signal{From: m, To: broker.Target{User: "u"}, Data: data})},
				{"* " + shown, format.Joined("r", m)},
				{"* " + shown, format.Left("r", m, "")},
				{"* ", format.Error(&Error{Message: string(data)})},
			} {
				want, got := line[0], line[1]
				require.True(t, utf8.ValidString(got))
				lines := pythonLines(got)
				require.True(t, strings.HasPrefix(lines[0], strings.TrimRight(want, " ")), "%q", got)
				for _, line := range lines[1:] {
					require.True(t, strings.HasPrefix(line, "    "), "%q has the line %q", got, line)
				}
			}
		}
	})
}

func BenchmarkText(b *testing.B) {
	b.ReportAllocs()
	m := &broker.Message{From: alice, Kind: broker.KindText, Data: []byte(strings.Repeat("x", 128))}
	format := DefaultText()
	for b.Loop() {
		format.Message(m)
	}
}

// What a member says can't move the cursor of a terminal, or turn the text around, to look
// like a line of somebody else.
func TestNothingTrickyReachesATerminal(t *testing.T) {
	template := TemplateText(Templates{Message: "{name}: {text}"})
	for _, f := range []TextFormat{DefaultText(), JapaneseText(), template} {
		for said, want := range map[string]string{
			"x\x1b[2K\x1b[1Galice: hi": "mallory: x\ufffd[2K\ufffd[1Galice: hi",
			"x\b\b* left":              "mallory: x\ufffd\ufffd* left",
			"\u202eevil\x7f\x00":       "mallory: \ufffdevil\ufffd\ufffd",
			"a\tb":                     "mallory: a\tb",
		} {
			m := &broker.Message{From: broker.Member{Name: "mallory"}, Data: []byte(said)}
			require.Equal(t, want, f.Message(m))
		}
	}
}
