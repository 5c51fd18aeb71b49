package main

import (
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

func TestClean(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"words", "hello, 世界", "hello, 世界"},
		{"family emoji", "👨‍👩‍👧", "👨‍👩‍👧"},
		{"ideographic space", "日本　語", "日本　語"},
		{"escape sequence", "\x1b[2J\x1b]0;title\x07", "\uFFFD[2J\uFFFD]0;title\uFFFD"},
		{"C1", "\u009b2J", "\uFFFD2J"},
		{"delete and backspace", "abc\x08\x7f", "abc\uFFFD\uFFFD"},
		{"bidi override", "\u202Eevil\u2066", "\uFFFDevil\uFFFD"},
		{"bidi mark", "a\u200F\u061C", "a\uFFFD\uFFFD"},
		{"tab", "a\tb", "a b"},
		{"line feed", "hi\nbob: forged", "hi\n    bob: forged"},
		{"every line break", "a\rb\r\nc\vd\fe\u0085f\u2028g\u2029h", "a\n    b\n    c\n    d\n    e\n    f\n    g\n    h"},
		{"indented by the server", "alice: a\n    b", "alice: a\n    b"},
		{"line feed at the end", "hi\r\n\n", "hi"},
		{"not UTF-8", "a\xffb", "a\uFFFDb"},
		{"invisible", "a\u200Bb\uFEFF", "a\uFFFDb\uFFFD"},
	} {
		t.Run(tc.name, func(t *testing.T) { require.Equal(t, tc.want, clean(tc.in)) })
	}
	require.Equal(t, "a\uFFFDb\uFFFD", cleanName("a\nb\x1b"))
}

func FuzzClean(f *testing.F) {
	f.Add("a\r\n\x1b[1mb\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		line := ""
		for _, r := range clean(s) {
			switch {
			case r == '\n':
				line = "\n"
			case line != "" && len(line) < 5: // what follows a line break is four spaces
				if r != ' ' {
					t.Fatalf("clean(%q): a line begins with %q", s, r)
				}
				line += " "
			case unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r):
				t.Fatalf("clean(%q) has %q", s, r)
			default:
				line = ""
			}
		}
	})
}
