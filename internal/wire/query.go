package wire

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/chathub-go/hub/broker"
)

// A Query is what a client says of itself in the URL.
type Query struct {
	Name     string // "" where not given
	Session  string // "" where not given
	Since    broker.Cursor
	HasSince bool
	History  int // -1 where not given
	Ordered  bool
}

// ParseQuery reads a URL's query. Parameters that it does not know are ignored, and an
// empty one counts as not given; one that is given twice is an error. Parameters that do
// not count are to be deleted first.
func ParseQuery(v url.Values) (Query, error) {
	q := Query{History: -1}
	for key, values := range v {
		if len(values) != 1 {
			switch key {
			case "name", "session", "since", "history", "ordered":
				return q, fmt.Errorf("%s: given more than once", key)
			}
			continue
		}
		if values[0] == "" {
			continue
		}
		if err := q.set(key, values[0]); err != nil {
			return q, fmt.Errorf("%s: %w", key, err)
		}
	}
	return q, nil
}

func (q *Query) set(key, value string) (err error) {
	switch key {
	case "name":
		q.Name = value
		return ValidName(value)
	case "session":
		q.Session = value
		return validSession(value)
	case "since":
		q.Since, err = broker.ParseCursor(value)
		q.HasSince = true
		return err
	case "history":
		q.History, err = strconv.Atoi(value)
		if err != nil || q.History < 0 || q.History > MaxJoinHistory {
			return fmt.Errorf("not a number from 0 to %d", MaxJoinHistory)
		}
	case "ordered":
		if value != "1" && value != "0" {
			return fmt.Errorf("neither 0 nor 1")
		}
		q.Ordered = value == "1"
	}
	return nil
}

// GuestPrefix begins the user of every guest.
const GuestPrefix = "guest:"

// sessionBytes is a session token's size: 128 bits can't be guessed.
const sessionBytes = 16

// NewSession returns a secret token that makes a guest the same guest again.
func NewSession() string {
	var b [sessionBytes]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func validSession(s string) error {
	if b, err := base64.RawURLEncoding.Strict().DecodeString(s); err != nil || len(b) != sessionBytes {
		return fmt.Errorf("not a token that a welcome gave")
	}
	return nil
}

// GuestUser is the user that others see of a session: nobody can find the token from it,
// and any process knows it from the token alone. 80 bits make two guests with one user
// unlikely below 2^40 guests.
func GuestUser(session string) string {
	sum := sha256.Sum256([]byte("hub session " + session))
	return GuestPrefix + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:10]))
}
