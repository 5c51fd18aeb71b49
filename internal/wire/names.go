package wire

import (
	"crypto/sha256"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxName is the longest name, room name and command id, in bytes.
const MaxName = 64

// ValidName tells whether a client may have this name: 1 to 64 bytes of printable
// UTF-8, no ':', no '*' first, no space at either end. So no name can be taken for a
// line of the plain door. The error goes on after the name of what is checked.
func ValidName(s string) error {
	if err := validLabel(s); err != nil {
		return err
	}
	switch {
	case strings.Contains(s, ":"):
		return errors.New("must not contain ':'")
	case s[0] == '*':
		return errors.New("must not begin with '*'")
	}
	return validEnds(s)
}

// ValidRoom tells whether a room may have this name: 1 to 64 bytes of printable UTF-8,
// no '/', no space at either end, and not "." or "..", which no URL can reach.
func ValidRoom(s string) error {
	if err := validLabel(s); err != nil {
		return err
	}
	switch {
	case strings.Contains(s, "/"):
		return errors.New("must not contain '/'")
	case s == "." || s == "..":
		return errors.New("must not be '.' or '..'")
	}
	return validEnds(s)
}

// ValidID tells whether a command may have this id: 1 to 64 bytes of printable UTF-8.
func ValidID(s string) error { return validLabel(s) }

// MaxKey is the longest key of a message, in bytes.
const MaxKey = 64

// ValidKey tells whether a message may have this key: at most 64 bytes of UTF-8. "" is none.
func ValidKey(s string) error {
	switch {
	case len(s) > MaxKey:
		return errors.New("must not be longer than 64 bytes")
	case !utf8.ValidString(s):
		return errors.New("must be UTF-8")
	}
	return nil
}

func validLabel(s string) error {
	if s == "" {
		return errors.New("must not be empty")
	}
	if len(s) > MaxName {
		return errors.New("must not be longer than 64 bytes")
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unprintable) {
		return errors.New("must be printable UTF-8")
	}
	return nil
}

func validEnds(s string) error {
	if s[0] == ' ' || s[len(s)-1] == ' ' {
		return errors.New("must not begin or end with a space")
	}
	return nil
}

// unprintable is true for what [unicode.IsPrint] is not (control characters, the
// format characters that hide or turn text around, all spaces but ' ') and for the
// characters that count as letters or symbols and show nothing.
func unprintable(r rune) bool {
	switch r {
	case '\u115f', '\u1160', '\u3164', '\uffa0', '\u2800': // Hangul fillers, blank Braille
		return true
	}
	return !unicode.IsPrint(r)
}

// guestLetters has no two that look alike.
const guestLetters = "abcdefghjkmnpqrstuvwxyz23456789"

// GuestName makes up a name for a user: "guest-" and five letters and digits, the same
// whenever that user comes back.
func GuestName(user string) string {
	sum := sha256.Sum256([]byte("hub name " + user))
	name := []byte("guest-")
	for _, b := range sum[:5] {
		name = append(name, guestLetters[int(b)%len(guestLetters)])
	}
	return string(name)
}
