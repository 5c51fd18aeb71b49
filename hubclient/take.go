package hubclient

import (
	"fmt"
	"time"

	"github.com/chathub-go/hub/internal/wire"
)

// take does what an event means to the client, and returns what the caller is to hear of it, if anything. Its errors end the
// connection.
func (l *link) take(f *frame) (*Event, error) {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	l.heard, l.pinged = time.Now(), false
	if !l.open && f.Type != wire.EventWelcome {
		return nil, violation("%.20q before the welcome", f.Type)
	}
	switch f.Type {
	case wire.EventWelcome:
		return l.welcome(f)
	case wire.EventMessage, wire.EventGap:
		return c.kept(f)
	case wire.EventAck:
		return nil, c.ack(f)
	case wire.EventError:
		return c.refused(f), nil
	case wire.EventHistory:
		c.answered(f)
	case wire.EventPresence:
		if f.ID == "" {
			return c.told(f, Event{Type: EventPresence, Members: f.Members, Count: f.Count}), nil
		}
		c.answered(f)
	case wire.EventJoined:
		return c.told(f, Event{Type: EventJoined, Member: f.Member}), nil
	case wire.EventLeft:
		return c.told(f, Event{Type: EventLeft, Member: f.Member, Reason: f.Reason}), nil
	case wire.EventTyping:
		return c.told(f, Event{Type: EventTyping, Member: f.Member, On: f.On}), nil
	case wire.EventDirect, wire.EventSignal:
		m, err := f.received()
		if err != nil {
			return nil, violation("a signal that can't be read: %v", err)
		}
		e := Event{Type: EventDirect, Message: m}
		if f.Type == wire.EventSignal {
			e.Type = EventSignal
		}
		return c.told(f, e), nil
	case wire.EventLeftRoom:
		return c.outOf(f), nil
	case wire.EventDrain:
		c.notFor = time.Duration(min(max(f.ReconnectAfterMS, 0), maxRetryWait.Milliseconds())) * time.Millisecond
		c.outbox.pause = time.Now().Add(drainingPause)
	}
	return nil, nil
}

// told is an event of a room that the client is in; nil where it is not, or wants not to be. c.mu is held.
func (c *Client) told(f *frame, e Event) *Event {
	if r := c.rooms[f.Room]; f.Room != "" && (r == nil || !r.in || !r.wanted) {
		return nil
	}
	e.Room = f.Room
	return &e
}

func (f *frame) welcome() *Welcome {
	return newWelcome(&wire.Welcome{
		Client: f.Client, Session: f.Session, User: f.User, Name: f.Name, Room: f.Room, Cursor: f.Cursor, Seq: f.Seq,
		Recovery: f.Recovery, Members: f.Members, MemberCount: f.MemberCount, Limits: f.Limits,
	})
}

// welcome takes the client into a room. c.mu is held.
func (l *link) welcome(f *frame) (*Event, error) {
	c := l.c
	if f.Room == "" || f.Cursor == "" {
		return nil, violation("a welcome without a room or a cursor")
	}
	asked := &request{cmd: wire.Command{Since: l.since, History: c.o.history}} // by the URL
	if l.open {
		if asked = c.request("", wire.CommandJoin, f.Room); asked == nil || !asked.sent {
			return nil, violation("a welcome to %q, which was not asked for, or a second welcome", f.Room)
		}
		c.answer(asked, f, nil)
	} else if err := l.opened(f); err != nil {
		return nil, err
	}
	r := c.rooms[f.Room]
	join := c.joining(r) // another request for the same is answered too
	switch {
	case r != nil && r.in:
		return nil, violation("a second welcome to %q", f.Room)
	case r == nil || !r.wanted || c.request("", wire.CommandLeave, f.Room) != nil || join != nil && (asked.cmd.Since != r.cursor || asked.cmd.History != r.history):
		if r != nil && !r.wanted {
			r.in = true
		}
		c.leaveUnwanted(f.Room)
		return nil, nil
	case (f.Recovery == RecoveryNew) != (r.cursor == ""):
		return nil, violation("recovery %q of cursor %q", f.Recovery, r.cursor)
	case f.Recovery == RecoveryRecovered && r.known && f.Seq != r.seq:
		return nil, violation("recovered at %d, not at %d", f.Seq, r.seq)
	}
	if f.Recovery == RecoveryReset {
		c.doubt(f.Room)
	}
	if join != nil {
		c.answer(join, f, nil)
	}
	r.in = true
	r.stream.welcome(f.Seq)
	r.hello = f.welcome()
	switch {
	case r.cursor == "" && asked.stay != nil: // Join tells of it, even if the event is lost with the connection: from here on all is to come
		r.cursor, r.seq, r.known, r.untold = f.Cursor, f.Seq, true, true
	case r.untold && f.Recovery != RecoveryReset:
		r.hello.Recovery = RecoveryNew // to who takes the events it is the first; a gap behind it is an event of its own
	}
	signal(c.wake)
	return &Event{Type: EventWelcome, Room: f.Room, Welcome: r.hello}, nil
}

