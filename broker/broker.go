// Package broker is the seam between a hub and whatever orders its rooms'
// messages, keeps them, and carries them between processes.
//
// A hub uses the in-memory broker ([NewMemory]) unless it is given another.
// An implementation is held to package brokertest, which is one call.
//
// # What a broker promises
//
//   - Order: a room's messages have one order, that of [Cursor.Seq], and every
//     [Subscription] hands them out in it. Seqs grow; they need not be contiguous.
//     Each message names the seq before it in its room ([Message.Prev]), so that a
//     reader notices a hole.
//   - Once: a [Message] with an ID that its publisher (From.User) used before in
//     that room, within the broker's dedup window, is not kept again; the
//     [Receipt] is the first one's. The same ID with another payload is [ErrIDReused].
//   - Kept: when Publish returns without an error, the message is kept, against the
//     failures that the broker's documentation names.
//   - A verdict: Since tells whether what it returns continues a cursor without a
//     hole ([Recovered]), with one ([Gap]), or is another history ([Reset]).
//   - Bounded: whatever waits for a subscriber has a bound; at it Publish and Signal
//     wait, before anything is kept, until their context ends.
//
// A context bounds the call that it is given to, not what the call has opened: a Subscription and a
// Lease outlive theirs.
//
// All methods of [Broker], [Subscription] and [Lease] may be called concurrently, but
// for [Subscription.Take], which belongs to one goroutine.
package broker

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrClosed is returned by every method of a broker that was closed.
	ErrClosed = errors.New("hub: broker closed")

	// ErrIDReused means that the publisher used the message's ID before, for
	// another payload (Kind, Data and Key). It is final: the same call can't succeed later.
	ErrIDReused = errors.New("hub: message id reused with another payload")

	// ErrBusy means that the broker is at a bound (waiting messages, open rooms).
	// Nothing was kept; the same call may succeed later.
	ErrBusy = errors.New("hub: broker busy")

	// ErrTooLarge means that the message can never be kept within the broker's bounds.
	ErrTooLarge = errors.New("hub: message larger than the broker keeps")
)

// A Broker orders, keeps and carries the messages of rooms. See the package
// comment for what it promises.
type Broker interface {
	// Publish gives m a position, keeps it and hands it to the room's
	// subscriptions. It fills m's Time, Cursor and Prev in a copy: m stays the
	// caller's, but for Data, which the broker may keep and nobody may change.
	// If ctx ends first, the error wraps ctx.Err() and the message may or may not
	// be kept: the caller repeats it under the same ID to know. Where the error
	// wraps ErrBusy too, it was not kept.
	Publish(ctx context.Context, m *Message) (Receipt, error)

	// Signal hands s to the room's subscriptions of all processes, after the
	// messages they were handed before, and keeps nothing. Where s.To is set, it
	// waits until every subscription has called its [Event.Reached], and returns
	// the sum; a subscription that closes first counts 0. If ctx ends first, the error
	// wraps ctx.Err(), and the sum is of those that answered. Otherwise it returns 0 at once.
	Signal(ctx context.Context, s *Signal) (reached int, err error)

	// Subscribe begins to receive a room's events, from the head on.
	Subscribe(ctx context.Context, room string) (Subscription, error)

	// Since returns the messages that follow a cursor, oldest first, at most limit
	// (at least 1). The zero Cursor stands before the room's first message.
	Since(ctx context.Context, room string, after Cursor, limit int) (Page, error)

	// Before returns the newest kept messages with a seq below before, oldest first,
	// at most limit (at least 1); before 0 means the newest of all. Its page has no verdict.
	Before(ctx context.Context, room string, before uint64, limit int) (Page, error)

	// Head returns the position of the newest message that the room had, kept or
	// not. A room that never had one has a head with Seq 0 and an epoch.
	Head(ctx context.Context, room string) (Cursor, error)

	// Lease opens this process's presence. The node's name is unique to the process
	// and its start. When the lease ends (Close, or the process is gone for the
	// broker's lease time) all its members have left.
	Lease(ctx context.Context, node string) (Lease, error)

	// Close releases whoever waits and whatever the broker holds. Subscriptions end.
	Close() error
}

// A Subscription is one reader of a room's events: messages in order, signals,
// and presence.
type Subscription interface {
	// Head is the room's head when the subscription began: the first message
	// event has it as its Prev.
	Head() Cursor

	// Members are the members present when the subscription began, over all
	// processes. Presence events after it are about changes; they may repeat what
	// is known (a join of who is there, a leave of who is not).
	Members() []Member

	// Ready has a value when Take may have something; it is never closed.
	Ready() <-chan struct{}

	// Take appends up to n waiting events to buf and returns it. It never blocks.
	// It fails with ErrClosed once the broker or the subscription was closed and
	// all that waited has been taken. After a Take that returned n events Ready
	// has a value again if more wait.
	Take(buf []Event, n int) ([]Event, error)

	// Close ends the subscription and releases whoever waits for it.
	Close()
}

