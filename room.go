package hub

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
	"weak"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/internal/room"
	"github.com/chathub-go/hub/internal/wire"
	"github.com/chathub-go/hub/internal/wsconn"
)

type (
	// A Message is one message of a room: its Room, ID, From, Kind, Data and Key, and, set by
	// the broker, its Time, Cursor and Prev ([broker.Message] has the details). One that
	// the hub hands out is shared and must not be changed.
	Message = broker.Message
	// A Member is who is in a room, as others see it: its Client (one connection), User
	// and Name ([broker.Member]).
	Member = broker.Member
	// A Receipt says where a published message is kept: its Cursor, with the Seq, its
	// Time, and whether it is a Duplicate ([broker.Receipt]).
	Receipt = broker.Receipt
	// A Kind says what a message's bytes are.
	Kind = broker.Kind
)

// The kinds of messages.
const (
	KindText   = broker.KindText   // UTF-8 text
	KindJSON   = broker.KindJSON   // one JSON value, not a string
	KindBinary = broker.KindBinary // any bytes
)

// Text returns a message of text, which must be UTF-8.
func Text(s string) Message { return Message{Kind: KindText, Data: []byte(s)} }

// JSON returns a message of one JSON value. It is published compact; a JSON string
// becomes text.
func JSON(value []byte) Message { return Message{Kind: KindJSON, Data: value} }

// Binary returns a message of any bytes. The hub keeps b: it must not be changed.
func Binary(b []byte) Message { return Message{Kind: KindBinary, Data: b} }

// A Room is a handle to a room. It stays good until the room is closed or the hub shut
// down, however often the room's loop idles away and starts again. It is an
// [http.Handler] that lets guests in.
type Room struct {
	hub    *Hub
	name   string
	cfg    atomic.Pointer[config] // set while no loop is open
	ownHub bool

	mu      sync.Mutex // guards what follows
	loop    *room.Loop // nil: not open
	opening chan struct{}
	closed  chan struct{} // not nil: Close was called; closed: it has returned
}

// roomRef is how the hub finds a room. While the room is open, or has options of its own,
// the hub holds it too; otherwise only its users do. The hub's mu guards it.
type roomRef struct {
	weak   weak.Pointer[Room]
	pinned bool // it has options of its own
	loops  int  // opening, open, or ending
}

// newRoomRef must be called with the hub's mu held.
func newRoomRef(r *Room) *roomRef {
	ref := &roomRef{weak: weak.Make(r)}
	h, name := r.hub, r.name
	runtime.AddCleanup(r, func(ref *roomRef) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.rooms[name] == ref {
			delete(h.rooms, name)
		}
	}, ref)
	return ref
}

func (ref *roomRef) room() *Room {
	if ref == nil {
		return nil
	}
	return ref.weak.Value()
}

func (r *Room) config() *config { return r.cfg.Load() }

// Name returns the room's name.
func (r *Room) Name() string { return r.name }

// NewClient returns a client for one request, see [Client.ServeHTTP]. Without
// [WithUser] it is a guest.
func (r *Room) NewClient(opts ...ClientOption) *Client {
	c := &Client{hub: r.hub, room: r, cfg: r.config().forClients, done: make(chan struct{}), callback: make(chan struct{}, 1)}
	if len(opts) > 0 {
		own := *c.cfg
		c.cfg = &own
		for _, o := range opts {
			o.applyToClient(c.cfg)
		}
	}
	return c
}

// ServeHTTP lets a guest in: the same as NewClient().ServeHTTP(w, req).
func (r *Room) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.NewClient().ServeHTTP(w, req)
}

// Publish keeps a message and sends it to everyone in the room, on all processes. The
// fields Kind, Data, ID, Key and From of m count; [Text], [JSON] and [Binary] make one.
// With an ID, a repeated call within the dedup window has one effect; the scope of the
// ID is From.User in this room, and the zero From is the service itself. The same is the scope
// of the Key, of which see [LatestPerKey].
//
// A nil error means kept; one that wraps a context's, that it may have been. Not kept was
// what has data that its Kind does not allow or a Key of more than 64 bytes; what wraps
// [broker.ErrIDReused] (the ID was another payload's), [broker.ErrTooLarge] or
// [broker.ErrBusy] (worth another try); and what comes after the room's or the hub's end,
// [ErrRoomClosed] and [ErrClosed].
func (r *Room) Publish(ctx context.Context, m Message) (Receipt, error) {
	if err := check(&m); err != nil {
		return Receipt{}, err
	}
	m.Data = append([]byte(nil), m.Data...)
	return r.publish(ctx, &m)
}

