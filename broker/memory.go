package broker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Memory is a [Broker] within this process. It keeps messages in memory alone: against
// a failure of the process it keeps nothing, and after a restart every room has another
// epoch. It starts no goroutine; what has expired goes when something else is published
// or the room is used.
//
// Dedup does not depend on what is kept: within the window, a message that was trimmed
// meanwhile is still a duplicate, and so is one whose room was forgotten ([WithRooms]); its
// receipt then has the cursor of the room's former epoch.
type Memory struct {
	o     memoryOptions
	start time.Time     // of the clock
	dedup *dedup        // nil: off
	clock atomic.Uint64 // counts uses of rooms, for the lrus
	bytes atomic.Int64  // kept in all rooms

	rooms sync.Map // name to *room; written with mu held

	nextSweep atomic.Int64 // time.Duration since start

	mu        sync.Mutex // guards what follows; taken before room.mu
	closed    bool
	known     int                   // rooms in rooms
	own       map[string]*retention // of rooms that have one of their own, known or not
	idle      lru
	withBytes lru
	swept     int // index into withBytes.rooms
}

var _ Broker = (*Memory)(nil)

// NewMemory returns a broker that keeps each room's last 256 messages for an hour,
// within 4 MiB, and bounds what all rooms take together. Each bound is an option.
func NewMemory(opts ...MemoryOption) *Memory {
	m := &Memory{
		o: memoryOptions{
			retention:     retention{defaultMessages, defaultAge},
			roomBytes:     defaultRoomBytes,
			totalBytes:    defaultTotalBytes,
			rooms:         defaultRooms,
			dedupWindow:   defaultDedupWindow,
			dedupKeys:     defaultDedupKeys,
			waitingEvents: defaultWaitingEvents,
			waitingBytes:  defaultWaitingBytes,
		},
		start:     time.Now(),
		own:       make(map[string]*retention),
		idle:      lru{of: idleRooms},
		withBytes: lru{of: fullRooms},
	}
	for _, opt := range opts {
		opt(&m.o)
	}
	if m.o.dedupWindow > 0 {
		m.dedup = newDedup(m.o.dedupWindow, m.o.dedupKeys)
	}
	return m
}

// SetRetention sets what one room keeps, in place of [WithRetention], until it is set again;
// what [WithRetention] says ends it. Negative values panic. As many rooms may have their own as
// [WithRooms] allows; a further one is [ErrBusy].
func (m *Memory) SetRetention(name string, messages int, age time.Duration) error {
	ret := newRetention(messages, age)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	if _, ok := m.own[name]; !ok && len(m.own) >= m.o.rooms {
		return ErrBusy
	}
	own := &ret
	m.own[name] = own
	if ret == m.o.retention {
		delete(m.own, name)
		own = nil
	}
	if v, ok := m.rooms.Load(name); ok {
		r := v.(*room)
		r.mu.Lock()
		defer r.unlock()
		r.own = own
		r.expire(m.now())
	}
	return nil
}

// Retention returns how many messages a room keeps at most, and for how long; age 0 is no
// bound. Hubs tell their clients.
func (m *Memory) Retention(name string) (messages int, age time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if own := m.own[name]; own != nil {
		return own.messages, own.age
	}
	return m.o.messages, m.o.age
}

// DedupWindow returns for how long the IDs of messages are remembered. Hubs tell their
// clients.
func (m *Memory) DedupWindow() time.Duration { return m.o.dedupWindow }

// Publish implements [Broker]. Where it had to wait, an error that wraps the context's wraps
// [ErrBusy] too. After any error nothing was kept.
func (m *Memory) Publish(ctx context.Context, msg *Message) (Receipt, error) {
	if err := ctx.Err(); err != nil {
		return Receipt{}, fmt.Errorf("hub: publish: %w", err)
	}
	size := msg.size()
	if size > m.o.roomBytes || size > m.o.shrinkTo() {
		return Receipt{}, ErrTooLarge
	}
	var rec dedupRecord
	once := msg.ID != "" && m.dedup != nil
	if once {
		rec.dedupKey = m.dedup.key(msg)
	}
	r, err := m.room(msg.Room)
	if err != nil {
		return Receipt{}, err
	}
	if once { // a repeat need not wait
		if first, ok := m.dedup.find(rec.dedupKey, m.now()); ok {
			r.unlock()
			return first.repeat(rec.dedupKey)
		}
	}
	waited, err := r.admit(ctx)
	if err != nil {
		return Receipt{}, err
	}
	if waited && once { // published by another meanwhile?
		if first, ok := m.dedup.find(rec.dedupKey, m.now()); ok {
			r.release()
			return first.repeat(rec.dedupKey)
		}
	}
	kept, at := r.append(msg, size)
	if once {
		copy(rec.epoch[:], r.epoch)
		rec.seq, rec.tag, rec.time, rec.at = kept.Cursor.Seq, kept.Cursor.Tag, kept.Time.UnixNano(), at
		m.dedup.add(rec)
	}
	r.release()
	m.tidy(at)
	return Receipt{Cursor: kept.Cursor, Time: kept.Time}, nil
}