// An EventType says what an [Event] is.
type EventType uint8

const (
	EventMessage EventType = iota + 1 // Message is set
	EventSignal                       // Signal is set
	EventJoined                       // Members have joined, over all processes
	EventLeft                         // Members have left
	// EventGap says that the subscription lost messages that it could not get
	// again (the engine lost or trimmed them). Gap has the bounds and Cursor the
	// position at which the subscription goes on; another epoch means another history.
	EventGap
)

// An Event is what a [Subscription] hands out. What it points to is shared and
// must not be changed.
type Event struct {
	Type    EventType
	Message *Message
	Signal  *Signal
	Members []Member
	Gap     GapBounds
	Cursor  Cursor

	// Reached is set where Signal.To is: the receiver calls it once with the number
	// of its clients that got the signal. It does not block.
	Reached func(clients int)
}

// A Kind says what a message's bytes are.
type Kind uint8

const (
	KindText   Kind = iota + 1 // UTF-8 text
	KindJSON                   // one JSON value other than a string, compact
	KindBinary                 // any bytes
)

// A Member is who is in a room, as others see it.
type Member struct {
	Client string `json:"id,omitempty"`   // one connection, by which presence tells members apart
	User   string `json:"user,omitempty"` // who it is; several clients may be one user
	Name   string `json:"name,omitempty"` // what to show
}

// A Message is one entry of a room's history. One that a broker hands out is
// shared and must not be changed.
type Message struct {
	Room string
	// ID is the publisher's own, for dedup: with From.User it is the key. Without
	// an ID a message is never a duplicate.
	ID   string
	From Member
	Kind Kind
	Data []byte

	// Key names what the message tells the newest of, such as a cursor or a price: a hub
	// that keeps the latest of each key for its slow clients drops older messages of the
	// same key for it, and tells them so. It is at most 64 bytes of UTF-8; "" is none. As
	// with ID, a key is its publisher's (From.User); those with no user share theirs. To a
	// broker it is payload.
	Key string

	// Set by the broker.
	Time   time.Time // when it was kept, by the broker's clock; within a room it grows as that does
	Cursor Cursor    // its position
	Prev   uint64    // the seq of the room's message before it; 0 for the first
}

// A Receipt says where a message is kept.
type Receipt struct {
	Cursor    Cursor
	Time      time.Time
	Duplicate bool // it was kept by an earlier Publish with the same ID
}

// A Target is whom a signal is for: one client, or all clients of a user. The zero
// Target is everyone in the room.
type Target struct {
	Client string `json:"client,omitempty"`
	User   string `json:"user,omitempty"`
}

// A Signal is carried to a room's subscriptions and not kept. Brokers look at Room
// and To alone.
type Signal struct {
	Room string
	Type string // the hub's own word for it
	To   Target
	ID   string
	From Member
	Kind Kind
	Data []byte
	Key  string // as of Message
	Time time.Time
}

// A Verdict says how a [Page] continues the cursor that was asked for.
type Verdict uint8

const (
	// Recovered: every message after the cursor is in this page and those after it.
	Recovered Verdict = iota + 1
	// Gap: messages after the cursor are no longer kept; the page has the bounds and
	// begins with the oldest kept one.
	Gap
	// Reset: the cursor is from another history (another epoch, a tail that was
	// lost, a future that is not ours). The page has no messages, only the head.
	Reset
)

func (v Verdict) String() string {
	switch v {
	case Recovered:
		return "recovered"
	case Gap:
		return "gap"
	case Reset:
		return "reset"
	}
	return ""
}

// GapBounds are what is missing: every seq s with After < s < Before.
type GapBounds struct {
	After, Before uint64
	Missed        int // how many messages, or -1 where that is not known
}

// A Page is a piece of a room's history. Its messages are shared and must not be
// changed.
type Page struct {
	Verdict  Verdict   // of Since
	Gap      GapBounds // where Verdict is Gap
	Messages []*Message
	// Next continues the page: the cursor of its last message; without messages the
	// cursor that was asked for (Recovered), the head (Gap, Reset).
	Next Cursor
	Head Cursor // the room's head at that time
	More bool   // Since: messages after Next were kept; Before: older ones are kept
}

// A Lease is the presence of one process.
type Lease interface {
	// Update says that members of this process have joined and left a room, each of
	// them once. Subscriptions hear of those who joined first, so that a user who left
	// with one client and came with another was never gone.
	Update(ctx context.Context, room string, joined, left []Member) error

	// Close ends the lease: all its members have left.
	Close(ctx context.Context) error
}
