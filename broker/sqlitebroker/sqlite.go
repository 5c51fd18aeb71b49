package sqlitebroker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chathub-go/hub/broker"
)

var (
	// ErrInUse means that another process, or another Broker of this one, has the file open.
	ErrInUse = errors.New("hub: sqlitebroker: the file is in use")

	// ErrNewer means that a newer version of this package made the file.
	ErrNewer = errors.New("hub: sqlitebroker: the file is of a newer version")

	// ErrDamaged means that something in the file is not as it was written. A Broker that met it takes no more
	// publishes until the file was mended and is opened again; it serves what can be read.
	ErrDamaged = errors.New("hub: sqlitebroker: the file is damaged")

	// ErrForeign means that the file is no database of this package.
	ErrForeign = errors.New("hub: sqlitebroker: not a file of this broker")
)

// A Broker is a [broker.Broker] on one file. See the package comment for what it promises.
// All methods may be called concurrently. One goroutine, the writer, runs until Close.
type Broker struct {
	o     options
	path  string
	id    []byte        // random, of the file
	start time.Time     // of the clock
	ahead time.Duration // by which tests move it

	local   *broker.Local
	writer  *writer
	readers chan *reader // those that are free
	lock    *conn

	transactions, messages atomic.Uint64 // for Stats

	mu  sync.Mutex           // guards own
	own map[string]retention // of rooms that have one of their own

	close    sync.Once
	closeErr error
	closing  chan struct{} // closed by Close
}

var _ broker.Broker = (*Broker)(nil)

// Retention returns how many messages a room keeps at most, and for how long; age 0 is no bound. Hubs
// tell their clients.
func (b *Broker) Retention(room string) (messages int, age time.Duration) {
	r := b.retention(room)
	return r.messages, r.age
}

func (b *Broker) retention(room string) retention {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r, ok := b.own[room]; ok {
		return r
	}
	return b.o.retention
}

// SetRetention sets what one room keeps, in place of [WithRetention], until it is set again, also
// after a restart; what [WithRetention] says ends it. Negative values panic. It returns once that is
// committed. As many rooms may have their own as [WithRooms] allows; a further one is [broker.ErrBusy].
func (b *Broker) SetRetention(room string, messages int, age time.Duration) error {
	ret := newRetention(messages, age)
	select {
	case <-b.closing:
		return broker.ErrClosed
	default:
	}
	if b.retention(room) == ret {
		return nil // no need to wait for the disk
	}
	var err error
	if asked := b.writer.do(context.Background(), func() { err = b.writer.setRetention(room, ret) }); asked != nil {
		return asked
	}
	return err
}

// DedupWindow returns for how long the IDs of messages are remembered. Hubs tell their clients.
func (b *Broker) DedupWindow() time.Duration { return b.o.dedupWindow }

// Stats are counts since Open.
type Stats struct {
	Transactions uint64 // that committed messages
	Messages     uint64 // that were committed by them
}

// Stats returns how many messages were committed and in how many transactions: each costs an fsync.
func (b *Broker) Stats() Stats {
	return Stats{Transactions: b.transactions.Load(), Messages: b.messages.Load()}
}

// Publish implements [broker.Broker]. Where ctx ends before the message's transaction began, the error
// wraps [broker.ErrBusy] too, and nothing was kept.
func (b *Broker) Publish(ctx context.Context, m *broker.Message) (broker.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return broker.Receipt{}, fmt.Errorf("hub: publish: %w", err)
	}
	r := &request{msg: *m, size: size(m), done: make(chan struct{})}
	if r.size > b.o.roomBytes {
		return broker.Receipt{}, broker.ErrTooLarge
	}
	if m.ID != "" && b.o.dedupWindow > 0 {
		r.once, r.key = true, newDedupKey(b.id, m)
		if b.local.Full(m.Room) { // a repeat need not wait for a place
			receipt, found, err := b.repeat(ctx, r)
			if found || err != nil {
				return receipt, err
			}
		}
	}
	var err error
	if r.place, err = b.local.Admit(ctx, m); err != nil {
		return broker.Receipt{}, err
	}
	return b.writer.publish(ctx, r)
}

// repeat tells whether r was published before.
func (b *Broker) repeat(ctx context.Context, r *request) (receipt broker.Receipt, found bool, err error) {
	var rec dedupRecord
	if err := b.writer.do(ctx, func() { rec, found = b.writer.ids.find(r.key.key, b.now()) }); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", broker.ErrBusy, ctx.Err())
		}
		return broker.Receipt{}, false, err
	}
	if !found {
		return broker.Receipt{}, false, nil
	}
	receipt, err = rec.repeat(r.key, b.epoch(r.msg.Room))
	return receipt, true, err
}

// Signal implements [broker.Broker]. Where ctx ends first, it returns how many were reached until
// then; an error that wraps [broker.ErrBusy] too means that the signal was handed to nobody.
func (b *Broker) Signal(ctx context.Context, s *broker.Signal) (reached int, err error) {
	return b.local.Signal(ctx, s)
}

// Subscribe implements [broker.Broker]. It waits for the transaction under way.
func (b *Broker) Subscribe(ctx context.Context, room string) (broker.Subscription, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("hub: subscribe: %w", err)
	}
	var s broker.Subscription
	var err error
	if asked := b.writer.do(ctx, func() { s, err = b.writer.subscribe(room) }); asked != nil {
		return nil, asked
	}
	return s, err
}

// Lease implements [broker.Broker]. The lease ends with Close, or with the process.
func (b *Broker) Lease(ctx context.Context, node string) (broker.Lease, error) {
	return b.local.Lease(ctx, node)
}

// Close implements [broker.Broker]. What is being committed is finished and acked, what waits gets
// [broker.ErrClosed]. It returns an error where the file could not be closed well; what was acked
// is kept all the same. To close again returns the same.
func (b *Broker) Close() error {
	b.close.Do(func() {
		close(b.closing)
		_ = b.local.Close() // has no error
		<-b.writer.stopped
		for range cap(b.readers) {
			b.closeErr = errors.Join(b.closeErr, (<-b.readers).close())
		}
		b.closeErr = errors.Join(b.closeErr, b.writer.close(), b.lock.close())
		if b.closeErr != nil {
			b.closeErr = fmt.Errorf("hub: sqlitebroker: close %s: %w", b.path, b.closeErr)
		}
	})
	return b.closeErr
}

// now is the broker's clock, in nanoseconds: the system's at Open, which later changes of the system's
// time don't move.
func (b *Broker) now() int64 { return b.start.Add(time.Since(b.start) + b.ahead).UnixNano() }

// messageOverhead is what a message counts beside its bytes: the row's other columns, the row of its ID, and
// what a page does not fill.
const messageOverhead = 128

func size(m *broker.Message) int64 {
	return int64(messageOverhead + len(m.ID) + len(m.From.Client) + len(m.From.User) + len(m.From.Name) + len(m.Key) + len(m.Data))
}
