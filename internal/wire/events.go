package wire

import (
	"math"
	"strconv"
	"time"

	"github.com/chathub-go/hub/broker"
)

// A Welcome is the first event in each room that a connection is in, and the answer to
// join.
type Welcome struct {
	Client      string          `json:"client"`            // this connection
	Session     string          `json:"session,omitempty"` // secret; guests only
	User        string          `json:"user"`
	Name        string          `json:"name"`
	Room        string          `json:"room"`
	Cursor      string          `json:"cursor"` // where the client stands before what follows
	Seq         uint64          `json:"seq"`    // of Cursor
	Recovery    string          `json:"recovery"`
	Members     []broker.Member `json:"members"` // the first MaxWelcomeMembers are sent
	MemberCount int             `json:"member_count"`
	Limits      Limits          `json:"limits"`
}

// Limits are what a client has to keep to, or can count on.
type Limits struct {
	MessageBytes   int64   `json:"message_bytes"`    // of one frame from the client
	Rate           float64 `json:"rate"`             // publishes a second; 0 is no limit
	Burst          int     `json:"burst"`            // publishes at once
	DedupWindowMS  int64   `json:"dedup_window_ms"`  // how long an id is remembered
	ResumeWindowMS int64   `json:"resume_window_ms"` // cut off for longer is left
	PingMS         int64   `json:"ping_ms"`          // of silence, then the server pings
	History        int     `json:"history"`          // messages kept in the room
	Rooms          int     `json:"rooms"`            // at once on this connection
}

// An Ack answers a publish that had an id.
type Ack struct {
	ID        string `json:"id"`
	Room      string `json:"room,omitempty"`
	Seq       uint64 `json:"seq,omitempty"`
	Cursor    string `json:"cursor,omitempty"`
	Duplicate bool   `json:"duplicate,omitempty"`
	Reached   *int   `json:"reached,omitempty"` // of a direct message: how many clients
}

// A Joined says that a member has come.
type Joined struct {
	Room   string        `json:"room"`
	Member broker.Member `json:"member"`
}

// A Left says that a member is gone.
type Left struct {
	Room   string        `json:"room"`
	Member broker.Member `json:"member"`
	Reason string        `json:"reason,omitempty"` // one of the Reason constants
}

// A Typing says that a member began or stopped typing.
type Typing struct {
	Room   string        `json:"room"`
	Member broker.Member `json:"member"`
	On     bool          `json:"on"`
}

// A Presence answers presence.
type Presence struct {
	ID      string          `json:"id,omitempty"`
	Room    string          `json:"room"`
	Members []broker.Member `json:"members"` // the first MaxListMembers are sent
	Count   int             `json:"count"`
}

// A Gap says that every message with a seq between After and Before (neither included)
// is missing.
type Gap struct {
	Room   string `json:"room"`
	After  uint64 `json:"after"`
	Before uint64 `json:"before"`
	Missed int    `json:"missed"`           // how many; -1, where not known, is not sent
	Reset  bool   `json:"reset,omitempty"`  // another history begins
	Cursor string `json:"cursor,omitempty"` // just before Before
}

// A History answers history: oldest message first.
type History struct {
	ID       string            `json:"id,omitempty"`
	Room     string            `json:"room"`
	Messages []*broker.Message `json:"messages"`
	More     bool              `json:"more"` // older ones are kept
}

// A LeftRoom answers leave, or says that the connection was taken out of the room.
type LeftRoom struct {
	ID     string `json:"id,omitempty"`
	Room   string `json:"room"`
	Reason string `json:"reason,omitempty"` // one of the Reason constants
}

// A Drain says that the server will close the connection soon, and when to come back.
type Drain struct {
	ReconnectAfterMS int64 `json:"reconnect_after_ms"`
}

// A Pong answers ping.
type Pong struct {
	ID string `json:"id,omitempty"`
}

// AppendWelcome appends w as a welcome event.
func AppendWelcome(dst []byte, w *Welcome) []byte {
	dst = append(dst, `{"type":"welcome","client":`...)
	dst = appendString(dst, w.Client)
	dst = appendOptional(dst, `,"session":`, w.Session)
	dst = append(dst, `,"user":`...)
	dst = appendString(dst, w.User)
	dst = append(dst, `,"name":`...)
	dst = appendString(dst, w.Name)
	dst = appendRoom(dst, w.Room)
	dst = append(dst, `,"cursor":`...)
	dst = appendString(dst, w.Cursor)
	dst = append(dst, `,"seq":`...)
	dst = strconv.AppendUint(dst, w.Seq, 10)
	dst = append(dst, `,"recovery":`...)
	dst = appendString(dst, w.Recovery)
	dst = appendMembers(dst, w.Members, MaxWelcomeMembers)
	dst = appendInt(dst, `,"member_count":`, w.MemberCount)
	dst = appendLimits(dst, &w.Limits)
	return append(dst, '}')
}

func appendLimits(dst []byte, l *Limits) []byte {
	dst = appendInt(dst, `,"limits":{"message_bytes":`, l.MessageBytes)
	dst = append(dst, `,"rate":`...)
	rate := l.Rate
	if math.IsInf(rate, 0) || math.IsNaN(rate) {
		rate = 0
	}
	dst = strconv.AppendFloat(dst, rate, 'f', -1, 64)
	dst = appendInt(dst, `,"burst":`, l.Burst)
	dst = appendInt(dst, `,"dedup_window_ms":`, l.DedupWindowMS)
	dst = appendInt(dst, `,"resume_window_ms":`, l.ResumeWindowMS)
	dst = appendInt(dst, `,"ping_ms":`, l.PingMS)
	dst = appendInt(dst, `,"history":`, l.History)
	dst = appendInt(dst, `,"rooms":`, l.Rooms)
	return append(dst, '}')
}

