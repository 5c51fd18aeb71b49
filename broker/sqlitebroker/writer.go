package sqlitebroker

import (
	"container/list"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/chathub-go/hub/broker"
)

const (
	queued       = 1024    // requests that wait for the writer; who comes later waits outside, as long as its context lets it
	groupCount   = 1024    // messages of a transaction
	groupBytes   = 4 << 20 // of them
	cachedStates = 8192    // rooms whose position is held in memory
)

// A writer is the goroutine that alone changes the file. It takes what waits, commits it in one
// transaction, and only then hands it out and answers. What follows b belongs to it; before run, to Open.
type writer struct {
	requests chan *request
	asks     chan *ask
	stopped  chan struct{} // closed when run has ended
	b        *Broker

	conn   conn
	insert struct{ message, id, room *sql.Stmt }
	load   struct{ room, head, oldest *sql.Stmt }
	remove struct{ messages, ids, retention *sql.Stmt }
	update struct{ edge, retention, clock *sql.Stmt }
	rooms  *sql.Stmt
	tx     struct{ begin, commit, rollback *sql.Stmt }
	free   *sql.Stmt
	vacuum *sql.Stmt

	states map[string]*list.Element // of *state
	used   list.List                // the one used last in front

	ids           ids
	nextRoom      int64 // id of the next row of rooms
	latest, saved int64 // the newest time of a row; that of meta's clock
	damaged       error // not nil: nothing is published
	swept         int64 // the room up to which sweep came

	group   []*request // of this transaction, those to be inserted
	repeats []*request // that repeat one of group
	fresh   map[digest]*request
	touched map[*state]struct{}
	within  bool // a transaction has begun
}

// A request is a publish on its way.
type request struct {
	msg   broker.Message
	size  int64
	once  bool // key is set
	key   dedupKey
	place broker.Place

	state atomic.Int32 // requestWaiting, ...

	// The writer's, until done is closed.
	n, at   int64    // row of its id; when it is kept, by the broker's clock
	first   *request // which this one repeats
	receipt broker.Receipt
	err     error
	done    chan struct{}
}

const (
	requestWaiting   = iota
	requestTaken     // by the writer
	requestWithdrawn // by who waited
)

// An ask is something else for the writer to do, between two transactions.
type ask struct {
	f    func()
	done chan struct{}
}

func newWriter(b *Broker) *writer {
	return &writer{
		b:        b,
		requests: make(chan *request, queued),
		asks:     make(chan *ask),
		stopped:  make(chan struct{}),
		states:   make(map[string]*list.Element),
		ids:      ids{window: int64(b.o.dedupWindow), limit: b.o.dedupKeys},
		fresh:    make(map[digest]*request),
		touched:  make(map[*state]struct{}),
	}
}