// publish takes a message that is valid, and whose data nobody changes.
func (r *Room) publish(ctx context.Context, m *Message) (Receipt, error) {
	if err := r.usable(); err != nil {
		return Receipt{}, err
	}
	if err := r.hub.begin(); err != nil {
		return Receipt{}, err
	}
	defer r.hub.end()
	m.Room = r.name
	receipt, err := r.hub.broker.Publish(ctx, m)
	if err == nil && !receipt.Duplicate {
		r.hub.published.Add(1)
	}
	return receipt, brokerError(err)
}

// brokerError lets a caller know a closed broker by the hub's own sentinel.
func brokerError(err error) error {
	if errors.Is(err, broker.ErrClosed) {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return err
}

// Broadcast sends a message to everyone who is in the room now, on all processes, and
// does not keep it: it has no seq, and who is away misses it. Plain clients get its
// bytes as they are, in a text or binary frame; JSON clients a signal event. It has no bound
// of its own on the size; a client whose queue can't take it falls to the room's slow policy.
// Errors are those of [Room.Publish], less the ID's.
func (r *Room) Broadcast(ctx context.Context, m Message) error {
	if err := check(&m); err != nil {
		return err
	}
	_, err := r.signal(ctx, &broker.Signal{
		Type: room.SignalBroadcast, From: m.From, ID: m.ID, Kind: m.Kind,
		Data: append([]byte(nil), m.Data...), Key: m.Key,
	})
	return err
}

func (r *Room) signal(ctx context.Context, s *broker.Signal) (reached int, err error) {
	if err := r.usable(); err != nil {
		return 0, err
	}
	if err := r.hub.begin(); err != nil {
		return 0, err
	}
	defer r.hub.end()
	s.Room, s.Time = r.name, time.Now()
	reached, err = r.hub.broker.Signal(ctx, s)
	return reached, brokerError(err)
}

// check makes a message of the service's valid.
func check(m *Message) error {
	if err := wire.ValidKey(m.Key); err != nil {
		return fmt.Errorf("hub: key of the message %w", err)
	}
	switch m.Kind {
	case KindBinary:
		return nil
	case KindText:
		return validText(m.Data)
	case KindJSON:
		kind, data, err := wire.DecodeData(m.Data)
		if err != nil {
			return fmt.Errorf("hub: message is not valid: %w", err)
		}
		m.Kind, m.Data = kind, data
		return nil
	}
	return fmt.Errorf("hub: message is of no known kind (%d): make it with Text, JSON or Binary", m.Kind)
}

// Members yields who is in the room, over all processes, in no order: each user
// once. It opens the room if need be; where that fails, or takes longer than
// [WithPublishTimeout], it yields nobody.
func (r *Room) Members() iter.Seq[Member] {
	return func(yield func(Member) bool) {
		ctx, cancel := context.WithTimeout(context.Background(), r.config().publishTimeout)
		defer cancel()
		members, _, err := r.members(ctx, -1)
		if err != nil {
			return
		}
		for _, m := range members {
			if !yield(m) {
				return
			}
		}
	}
}

// members returns at most that many, all below 0.
func (r *Room) members(ctx context.Context, most int) (members []Member, count int, err error) {
	if most < 0 {
		most = int(^uint(0) >> 1)
	}
	err = r.withLoop(ctx, func(l *room.Loop) (err error) {
		members, count, err = l.Members(ctx, most)
		return err
	})
	return members, count, err
}

// History returns the newest messages with a seq below before, oldest first, at most
// limit (1 to 1,000); before 0 means the newest of all.
func (r *Room) History(ctx context.Context, before uint64, limit int) ([]*Message, error) {
	if limit < 1 || limit > wire.MaxJoinHistory {
		return nil, fmt.Errorf("hub: history of %d messages: 1 to %d", limit, wire.MaxJoinHistory)
	}
	if err := r.usable(); err != nil {
		return nil, err
	}
	page, err := r.hub.broker.Before(ctx, r.name, before, limit)
	return page.Messages, brokerError(err)
}

// Close ends the room on this process: its members are told, connections that came in
// through its URL are closed with 1001 (those just joining with 1012), others only leave it,
// and whoever waits to publish into it is released. What the broker keeps of it stays; a
// [WithHistory] of its own does not. The handle can't be used any more; [Hub.Room] gives a
// new one. If ctx ends before all have left, their connections are cut, and Close returns
// its error. It waits, too, until the broker was told that all have left. The last OnLeave
// callbacks may return after Close does. Other calls wait for the first. It must not be called
// from a callback.
func (r *Room) Close(ctx context.Context) error {
	r.mu.Lock()
	closed := r.closed
	if closed == nil {
		r.closed = make(chan struct{})
	}
	l := r.loop
	r.mu.Unlock()
	if closed != nil {
		select {
		case <-closed:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer close(r.closed)
	var err error
	if l != nil {
		err = evict(ctx, l)
	}
	r.hub.forget(r)
	if r.ownHub {
		err = errors.Join(err, r.hub.Shutdown(ctx))
	}
	return err
}

// evict sends everyone out of a room.
func evict(ctx context.Context, l *room.Loop) error {
	l.Close(func(m *room.Member) { m.Owner.(*stay).roomClosed() })
	select {
	case <-l.Done():
		return nil
	case <-ctx.Done():
	}
	l.Abandon(func(m *room.Member) { m.Conn.Abort() })
	return ctx.Err()
}

// forget makes way for a new handle of the same name.
func (h *Hub) forget(r *Room) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rooms[r.name].room() != r {
		return
	}
	delete(h.rooms, r.name)
	delete(h.held, r)
	if unset := r.config().unsetHistory; unset != nil {
		unset()
	}
}

func (r *Room) usable() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed != nil {
		return ErrRoomClosed
	}
	return nil
}

// use returns the room's loop, and opens it where it is not.
func (r *Room) use(ctx context.Context) (*room.Loop, error) {
	for {
		r.mu.Lock()
		if r.closed != nil {
			r.mu.Unlock()
			return nil, ErrRoomClosed
		}
		if l := r.loop; l != nil {
			r.mu.Unlock()
			return l, nil
		}
		if opening := r.opening; opening != nil {
			r.mu.Unlock()
			select {
			case <-opening:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		opening := make(chan struct{})
		r.opening = opening
		r.mu.Unlock()

		l, err := r.hub.tryOpen(ctx, r)
		r.mu.Lock()
		r.loop, r.opening = l, nil
		closed := r.closed != nil
		r.mu.Unlock()
		close(opening)
		if closed && l != nil { // while it opened: Close did not see it
			l.Close(func(*room.Member) {})
			return nil, ErrRoomClosed
		}
		return l, err
	}
}

// withLoop runs f with the room's loop, again where the loop had just idled away.
func (r *Room) withLoop(ctx context.Context, f func(*room.Loop) error) error {
	for {
		l, err := r.use(ctx)
		if err != nil {
			return err
		}
		if err = f(l); !errors.Is(err, room.ErrStopped) {
			return err
		}
		// Retired loops are no longer found; one that failed is not either, once its
		// end is complete.
		select {
		case <-l.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
		r.drop(l)
	}
}

func (r *Room) current() *room.Loop {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.loop
}

// drop forgets a loop that has stopped.
func (r *Room) drop(l *room.Loop) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.loop == l {
		r.loop = nil
	}
}

// retire is called by the loop when it has been idle.
func (r *Room) retire() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loop = nil
	return true
}

func (c *Client) newStay(r *Room, home bool) *stay {
	st := &stay{c: c, r: r, cfg: r.config(), home: home, settled: make(chan struct{}), gone: make(chan struct{})}
	if home { // until it can end before the client does
		st.ctx, st.cancel = c.Context(), func() {}
	} else {
		st.ctx, st.cancel = context.WithCancel(c.Context())
	}
	return st
}

// reserve takes a place in the room.
func (st *stay) reserve(ctx context.Context) error {
	return st.r.withLoop(ctx, func(l *room.Loop) error {
		st.loop = l
		return l.Reserve()
	})
}

// reserveFor is reserve for as long as ctx and the client last, and no longer than a
// publish may take.
func (st *stay) reserveFor(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(st.ctx, st.cfg.publishTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	return st.reserve(bounded)
}

// enter makes the client a member of the room where it has a place, with what it missed
// or the last messages. It is called on the client's reading goroutine. Where more is
// missing than one page, a goroutine sends the rest.
func (st *stay) enter(since broker.Cursor, resume bool, history int) error {
	c := st.c
	st.m = &room.Member{
		Who: c.who, Door: st.door(), Conn: c.conn, Slow: st.cfg.slow, Lag: &st.r.hub.slow, Owner: st,
		Messages: c.cfg.queueMessages / 2, Bytes: c.cfg.queueBytes / 2,
	}
	arrival := &room.Arrival{Loop: st.loop, Member: st.m, Reader: c.hub.reader}
	j, recovery, err := arrival.FirstPage(st.ctx, since, resume, history)
	if err != nil {
		st.cancel()
		st.loop.Free()
		return err
	}
	if !c.keyed { // once: what its room sent before it left goes the same way as what follows
		c.key, c.keyed = st.loop.Key(), true
	}
	j.Key = c.key
	limits := c.limits(st)
	j.Welcome = func(start broker.Cursor, members []broker.Member, count int) *wsconn.Frame {
		return c.welcome(st.r.name, recovery, limits, start, members, count)
	}
	c.mu.Lock()
	if c.stays == nil {
		c.stays = map[string]*stay{}
	}
	c.stays[st.r.name] = st
	c.mu.Unlock()

	live, err := st.join(j)
	if err != nil {
		st.cancel()
		st.settle(false)
		c.mu.Lock()
		delete(c.stays, st.r.name)
		c.mu.Unlock()
		return err
	}
	c.mu.Lock()
	c.entered = true
	c.mu.Unlock()
	if live {
		st.settle(true)
		return nil
	}
	arrival.Loop = st.loop // another, where that one idled away meanwhile
	if st.home {
		c.mu.Lock()
		if st.ctx, st.cancel = context.WithCancel(st.ctx); st.leaving {
			st.cancel()
		}
		c.mu.Unlock()
	}
	c.settling.Go(func() { st.catchUp(arrival, j.At) })
	return nil
}

// door is how the room's messages are encoded for the client.
func (st *stay) door() int {
	if st.c.conn.Deflates() && st.cfg.compress > 0 {
		return st.c.door | room.Deflated
	}
	return st.c.door
}

// join joins the loop where the place is, or, where that idled away meanwhile, another.
func (st *stay) join(j *room.Joining) (live bool, err error) {
	for {
		live, err = st.loop.Join(st.ctx, j)
		if err == nil {
			return live, nil
		}
		st.loop.Free()
		if !errors.Is(err, room.ErrStopped) {
			return false, err
		}
		if err = st.reserveFor(st.ctx); err != nil {
			return false, err
		}
	}
}

// catchUp sends what the client missed, until the loop takes over.
func (st *stay) catchUp(arrival *room.Arrival, at broker.Cursor) {
	live, err := arrival.CatchUp(st.ctx, at)
	if err != nil {
		st.c.cfg.logger.Warn("hub: history could not be read", "room", st.r.name, "err", err)
		st.c.Close(CodeInternal, "history could not be read")
	}
	st.settle(live)
}

// settle ends the joining, with the service's callback if the client is in.
func (st *stay) settle(live bool) {
	defer close(st.settled)
	if st.told = live; !live {
		return
	}
	f := st.c.cfg.onJoin
	if f == nil {
		f = st.cfg.onJoin
	}
	if f != nil {
		st.c.inTurn("OnJoin", func() { f(st.c, st.r) })
	}
}

// leave takes the client out of the room; the first call counts, and others wait for it.
// Last, which may be nil, is the last that the client gets from the room.
func (st *stay) leave(reason string, linger bool, last *wsconn.Frame, why error) {
	c := st.c
	c.mu.Lock()
	first := !st.leaving
	st.leaving = true
	cancel := st.cancel
	c.mu.Unlock()
	if !first {
		<-st.gone
		return
	}
	defer close(st.gone)
	cancel()
	<-st.settled
	st.loop.Leave(st.m, reason, linger, last)
	f := c.cfg.onLeave
	if f == nil {
		f = st.cfg.onLeave
	}
	if st.told && f != nil {
		c.inTurn("OnLeave", func() { f(c, st.r, why) })
	}
	c.mu.Lock()
	delete(c.stays, st.r.name)
	c.mu.Unlock()
}

// roomClosed sees to it that the client leaves; it does not block.
func (st *stay) roomClosed() {
	c := st.c
	if st.home {
		c.Close(CodeGoingAway, "room closed")
		return
	}
	c.hub.goroutines.Go(func() {
		var last *wsconn.Frame
		if c.door == room.JSON {
			e := wire.LeftRoom{Room: st.r.name, Reason: wire.ReasonShutdown}
			last = room.Encode(func(b []byte) []byte { return wire.AppendLeftRoom(b, &e) })
		}
		st.leave(wire.ReasonShutdown, false, last, ErrRoomClosed)
	})
}

// validText says whether a message's bytes are text.
func validText(p []byte) error {
	if !utf8.Valid(p) {
		return errors.New("hub: message of text is not UTF-8")
	}
	return nil
}

// failed is called when the broker ended the room's subscription: its clients come back
// with their cursors once the broker is there again.
func (r *Room) failed() {
	for _, c := range r.hub.snapshot() {
		c.mu.Lock()
		st := c.stays[r.name]
		c.mu.Unlock()
		if st != nil && st.r == r {
			c.Close(CodeRestart, "room interrupted")
		}
	}
}