// AppendAck appends a as an ack event.
func AppendAck(dst []byte, a *Ack) []byte {
	dst = append(dst, `{"type":"ack","id":`...)
	dst = appendString(dst, a.ID)
	dst = appendOptional(dst, `,"room":`, a.Room)
	if a.Seq != 0 {
		dst = append(dst, `,"seq":`...)
		dst = strconv.AppendUint(dst, a.Seq, 10)
	}
	dst = appendOptional(dst, `,"cursor":`, a.Cursor)
	if a.Duplicate {
		dst = append(dst, `,"duplicate":true`...)
	}
	if a.Reached != nil {
		dst = appendInt(dst, `,"reached":`, *a.Reached)
	}
	return append(dst, '}')
}

// AppendError appends e as an error event. RetryAfter is rounded up to a millisecond.
func AppendError(dst []byte, e *Error) []byte {
	dst = append(dst, `{"type":"error"`...)
	dst = appendOptional(dst, `,"id":`, e.ID)
	dst = appendOptional(dst, `,"room":`, e.Room)
	dst = append(dst, `,"code":`...)
	dst = appendString(dst, e.Code)
	dst = append(dst, `,"message":`...)
	dst = appendString(dst, e.Message)
	if e.RetryAfter > 0 {
		ms := (e.RetryAfter + time.Millisecond - 1) / time.Millisecond
		dst = appendInt(dst, `,"retry_after_ms":`, ms)
	}
	return append(dst, '}')
}

// AppendJoined appends j as a joined event.
func AppendJoined(dst []byte, j *Joined) []byte {
	dst = append(dst, `{"type":"joined"`...)
	return append(appendPresent(dst, j.Room, j.Member), '}')
}

// AppendLeft appends l as a left event.
func AppendLeft(dst []byte, l *Left) []byte {
	dst = append(dst, `{"type":"left"`...)
	dst = appendPresent(dst, l.Room, l.Member)
	return append(appendOptional(dst, `,"reason":`, l.Reason), '}')
}

// AppendTyping appends t as a typing event.
func AppendTyping(dst []byte, t *Typing) []byte {
	dst = append(dst, `{"type":"typing"`...)
	dst = appendPresent(dst, t.Room, t.Member)
	return append(appendBool(dst, `,"on":`, t.On), '}')
}

// AppendPresence appends p as a presence event.
func AppendPresence(dst []byte, p *Presence) []byte {
	dst = append(dst, `{"type":"presence"`...)
	dst = appendOptional(dst, `,"id":`, p.ID)
	dst = appendRoom(dst, p.Room)
	dst = appendMembers(dst, p.Members, MaxListMembers)
	return append(appendInt(dst, `,"count":`, p.Count), '}')
}

// AppendGap appends g as a gap event.
func AppendGap(dst []byte, g *Gap) []byte {
	dst = append(dst, `{"type":"gap"`...)
	dst = appendRoom(dst, g.Room)
	dst = append(dst, `,"after":`...)
	dst = strconv.AppendUint(dst, g.After, 10)
	dst = append(dst, `,"before":`...)
	dst = strconv.AppendUint(dst, g.Before, 10)
	if g.Missed >= 0 {
		dst = appendInt(dst, `,"missed":`, g.Missed)
	}
	if g.Reset {
		dst = append(dst, `,"reset":true`...)
	}
	return append(appendOptional(dst, `,"cursor":`, g.Cursor), '}')
}

// AppendHistory appends h as a history event.
func AppendHistory(dst []byte, h *History) []byte {
	dst = append(dst, `{"type":"history"`...)
	dst = appendOptional(dst, `,"id":`, h.ID)
	dst = appendRoom(dst, h.Room)
	dst = append(dst, `,"messages":[`...)
	for i, m := range h.Messages {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, '{')
		dst = append(appendMessageFields(dst, m), '}')
	}
	dst = append(dst, ']')
	return append(appendBool(dst, `,"more":`, h.More), '}')
}

// AppendLeftRoom appends l as a left_room event.
func AppendLeftRoom(dst []byte, l *LeftRoom) []byte {
	dst = append(dst, `{"type":"left_room"`...)
	dst = appendOptional(dst, `,"id":`, l.ID)
	dst = appendRoom(dst, l.Room)
	return append(appendOptional(dst, `,"reason":`, l.Reason), '}')
}

// AppendDrain appends d as a drain event.
func AppendDrain(dst []byte, d *Drain) []byte {
	return append(appendInt(dst, `{"type":"drain","reconnect_after_ms":`, d.ReconnectAfterMS), '}')
}

// AppendPong appends p as a pong event.
func AppendPong(dst []byte, p *Pong) []byte {
	dst = append(dst, `{"type":"pong"`...)
	return append(appendOptional(dst, `,"id":`, p.ID), '}')
}

// appendPresent appends room and member.
func appendPresent(dst []byte, room string, m broker.Member) []byte {
	dst = appendRoom(dst, room)
	dst = append(dst, `,"member":{`...)
	return append(appendUser(dst, m), '}')
}

func appendRoom(dst []byte, room string) []byte {
	dst = append(dst, `,"room":`...)
	return appendString(dst, room)
}

func appendInt[T ~int | ~int64](dst []byte, name string, n T) []byte {
	dst = append(dst, name...)
	return strconv.AppendInt(dst, int64(n), 10)
}

func appendBool(dst []byte, name string, b bool) []byte {
	dst = append(dst, name...)
	return strconv.AppendBool(dst, b)
}
