package hubclient

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/internal/wire"
)

const rejoinPause = time.Second // to a room that was closed

// A room is one that the client is in, or was when it lost the connection. Client.mu guards it.
type room struct {
	wanted  bool // to be in
	in      bool // on this connection
	cursor  string
	seq     uint64 // of cursor
	known   bool   // seq is
	untold  bool   // the caller got no event of the welcome that cursor is of
	history int
	stream  stream   // of this connection
	hello   *Welcome // the last one
}

// A request is a command other than a publish, until it is answered. Client.mu guards it.
type request struct {
	cmd       wire.Command
	sent      bool // on this connection
	sentAt    time.Time
	notBefore time.Time
	refusals  int
	stay      *room // that a join asks for
	again     bool  // join: the client was in the room before
	abandoned bool  // nobody waits for it

	done   chan struct{}
	answer *frame // before done is closed
	err    error
}

func newRequest(cmd wire.Command) *request {
	cmd.ID = rand.Text()
	return &request{cmd: cmd, done: make(chan struct{})}
}

// inRoom tells the outbox whether messages to a room may go out. Without a wish to be in it the server is to
// say that it is not. c.mu is held.
func (c *Client) inRoom(name string) bool {
	r := c.rooms[name]
	return r == nil || r.in || !r.wanted
}

// put queues a request. It fails only where the client has ended. c.mu is held: what the request is about is to change in the same
// moment, or another call's request comes between.
func (c *Client) put(r *request) error {
	if c.err != nil || c.closed {
		return ErrClosed
	}
	c.requests = append(c.requests, r)
	signal(c.wake)
	return nil
}

// wait waits for the answer to a request that was put.
func (c *Client) wait(ctx context.Context, r *request) (*frame, error) {
	select {
	case <-r.done:
		return r.answer, r.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-r.done: // it came all the same
		return r.answer, r.err
	default:
	}
	r.abandoned = true
	if !r.sent && r.cmd.Type != wire.CommandLeave { // else its answer is still to be known as such
		c.answer(r, nil, ctx.Err())
	}
	return nil, fmt.Errorf("hubclient: %s: %w", r.cmd.Type, ctx.Err())
}

// answer ends a request. c.mu is held.
func (c *Client) answer(r *request, f *frame, err error) {
	i := slices.Index(c.requests, r)
	if i < 0 {
		return
	}
	c.requests = slices.Delete(c.requests, i, i+1)
	r.answer, r.err = f, err
	close(r.done)
	signal(c.wake) // another one's turn may have come
}

// request returns the one that an answer is for: by its id, or of that type and room. c.mu is held.
func (c *Client) request(id, typ, room string) *request {
	for _, r := range c.requests {
		if id != "" && r.cmd.ID == id || id == "" && r.cmd.Type == typ && r.cmd.Room == room {
			return r
		}
	}
	return nil
}

// command is what r sends now. c.mu is held.
func (c *Client) command(r *request) *wire.Command {
	if r.stay != nil {
		r.cmd.Since, r.cmd.History = r.stay.cursor, r.stay.history
	}
	return &r.cmd
}

// joining returns the request to join for a stay. c.mu is held.
func (c *Client) joining(stay *room) *request {
	for _, r := range c.requests {
		if stay != nil && r.stay == stay {
			return r
		}
	}
	return nil
}

// stale tells whether r is to join for a stay that nobody wants any more. c.mu is held.
func (c *Client) stale(r *request) bool {
	return r.stay != nil && (!r.stay.wanted || r.stay != c.rooms[r.cmd.Room])
}

// turn tells whether r may be sent: of the joins and leaves of a room one at a time is under way, in the order in which they were asked for.
// c.mu is held.
func (c *Client) turn(r *request) bool {
	about := func(o *request) bool { return o.cmd.Type == wire.CommandJoin || o.cmd.Type == wire.CommandLeave }
	if !about(r) {
		return true
	}
	return r == c.requests[slices.IndexFunc(c.requests, func(o *request) bool { return about(o) && o.cmd.Room == r.cmd.Room })]
}

// unanswered sorts the requests of a connection that is lost. c.mu is held.
func (c *Client) unanswered() {
	for _, r := range slices.Clone(c.requests) {
		r.sent = false
		switch {
		case r.cmd.Type == wire.CommandLeave, r.abandoned: // it has left; it is of no use
			c.answer(r, nil, nil)
		case c.stale(r): // left meanwhile
			c.answer(r, nil, nil)
		}
	}
}

// rejoin asks for the rooms that are to be joined, besides the URL's. c.mu is held.
func (c *Client) rejoin() {
	for name, r := range c.rooms {
		if r.wanted && !r.in && name != c.home && c.joining(r) == nil {
			c.askAgain(name, time.Time{})
		}
	}
}

func (c *Client) askAgain(name string, notBefore time.Time) {
	r := newRequest(wire.Command{Type: wire.CommandJoin, Room: name})
	r.stay, r.again, r.notBefore = c.rooms[name], true, notBefore
	c.requests = append(c.requests, r)
	signal(c.wake)
}