// opened takes the first welcome of a connection, to the URL's room. c.mu is held.
func (l *link) opened(f *frame) error {
	c := l.c
	switch {
	case c.home == "":
		c.home = f.Room
		c.rooms[f.Room] = &room{wanted: true, cursor: c.o.since, history: c.o.history}
	case c.home != f.Room:
		return violation("a welcome to %q, the room was %q", f.Room, c.home)
	}
	l.open = true
	w := f.welcome()
	l.limit = max(readLimit, 6*min(w.Limits.MessageBytes, 1<<40)+7<<20)
	c.outbox.opened(w.Limits)
	if c.user != "" && c.user != w.User {
		c.doubt("") // the ids were another's
	}
	c.expire(time.Now())
	c.session, c.user, c.name, c.notFor = w.Session, w.User, w.Name, 0
	if !c.welcomed {
		c.welcomed = true
		close(c.first)
	}
	c.rejoin()
	return nil
}

// kept takes what moves the position in a room. c.mu is held.
func (c *Client) kept(f *frame) (*Event, error) {
	r := c.rooms[f.Room]
	if r == nil || !r.wanted { // it is being left
		return nil, nil
	}
	if !r.in && c.request("", wire.CommandLeave, f.Room) != nil {
		return nil, nil // of the stay that is about to end; the next one's welcome comes behind that
	}
	if !r.in {
		return nil, violation("%q of a room before its welcome", f.Type)
	}
	e := &Event{Type: EventGap, Room: f.Room}
	if f.Type == wire.EventGap {
		e.Gap = &Gap{Room: f.Room, After: f.After, Before: f.Before, Missed: -1, Reset: f.Reset, Cursor: f.Cursor}
		if f.Missed != nil {
			e.Gap.Missed = *f.Missed
		}
		if f.Reset { // as with the recovery of that name: the ids before are not known any more
			c.doubt(f.Room)
			signal(c.wake)
		}
		return e, r.stream.gap(e.Gap)
	}
	m, err := f.received()
	if err != nil {
		return nil, violation("a message that can't be read: %v", err)
	}
	if m.Cursor == "" {
		return nil, violation("a message without a cursor")
	}
	e.Type, e.Message = EventMessage, m
	return e, r.stream.message(m.Seq, m.Prev)
}

// ack takes the receipt of a message. c.mu is held.
func (c *Client) ack(f *frame) error {
	p := c.outbox.byID[f.ID]
	if p == nil || !p.flying {
		return violation("an ack of %.70q, which was not sent", f.ID)
	}
	c.outbox.landed(p, time.Now())
	p.maybe = time.Time{}
	r := Receipt{ID: p.id, Room: p.room, Seq: f.Seq, Cursor: f.Cursor, Duplicate: f.Duplicate, Reached: -1}
	if f.Reached != nil {
		r.Reached = *f.Reached
	}
	c.resolve(p, r, nil)
	signal(c.wake)
	return nil
}

// refused takes an error. c.mu is held.
func (c *Client) refused(f *frame) *Event {
	now := time.Now()
	err := &Error{ID: f.ID, Room: f.Room, Code: f.Code, Message: f.Message}
	after := time.Duration(min(max(f.RetryAfterMS, 0), maxRetryWait.Milliseconds())) * time.Millisecond
	defer signal(c.wake)
	if p := c.outbox.byID[f.ID]; f.ID != "" && p != nil && p.flying {
		if retryable(f.Code) {
			c.outbox.again(p, f.Code, after, now)
			return nil
		}
		c.outbox.landed(p, now)
		known := !p.repeated
		p.maybe = time.Time{}
		if known {
			c.resolve(p, Receipt{}, err)
		} else { // what is refused now may have been kept when it was sent before
			c.resolve(p, Receipt{}, fmt.Errorf("%w: %w", ErrUncertain, err))
		}
		return nil
	}
	r := c.request(f.ID, "", "")
	if f.ID == "" || r == nil {
		return &Event{Type: EventError, Room: f.Room, Err: err}
	}
	if c.stale(r) { // nor is it to hold up the leave behind it
		c.answer(r, nil, nil)
		return nil
	}
	if retryable(f.Code) && (!r.abandoned || r.cmd.Type == wire.CommandLeave) {
		if after == 0 {
			after = refusedPause << min(r.refusals, 7)
		}
		r.refusals++
		r.sent, r.notBefore = false, now.Add(after)
		return nil
	}
	if r.cmd.Type == wire.CommandLeave && f.Code == wire.CodeNotInRoom {
		c.answer(r, nil, nil)
		return nil
	}
	c.answer(r, nil, err)
	if r.stay == nil {
		return nil
	}
	c.forget(r.cmd.Room)
	if !r.again { // Join tells of it
		return nil
	}
	return &Event{Type: EventLeftRoom, Room: r.cmd.Room, Err: err}
}

// answered takes the answer to a request; one that nobody waits for any more is of no use. c.mu is held.
func (c *Client) answered(f *frame) {
	if r := c.request(f.ID, "", ""); f.ID != "" && r != nil {
		c.answer(r, f, nil)
	}
}

// outOf takes the client out of a room. c.mu is held.
func (c *Client) outOf(f *frame) *Event {
	r := c.rooms[f.Room]
	if f.ID != "" {
		c.answered(f)
		if r != nil && !r.wanted {
			c.forget(f.Room)
		}
		return nil
	}
	if r == nil || !r.in {
		return nil
	}
	r.in = false
	if !r.wanted {
		return nil
	}
	e := &Event{Type: EventLeftRoom, Room: f.Room, Reason: f.Reason}
	if f.Reason == wire.ReasonShutdown { // as with 1001: it may be opened again
		c.askAgain(f.Room, time.Now().Add(rejoinPause))
	} else {
		c.forget(f.Room)
	}
	signal(c.wake)
	return e
}