func (w *writer) prepare(ctx context.Context) error {
	return w.conn.prepare(ctx, map[**sql.Stmt]string{
		&w.insert.message:   "INSERT INTO messages (room, seq, tag, at, total, time, kind, id, client, user, name, key, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		&w.insert.id:        "INSERT INTO ids (n, key, payload, seq, tag, time, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
		&w.insert.room:      "INSERT INTO rooms (id, name, edge_seq, edge_tag, edge_total, sum) VALUES (?, ?, 0, 0, 0, ?)",
		&w.load.room:        "SELECT id, edge_seq, edge_tag, edge_total, sum FROM rooms WHERE name = ?",
		&w.load.head:        "SELECT " + columns + " FROM messages WHERE room = ? ORDER BY seq DESC LIMIT 1",
		&w.load.oldest:      "SELECT seq, tag, total, at FROM messages WHERE room = ? ORDER BY seq LIMIT ?",
		&w.remove.messages:  "DELETE FROM messages WHERE room = ? AND seq <= ?",
		&w.remove.ids:       "DELETE FROM ids WHERE n < ?",
		&w.remove.retention: "DELETE FROM retention WHERE room = ?",
		&w.update.edge:      "UPDATE rooms SET edge_seq = ?, edge_tag = ?, edge_total = ?, sum = ? WHERE id = ?",
		&w.update.retention: "INSERT OR REPLACE INTO retention (room, messages, age) VALUES (?, ?, ?)",
		&w.update.clock:     "UPDATE meta SET value = ? WHERE name = 'clock'",
		&w.rooms: `SELECT r.id, r.name, r.edge_total, old.seq, old.at, new.seq, new.total
			FROM (SELECT * FROM rooms WHERE id > ? ORDER BY id LIMIT ?) AS r
			LEFT JOIN messages AS old ON old.room = r.id AND old.seq = (SELECT min(seq) FROM messages WHERE room = r.id)
			LEFT JOIN messages AS new ON new.room = r.id AND new.seq = (SELECT max(seq) FROM messages WHERE room = r.id)
			ORDER BY r.id`,
		&w.tx.begin:    "BEGIN IMMEDIATE",
		&w.tx.commit:   "COMMIT",
		&w.tx.rollback: "ROLLBACK",
		&w.free:        "SELECT freelist_count, page_count FROM pragma_freelist_count, pragma_page_count",
		&w.vacuum:      fmt.Sprintf("PRAGMA incremental_vacuum(%d)", vacuumPages),
	})
}

// publish hands r to the writer and waits for its outcome.
func (w *writer) publish(ctx context.Context, r *request) (broker.Receipt, error) {
	select {
	case w.requests <- r:
	case <-ctx.Done():
		r.place.Release()
		return broker.Receipt{}, fmt.Errorf("%w: %w", broker.ErrBusy, ctx.Err())
	case <-w.b.closing:
		r.place.Release()
		return broker.Receipt{}, broker.ErrClosed
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		if r.state.CompareAndSwap(requestWaiting, requestWithdrawn) {
			r.place.Release()
			return broker.Receipt{}, fmt.Errorf("%w: %w", broker.ErrBusy, ctx.Err())
		}
		select {
		case <-r.done: // at the same time
		default:
			return broker.Receipt{}, fmt.Errorf("hub: publish: %w", ctx.Err())
		}
	case <-w.stopped:
		if r.state.CompareAndSwap(requestWaiting, requestWithdrawn) {
			return broker.Receipt{}, broker.ErrClosed
		}
		<-r.done // all that was taken has been answered
	}
	return r.receipt, r.err
}

// do has the writer call f, between two transactions. Where it returns an error f was not called. Once the
// writer has begun with f it does not look at ctx any more: f is a moment, unless the disk hangs.
func (w *writer) do(ctx context.Context, f func()) error {
	a := &ask{f: f, done: make(chan struct{})}
	select {
	case w.asks <- a:
		<-a.done
		return nil
	case <-ctx.Done():
		return fmt.Errorf("hub: sqlitebroker: %w", ctx.Err())
	case <-w.b.closing:
		return broker.ErrClosed
	}
}

// setRetention is Broker.SetRetention.
func (w *writer) setRetention(room string, ret retention) error {
	b := w.b
	b.mu.Lock()
	_, had := b.own[room]
	full := len(b.own) >= b.o.rooms
	b.mu.Unlock()
	if !had && full {
		return broker.ErrBusy
	}
	err := w.transaction(func() error {
		if ret == b.o.retention {
			_, err := w.remove.retention.Exec([]byte(room))
			return err
		}
		_, err := w.update.retention.Exec([]byte(room), ret.messages, int64(ret.age))
		return err
	})
	if err != nil {
		return fmt.Errorf("hub: sqlitebroker: retention of room %q: %w", room, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.own[room] = ret; ret == b.o.retention {
		delete(b.own, room)
	}
	return nil
}

func (w *writer) run() {
	defer close(w.stopped)
	sweep := time.NewTicker(w.b.o.sweepEvery)
	defer sweep.Stop()
	for {
		select { // Close goes first
		case <-w.b.closing:
			return
		default:
		}
		select {
		case <-w.b.closing:
			return
		case r := <-w.requests:
			w.publishGroup(r)
		case a := <-w.asks:
			a.f()
			close(a.done)
		case <-sweep.C:
			w.sweep()
		}
	}
}

// publishGroup commits r and what else waits, and answers.
func (w *writer) publishGroup(r *request) {
	w.group, w.repeats = w.group[:0], w.repeats[:0]
	var err error
	var bytes int64
	for n := 1; ; n++ {
		if r.state.CompareAndSwap(requestWaiting, requestTaken) {
			bytes += r.size
			if err = w.add(r); err != nil {
				break
			}
		}
		if n == groupCount || bytes >= groupBytes {
			break
		}
		select {
		case r = <-w.requests:
			continue
		default:
		}
		break
	}
	if err == nil && w.within {
		err = w.trimTouched()
	}
	if err == nil {
		err = w.commit()
	}
	if err != nil {
		w.failed(err)
	} else {
		w.kept()
	}
	clear(w.group)
	clear(w.repeats)
	clear(w.fresh)
	clear(w.touched)
}

// add puts r into the transaction, or answers it where it needs none. An error is one of the whole group.
func (w *writer) add(r *request) error {
	now := w.b.now()
	if r.once {
		if first := w.fresh[r.key.key]; first != nil {
			r.first = first
			w.repeats = append(w.repeats, r)
			return nil
		}
		if rec, ok := w.ids.find(r.key.key, now); ok {
			r.receipt, r.err = rec.repeat(r.key, w.b.epoch(r.msg.Room))
			r.place.Release()
			close(r.done)
			return nil
		}
	}
	if w.damaged != nil {
		r.fail(fmt.Errorf("hub: sqlitebroker: publish: %w", w.damaged))
		return nil
	}
	s, err := w.state(r.msg.Room)
	if err != nil { // of this room alone
		r.fail(fmt.Errorf("hub: sqlitebroker: publish: %w", err))
		return nil
	}
	w.group = append(w.group, r)
	if r.once {
		w.fresh[r.key.key] = r
	}
	w.touched[s] = struct{}{}
	if err := w.beginTx(); err != nil {
		return err
	}
	return w.write(r, s, now)
}

func (r *request) fail(err error) {
	r.err = err
	r.place.Release()
	close(r.done)
}

// failed takes the transaction back and refuses all that is in it.
func (w *writer) failed(err error) {
	w.note(err)
	var commit *commitError
	unsure := errors.As(err, &commit)
	if back := w.rollback(); back != nil {
		unsure = true
	}
	for s := range w.touched {
		w.forget(s) // the file knows better
	}
	err = fmt.Errorf("hub: sqlitebroker: publish: %w", err)
	if code(err) == codeFull && !unsure {
		err = fmt.Errorf("%w: %w", broker.ErrBusy, err)
	}
	for _, r := range w.group {
		r.fail(err)
	}
	for _, r := range w.repeats {
		r.fail(err)
	}
}

// kept hands out what was committed, and answers.
func (w *writer) kept() {
	if len(w.group) > 0 {
		w.b.transactions.Add(1)
		w.b.messages.Add(uint64(len(w.group)))
	}
	for _, r := range w.group {
		if r.once {
			w.ids.add(r.key.key, dedupRecord{
				payload: r.key.payload, n: r.n, seq: r.msg.Cursor.Seq, tag: r.msg.Cursor.Tag,
				time: r.msg.Time.UnixNano(), at: r.at,
			})
		}
		r.place.Deliver(&r.msg)
		close(r.done)
	}
	for _, r := range w.repeats {
		if r.key.payload != r.first.key.payload {
			r.fail(broker.ErrIDReused)
			continue
		}
		r.receipt = r.first.receipt
		r.receipt.Duplicate = true
		r.place.Release()
		close(r.done)
	}
}

// close is called when run has ended.
func (w *writer) close() error {
	var err error
	if w.latest > w.saved {
		err = w.transaction(w.saveClock)
	}
	return errors.Join(err, w.conn.close())
}
