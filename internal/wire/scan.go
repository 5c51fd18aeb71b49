package wire

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// These functions walk JSON (RFC 8259). Each takes the place of a value's first byte
// and returns the place after its last one, or -1 where the text is not JSON or nested
// deeper than depth. They don't look at UTF-8. A fuzz test holds them to encoding/json.

func skipSpace(p []byte, i int) int {
	for i < len(p) && (p[i] == ' ' || p[i] == '\n' || p[i] == '\t' || p[i] == '\r') {
		i++
	}
	return i
}

func skipValue(p []byte, i, depth int) int {
	if i >= len(p) {
		return -1
	}
	switch c := p[i]; {
	case c == '"':
		return skipString(p, i)
	case c == '{':
		return skipObject(p, i, depth, nil)
	case c == '[':
		return skipArray(p, i, depth)
	case c == 't':
		return skipWord(p, i, "true")
	case c == 'f':
		return skipWord(p, i, "false")
	case c == 'n':
		return skipWord(p, i, "null")
	default:
		return skipNumber(p, i)
	}
}

// skipObject calls field, where not nil, for each key (a string with its quotes and
// escapes) and its value, in their order.
func skipObject(p []byte, i, depth int, field func(key, value []byte)) int {
	if depth == 0 {
		return -1
	}
	i = skipSpace(p, i+1)
	if i < len(p) && p[i] == '}' {
		return i + 1
	}
	for i < len(p) && p[i] == '"' {
		key := i
		keyEnd := skipString(p, i)
		if keyEnd < 0 {
			return -1
		}
		i = skipSpace(p, keyEnd)
		if i >= len(p) || p[i] != ':' {
			return -1
		}
		value := skipSpace(p, i+1)
		end := skipValue(p, value, depth-1)
		if end < 0 {
			return -1
		}
		if field != nil {
			field(p[key:keyEnd], p[value:end])
		}
		i = skipSpace(p, end)
		if i >= len(p) || p[i] != ',' && p[i] != '}' {
			return -1
		}
		if p[i] == '}' {
			return i + 1
		}
		i = skipSpace(p, i+1)
	}
	return -1
}

func skipArray(p []byte, i, depth int) int {
	if depth == 0 {
		return -1
	}
	i = skipSpace(p, i+1)
	if i < len(p) && p[i] == ']' {
		return i + 1
	}
	for {
		if i = skipValue(p, i, depth-1); i < 0 {
			return -1
		}
		i = skipSpace(p, i)
		if i >= len(p) || p[i] != ',' && p[i] != ']' {
			return -1
		}
		if p[i] == ']' {
			return i + 1
		}
		i = skipSpace(p, i+1)
	}
}

func skipString(p []byte, i int) int {
	for i++; i < len(p); i++ {
		switch c := p[i]; {
		case c == '"':
			return i + 1
		case c < ' ':
			return -1
		case c == '\\':
			i++
			if i >= len(p) || bytes.IndexByte([]byte(`"\/bfnrtu`), p[i]) < 0 {
				return -1
			}
			if p[i] == 'u' {
				if hex4(p[i+1:]) < 0 {
					return -1
				}
				i += 4
			}
		}
	}
	return -1
}

func skipWord(p []byte, i int, word string) int {
	if !bytes.HasPrefix(p[i:], []byte(word)) {
		return -1
	}
	return i + len(word)
}

func skipNumber(p []byte, i int) int {
	if i < len(p) && p[i] == '-' {
		i++
	}
	if i < len(p) && p[i] == '0' {
		i++
	} else if i = skipDigits(p, i); i < 0 {
		return -1
	}
	if i < len(p) && p[i] == '.' {
		if i = skipDigits(p, i+1); i < 0 {
			return -1
		}
	}
	if i < len(p) && (p[i] == 'e' || p[i] == 'E') {
		i++
		if i < len(p) && (p[i] == '+' || p[i] == '-') {
			i++
		}
		return skipDigits(p, i)
	}
	return i
}

// skipDigits wants at least one.
func skipDigits(p []byte, i int) int {
	start := i
	for i < len(p) && '0' <= p[i] && p[i] <= '9' {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// hex4 is the number that the first four bytes of p write in hexadecimal, or -1.
func hex4(p []byte) rune {
	if len(p) < 4 {
		return -1
	}
	var r rune
	for _, c := range p[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// escapedRune reads the \u escape, or the two of a surrogate pair, that p begins with.
// An unpaired surrogate is U+FFFD.
func escapedRune(p []byte) (r rune, size int) {
	r = hex4(p[2:])
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	if bytes.HasPrefix(p[6:], []byte(`\u`)) {
		if pair := utf16.DecodeRune(r, hex4(p[8:])); pair != utf8.RuneError {
			return pair, 12
		}
	}
	return utf8.RuneError, 6
}

// appendUnquoted appends the text of a valid JSON string, quotes included in s.
func appendUnquoted(dst, s []byte) []byte {
	s = s[1 : len(s)-1]
	for {
		i := bytes.IndexByte(s, '\\')
		if i < 0 {
			return append(dst, s...)
		}
		dst = append(dst, s[:i]...)
		size := 2
		switch c := s[i+1]; c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			var r rune
			r, size = escapedRune(s[i:])
			dst = utf8.AppendRune(dst, r)
		default: // " \ /
			dst = append(dst, c)
		}
		s = s[i+size:]
	}
}

// appendCompact appends a valid JSON value without the space between its parts. All
// else stays as it is, but for escapes of unpaired surrogates, at which many parsers
// fail: they become \ufffd.
func appendCompact(dst, v []byte) []byte {
	for i := 0; i < len(v); {
		switch v[i] {
		case ' ', '\n', '\t', '\r':
			i++
		case '"':
			end := skipString(v, i)
			dst = appendPaired(dst, v[i:end])
			i = end
		default:
			dst = append(dst, v[i])
			i++
		}
	}
	return dst
}

// appendPaired appends a valid JSON string as it is, but for unpaired surrogates.
func appendPaired(dst, s []byte) []byte {
	for {
		i := bytes.IndexByte(s, '\\')
		if i < 0 {
			return append(dst, s...)
		}
		dst = append(dst, s[:i]...)
		size := 2
		if s[i+1] == 'u' {
			var r rune
			if r, size = escapedRune(s[i:]); r == utf8.RuneError {
				dst = append(dst, `\ufffd`...)
				s = s[i+size:]
				continue
			}
		}
		dst = append(dst, s[i:i+size]...)
		s = s[i+size:]
	}
}
