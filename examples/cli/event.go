package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

type member struct{ User, Name string }

func (m member) String() string {
	if m.Name == "" {
		return cleanName(m.User)
	}
	return cleanName(m.Name)
}

// An event is what the JSON door sends: the fields of all types in one struct, of which
// docs/protocol.md says what has which.
type event struct {
	Type    string
	ID      string
	Code    string
	Message string
	Room    string
	Cursor  string
	Seq     uint64
	From    member
	Member  member

	Data       json.RawMessage
	DataBase64 []byte `json:"data_base64"`

	// welcome
	Session     string
	User, Name  string
	Recovery    string
	Members     []member
	MemberCount int `json:"member_count"`
	Limits      limits

	After, Before    uint64 // gap
	Missed           *int   // gap
	Reset            bool   // gap
	Count            int    // presence
	RetryAfterMS     int64  `json:"retry_after_ms"`
	ReconnectAfterMS int64  `json:"reconnect_after_ms"`
}

// said is a line of a conversation. Nobody's name begins with "*".
func (e *event) said() string {
	if e.From == (member{}) { // the service itself
		return "* " + e.text()
	}
	return e.From.String() + ": " + e.text()
}

// text is an event's data as a person reads it.
func (e *event) text() string {
	if e.DataBase64 != nil {
		return fmt.Sprintf("(%d bytes of binary data)", len(e.DataBase64))
	}
	var s string
	if json.Unmarshal(e.Data, &s) == nil {
		return clean(s)
	}
	var b bytes.Buffer
	json.Compact(&b, e.Data)
	return clean(b.String())
}

// event takes an event of the JSON door.
func (c *client) event(data string) {
	var e event
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		c.note("* the server sent something that is not an event: " + err.Error())
		return
	}
	switch e.Type {
	case "welcome":
		c.welcome(&e)
	case "message":
		c.seq, c.cursor = e.Seq, e.Cursor
		c.say(e.said())
	case "direct":
		c.say("* " + e.From.String() + " (to you): " + e.text())
	case "signal":
		c.say("* " + e.text())
	case "joined":
		if e.Member.User != c.user {
			c.say("* " + e.Member.String() + " joined")
		}
	case "left":
		if e.Member.User != c.user {
			c.say("* " + e.Member.String() + " left")
		}
	case "presence": // unasked, where many came or went at once
		c.say(fmt.Sprintf("* many came or went: %d are here", e.Count))
	case "ack":
		c.out.done(e.ID)
		c.acked = max(c.acked, e.Seq)
		c.patience(time.Now())
	case "error":
		c.problem(&e)
	case "gap":
		if e.Cursor != "" {
			c.cursor = e.Cursor
		}
		if e.Reset { // another history
			c.acked = 0
		}
		c.seq = max(e.Before, 1) - 1
		if e.Missed != nil {
			c.say(fmt.Sprintf("* missed here: %d, no longer kept by the server", *e.Missed))
		} else {
			c.say("* some messages are missing here: the server no longer has them")
		}
	case "drain":
		c.notFor = time.Duration(max(e.ReconnectAfterMS, 0)) * time.Millisecond
	case "left_room":
		c.note("* the room was closed")
	}
}

// welcome opens the door.
func (c *client) welcome(e *event) {
	same := c.session == e.Session && e.Recovery != "reset"
	switch {
	case !c.before:
		c.note(fmt.Sprintf("* connected to %s as %s%s", cleanName(e.Room), cleanName(e.Name), company(e)))
	case e.Recovery == "reset":
		c.note("* connected again, but the room's history is another one: messages may be missing")
	case e.Recovery == "gap":
		c.note("* connected again")
	default:
		c.note("* connected again, nothing was missed")
	}
	if e.Recovery == "reset" {
		c.acked = 0 // seqs of two histories can't be compared
	}
	c.user, c.session, c.cursor, c.seq = e.User, e.Session, e.Cursor, e.Seq
	if e.Session != "" && c.url.Query().Get("name") == "" { // a guest keeps the name that it was given
		c.url = withName(c.url, e.Name)
	}
	c.open(e.Limits, same)
}

// company says who else is in the room.
func company(e *event) string {
	const most = 8
	var names []string
	more := e.MemberCount - len(e.Members) // the list has a bound
	for _, m := range e.Members {
		switch {
		case m.User == e.User:
		case len(names) < most:
			names = append(names, m.String())
		default:
			more++
		}
	}
	switch {
	case len(names) == 0:
		return ", nobody else is here"
	case more > 0:
		return fmt.Sprintf(", with %s and %d more", strings.Join(names, ", "), more)
	}
	return ", with " + strings.Join(names, ", ")
}

// problem takes an error event: some of them go away with time.
func (c *client) problem(e *event) {
	after := time.Duration(e.RetryAfterMS) * time.Millisecond
	if after <= 0 {
		after = firstDelay
	}
	switch {
	case e.Code == "out_of_order" && e.ID != "":
		c.out.again(time.Now(), e.ID, 0) // the refusal before it said how long
	case (e.Code == "rate" || e.Code == "busy" || e.Code == "draining" || e.Code == "unavailable") && e.ID != "":
		c.out.again(time.Now(), e.ID, after)
	case e.ID != "":
		c.refused(e.ID, cleanName(e.Message))
	default:
		c.note("* the server says: " + cleanName(e.Message))
	}
}

// refused takes a line out of the outbox that the server does not want.
func (c *client) refused(id, why string) {
	if ln, ok := c.out.done(id); ok {
		c.failed++
		c.note(fmt.Sprintf("* not sent, %s: %s", why, clean(shorten(ln.text))))
	}
}

func shorten(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}
