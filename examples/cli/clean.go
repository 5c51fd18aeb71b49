package main

import (
	"strings"
	"unicode"
)

// clean makes text from others fit for a terminal: line breaks are indented, so that
// nobody can forge a line, and whatever could move the cursor, colour, hide or
// turn text around (control characters, escape sequences, bidi overrides) is replaced.
func clean(s string) string {
	s = strings.TrimRight(strings.ReplaceAll(s, "\r\n", "\n"), "\n")
	var b strings.Builder
	atBreak := false // the spaces that a server put behind a line break are ours to put
	for _, r := range s {
		switch {
		case isBreak(r):
			b.WriteString("\n    ")
			atBreak = true
			continue
		case r == '\t':
			r = ' '
		case !isShown(r):
			r = unicode.ReplacementChar
		}
		if atBreak && r == ' ' {
			continue
		}
		atBreak = false
		b.WriteRune(r)
	}
	return b.String()
}

// cleanName is clean for what has its place inside a line.
func cleanName(s string) string {
	return strings.Map(func(r rune) rune {
		if isBreak(r) || !isShown(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// isBreak tells the characters at which some terminal begins a new line.
func isBreak(r rune) bool {
	switch r {
	case '\n', '\r', '\v', '\f', 0x85, 0x2028, 0x2029:
		return true
	}
	return false
}

// isShown tells letters, marks, numbers, symbols and spaces, and the two joiners that
// emoji and some scripts are written with, from everything else.
func isShown(r rune) bool {
	return unicode.IsGraphic(r) || r == 0x200C || r == 0x200D
}

// wide holds what takes two columns: the wide and full-width blocks of Unicode's
// East Asian Width, rounded up. To take a narrow one for wide is harmless: a little
// less of a long line is shown.
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x1100, 0x115F, 1}, {0x231A, 0x231B, 1}, {0x23E9, 0x23F3, 1}, {0x25FD, 0x27BF, 1},
		{0x2B1B, 0x2B55, 1}, {0x2E80, 0xA4CF, 1}, {0xA960, 0xA97F, 1}, {0xAC00, 0xD7A3, 1},
		{0xF900, 0xFAFF, 1}, {0xFE10, 0xFE6F, 1}, {0xFF01, 0xFF60, 1}, {0xFFE0, 0xFFE6, 1},
	},
	R32: []unicode.Range32{
		{0x16FE0, 0x18DFF, 1}, {0x1AFF0, 0x1B2FF, 1}, {0x1F000, 0x1FAFF, 1}, {0x20000, 0x3FFFD, 1},
	},
}

// columns is how wide a terminal shows s.
func columns(s []rune) int {
	n := 0
	for _, r := range s {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		case unicode.Is(wide, r):
			n += 2
		default:
			n++
		}
	}
	return n
}
