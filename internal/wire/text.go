package wire

import (
	"strconv"
	"strings"
	"unicode"

	"github.com/chathub-go/hub/broker"
)

// A TextFormat says what plain-text clients see. Each function returns the text frame
// for one event; where it is nil, or returns "", nothing is sent. The functions may be
// called concurrently, must not block, and must not change what they are given.
type TextFormat struct {
	// Message is for a message of text or JSON. A binary one goes out as a binary
	// frame and does not pass here.
	Message func(m *broker.Message) string
	// Direct is for a direct message of text or JSON. What the service itself signals
	// does not pass here: its bytes are sent as they are.
	Direct func(s *broker.Signal) string
	Joined func(room string, m broker.Member) string
	// Left gets one of the words of left.reason in docs/protocol.md, "" for a clean
	// leave.
	Left func(room string, m broker.Member, reason string) string
	// Gap says that messages were missed; missed is -1 where it is not known how many.
	Gap func(room string, missed int) string
	// Error says why the client's own message was not sent.
	Error func(e *Error) string
	// Drain says that the server will close the connection soon.
	Drain func() string
}

// DefaultText is the format of the plain door where no other is set: "alice: hello" for
// what people say, and lines that begin with "* " for all else. Line breaks inside a
// message are followed by four spaces, so that nobody can forge a line; those at its end
// are dropped.
func DefaultText() TextFormat {
	return TextFormat{
		Message: textMessage,
		Direct:  func(s *broker.Signal) string { return said(s.From, " (to you)", s.Data) },
		Joined:  func(_ string, m broker.Member) string { return "* " + label(m) + " joined" },
		Left:    func(_ string, m broker.Member, _ string) string { return "* " + label(m) + " left" },
		Gap: func(_ string, missed int) string {
			switch {
			case missed < 0:
				return "* messages were missed"
			case missed == 1:
				return "* 1 message was missed"
			}
			return "* " + strconv.Itoa(missed) + " messages were missed"
		},
		Error: func(e *Error) string { return "* your message was not sent: " + indent(e.Message) },
		Drain: func() string { return "* the server restarts: please connect again in a moment" },
	}
}

// JapaneseText is DefaultText with its own lines in Japanese.
func JapaneseText() TextFormat {
	f := DefaultText()
	f.Direct = func(s *broker.Signal) string { return said(s.From, "さんからあなたへ", s.Data) }
	f.Joined = func(_ string, m broker.Member) string { return "* " + label(m) + "さんが入室しました" }
	f.Left = func(_ string, m broker.Member, _ string) string {
		return "* " + label(m) + "さんが退室しました"
	}
	f.Gap = func(_ string, missed int) string {
		if missed < 0 {
			return "* 受信できなかったメッセージがあります"
		}
		return "* " + strconv.Itoa(missed) + "件のメッセージを受信できませんでした"
	}
	f.Error = func(e *Error) string {
		why, ok := japaneseErrors[e.Code]
		if !ok {
			why = indent(e.Message)
		}
		return "* メッセージを送信できませんでした: " + why
	}
	f.Drain = func() string {
		return "* サーバーが再起動します。しばらくしてから接続し直してください"
	}
	return f
}

var japaneseErrors = map[string]string{
	CodeTooLarge:    "メッセージが大きすぎます",
	CodeRate:        "送信の間隔が短すぎます",
	CodeBusy:        "サーバーが混み合っています",
	CodeForbidden:   "許可されていません",
	CodeDraining:    "サーバーが停止しようとしています",
	CodeInternal:    "サーバーでエラーが発生しました",
	CodeUnavailable: "サーバーが一時的に利用できません",
}

// RawText sends the bytes of messages alone and nothing else, for services with a wire
// format of their own.
func RawText() TextFormat {
	return TextFormat{
		Message: func(m *broker.Message) string { return strings.ToValidUTF8(string(m.Data), "\ufffd") },
		Direct:  func(s *broker.Signal) string { return strings.ToValidUTF8(string(s.Data), "\ufffd") },
	}
}

func textMessage(m *broker.Message) string { return said(m.From, "", m.Data) }

// said is a line of what m says. note tells a direct message, whose line begins with "* "
// as no name can. What the service itself says has no name.
func said(m broker.Member, note string, data []byte) string {
	text := indent(string(data))
	name := label(m)
	switch {
	case name == "":
		return "* " + text
	case note != "":
		return "* " + name + note + ": " + text
	}
	return name + ": " + text
}

// label is what to call m: its name, or its user where it has none, on one line. A
// service may give its members names that ValidName would not let pass.
func label(m broker.Member) string {
	s := m.Name
	if s == "" {
		s = m.User
	}
	return strings.Map(func(r rune) rune {
		if lineBreak(r) || tricky(r) {
			return ' '
		}
		return r
	}, s)
}

// lineBreak is true for what Unicode, or Python's splitlines, takes for the end of a line.
func lineBreak(r rune) bool {
	switch r {
	case '\n', '\v', '\f', '\r', '\x1c', '\x1d', '\x1e', '\u0085', '\u2028', '\u2029':
		return true
	}
	return false
}

// tricky is true for what makes a terminal show something else than what is written:
// control characters other than line breaks and the tab, and those that turn the
// direction of text (UAX #9).
func tricky(r rune) bool {
	switch {
	case r == '\t' || lineBreak(r):
		return false
	case unicode.IsControl(r):
		return true
	}
	return r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' || r == '\u200e' || r == '\u200f' || r == '\u061c'
}

// indent makes s valid UTF-8 that a terminal can be given: it drops the line breaks at
// its end, writes each of the others as "\n" and four spaces, and puts U+FFFD in the place
// of what is tricky.
func indent(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if strings.IndexFunc(s, func(r rune) bool { return lineBreak(r) || tricky(r) }) < 0 {
		return s
	}
	s = strings.TrimRightFunc(strings.ReplaceAll(s, "\r\n", "\n"), lineBreak)
	var b strings.Builder
	for _, r := range s {
		switch {
		case lineBreak(r):
			b.WriteString("\n    ")
		case tricky(r):
			b.WriteRune('\ufffd')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