// Join enters another room on the same connection, and goes on entering it whenever the connection was lost. Its events come among
// the others, the welcome first. Errors: [*Error] where the server does not allow it ("forbidden", "room_limit", "already_in_room"),
// [ErrClosed], the context's: then the client does not enter. A hub allows a connection no other room than the URL's, unless its
// service says so (hub.WithAuthorize).
func (c *Client) Join(ctx context.Context, name string, opts ...JoinOption) (*Welcome, error) {
	if err := wire.ValidRoom(name); err != nil {
		return nil, fmt.Errorf("hubclient: join: room %w", err)
	}
	o := joinOptions{history: -1}
	for _, opt := range opts {
		opt(&o)
	}
	if _, err := broker.ParseCursor(o.since); err != nil {
		return nil, fmt.Errorf("hubclient: join: since %w", err)
	}
	c.mu.Lock()
	if r := c.rooms[name]; r != nil && r.wanted {
		c.mu.Unlock()
		return nil, &Error{Room: name, Code: wire.CodeAlreadyInRoom, Message: "the client is in that room, or about to be"}
	}
	stay := &room{wanted: true, cursor: o.since, history: o.history}
	join := newRequest(wire.Command{Type: wire.CommandJoin, Room: name})
	join.stay = stay
	err := c.put(join)
	if err == nil {
		c.rooms[name] = stay
	}
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	_, err = c.wait(ctx, join)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && stay.hello == nil {
		err = &Error{Room: name, Code: wire.CodeNotInRoom, Message: "left meanwhile"}
	}
	if err == nil {
		return stay.hello, nil
	}
	if c.rooms[name] == stay { // not another one's now
		if stay.in { // since a moment ago
			c.leaveUnwanted(name)
		}
		if again := c.joining(stay); again != nil && !again.sent { // asked for on another connection since then
			c.answer(again, nil, nil)
		}
		c.forget(name)
	}
	return nil, err
}

// forget ends a stay in a room. c.mu is held.
func (c *Client) forget(name string) {
	if r := c.rooms[name]; r != nil && name == c.home {
		r.wanted, r.in = false, false // the URL leads into it all the same
	} else {
		delete(c.rooms, name)
	}
}

// Leave leaves a room, also the URL's. Events of it that are queued still come, no others. To leave a room that the client is not
// in does nothing. Errors: [ErrClosed], the context's; then the client leaves all the same.
func (c *Client) Leave(ctx context.Context, name string) error {
	c.mu.Lock()
	r := c.rooms[name]
	if r == nil || !r.wanted {
		c.mu.Unlock()
		return nil
	}
	r.wanted = false
	if join := c.joining(r); join != nil {
		if !join.sent {
			c.answer(join, nil, &Error{Room: name, Code: wire.CodeNotInRoom, Message: "left before it was joined"})
			c.forget(name)
			c.mu.Unlock()
			return nil
		}
	} else if !r.in {
		c.forget(name)
		c.mu.Unlock()
		return nil
	}
	leave := newRequest(wire.Command{Type: wire.CommandLeave, Room: name})
	err := c.put(leave)
	c.mu.Unlock()
	if err == nil {
		_, err = c.wait(ctx, leave)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rooms[name] == r {
		c.forget(name)
	}
	return err
}

// leaveUnwanted leaves a room that the server let the client into after it did not want to be any more, before it is joined again. c.mu is held.
func (c *Client) leaveUnwanted(name string) {
	if c.request("", wire.CommandLeave, name) == nil {
		c.requests = slices.Insert(c.requests, 0, newRequest(wire.Command{Type: wire.CommandLeave, Room: name}))
		signal(c.wake)
	}
}

// Cursor returns the position in a room up to which events came: what [WithSince] goes on from. It may be ahead of what the
// caller has taken; who stores a cursor takes that of the last message that was dealt with.
func (c *Client) Cursor(room string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.rooms[room]; r != nil && !r.untold {
		return r.cursor
	}
	return ""
}

// History returns the newest messages of a room with a seq below before, oldest first, at most limit (1 to 100; 0 is 50), and whether older
// ones are kept. before 0 means the newest of all. It moves no cursor. While there is no connection it waits.
func (c *Client) History(ctx context.Context, room string, before uint64, limit int) (list []*Received, more bool, err error) {
	if limit == 0 {
		limit = wire.HistoryLimit
	}
	if limit < 1 || limit > wire.MaxHistoryLimit || before >= 1<<53 {
		return nil, false, fmt.Errorf("hubclient: history: limit %d is not from 1 to %d, or before not below 2^53", limit, wire.MaxHistoryLimit)
	}
	f, err := c.ask(ctx, wire.Command{Type: wire.CommandHistory, Room: room, Before: before, Limit: limit})
	if err != nil {
		return nil, false, err
	}
	for _, p := range f.Messages[:min(len(f.Messages), wire.MaxHistoryLimit)] {
		var one frame
		err := json.Unmarshal(p, &one)
		var m *Received
		if err == nil {
			m, err = one.received()
		}
		if err != nil {
			return nil, false, violation("a history that can't be read: %v", err)
		}
		list = append(list, m)
	}
	return list, f.More, nil
}

// Presence returns who is in a room, the first 1,000, and how many there are. While there is no connection it waits.
func (c *Client) Presence(ctx context.Context, room string) (members []broker.Member, count int, err error) {
	f, err := c.ask(ctx, wire.Command{Type: wire.CommandPresence, Room: room})
	if err != nil {
		return nil, 0, err
	}
	return f.Members, f.Count, nil
}

// ask sends a command about a room; "" is the URL's.
func (c *Client) ask(ctx context.Context, cmd wire.Command) (*frame, error) {
	if cmd.Room == "" {
		cmd.Room = c.Room()
	}
	if err := wire.ValidRoom(cmd.Room); err != nil {
		return nil, fmt.Errorf("hubclient: %s: room %w", cmd.Type, err)
	}
	r := newRequest(cmd)
	c.mu.Lock()
	err := c.put(r)
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return c.wait(ctx, r)
}

// Typing tells the others in a room that the user began or stopped typing; "" is the URL's room. It does not wait, and while there
// is no connection it does nothing. Call it when it changes, and every few seconds while it lasts.
func (c *Client) Typing(room string, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if room == "" {
		room = c.home
	}
	if r := c.rooms[room]; c.link != nil && r != nil && r.in {
		c.typing[room] = on
		signal(c.wake)
	}
}