// size is what m counts for in bounds.
func (m *Message) size() int {
	return messageOverhead + len(m.ID) + len(m.From.Client) + len(m.From.User) + len(m.From.Name) + len(m.Key) + len(m.Data)
}

// append gives a copy of msg the next position, keeps it and hands it out.
func (r *room) append(msg *Message, size int) (*Message, time.Duration) {
	now := time.Now()
	e := entry{msg: new(Message), size: size, at: now.Sub(r.m.start)}
	prev := r.head.seq
	r.head = position{prev + 1, 1 + rand.Uint64N(1<<64-1)}
	*e.msg = *msg
	e.msg.Room = r.name
	e.msg.Time = now.Round(0).UTC()
	e.msg.Cursor = r.cursor(r.head)
	e.msg.Prev = prev
	r.keep(e)
	for _, s := range r.subs {
		s.push(waiting{msg: e.msg, size: size})
	}
	return e.msg, e.at
}

// Signal implements [Broker]. Where ctx ends first, it returns how many were reached until
// then; an error that wraps [ErrBusy] too means that the signal was handed to nobody. A
// subscription that closes without an answer reached nobody.
func (m *Memory) Signal(ctx context.Context, s *Signal) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("hub: signal: %w", err)
	}
	r, err := m.lookup(s.Room)
	if r == nil {
		return 0, err
	}
	if _, err := r.admit(ctx); err != nil {
		return 0, err
	}
	c := *s
	w := waiting{event: &Event{Type: EventSignal, Signal: &c}, size: messageOverhead + len(s.Key) + len(s.Data)}
	if s.To == (Target{}) {
		for _, sub := range r.subs {
			sub.push(w)
		}
		r.release()
		return 0, nil
	}
	call := r.call(w)
	r.release()
	select {
	case <-call.done:
	case <-ctx.Done():
	}
	return r.hangUp(ctx, call)
}

// Subscribe implements [Broker].
func (m *Memory) Subscribe(ctx context.Context, name string) (Subscription, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("hub: subscribe: %w", err)
	}
	r, err := m.room(name)
	if err != nil {
		return nil, err
	}
	defer r.unlock()
	s := &subscription{room: r, head: r.cursor(r.head), ready: make(chan struct{}, 1)}
	for _, member := range r.members {
		s.members = append(s.members, member)
	}
	r.subs = append(r.subs, s)
	return s, nil
}

// Since implements [Broker]. The zero Cursor is before the first message that the room had.
func (m *Memory) Since(ctx context.Context, name string, after Cursor, limit int) (Page, error) {
	return m.page(ctx, name, limit, func(r *room) Page { return r.since(after, limit) })
}

// Before implements [Broker].
func (m *Memory) Before(ctx context.Context, name string, before uint64, limit int) (Page, error) {
	return m.page(ctx, name, limit, func(r *room) Page { return r.before(before, limit) })
}

var errLimit = errors.New("hub: history: limit below 1")

func (m *Memory) page(ctx context.Context, name string, limit int, read func(*room) Page) (Page, error) {
	if err := ctx.Err(); err != nil {
		return Page{}, fmt.Errorf("hub: history: %w", err)
	}
	if limit < 1 {
		return Page{}, errLimit
	}
	r, err := m.room(name)
	if err != nil {
		return Page{}, err
	}
	defer r.unlock()
	r.expire(m.now())
	return read(r), nil
}

// Head implements [Broker].
func (m *Memory) Head(ctx context.Context, name string) (Cursor, error) {
	if err := ctx.Err(); err != nil {
		return Cursor{}, fmt.Errorf("hub: head: %w", err)
	}
	r, err := m.room(name)
	if err != nil {
		return Cursor{}, err
	}
	defer r.unlock()
	return r.cursor(r.head), nil
}

// Close implements [Broker]. It releases whoever waits, with [ErrClosed], and everything that
// was kept. To close again does nothing.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	m.rooms.Range(func(_, v any) bool {
		v.(*room).close()
		return true
	})
	m.rooms.Clear()
	m.idle.rooms, m.withBytes.rooms, m.own = nil, nil, nil
	if m.dedup != nil {
		m.dedup.clear()
	}
	return nil
}

// now is the broker's clock, which no change of the system's time moves.
func (m *Memory) now() time.Duration { return time.Since(m.start) }
