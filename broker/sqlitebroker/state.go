package sqlitebroker

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/chathub-go/hub/broker"
)

// A position is that of a message: the room's seqs begin with 1 and have no holes. The zero position is
// before the first.
type position struct {
	seq   int64
	tag   uint64
	total int64 // the sum of the room's sizes up to this message
	at    int64 // when it was kept, by the broker's clock; not set for an edge
}

// A state is where a room stands, as the writer has it. Its head is that of the transaction under way; where that
// fails the state is forgotten.
type state struct {
	id    int64 // 0: the room has no row yet
	name  string
	epoch string
	head  position // the newest message
	edge  position // the newest message that is not in the file any more
}

func (s *state) cursor() broker.Cursor {
	return broker.Cursor{Epoch: s.epoch, Seq: uint64(s.head.seq), Tag: s.head.tag}
}

// state returns a room's, from memory or the file.
func (w *writer) state(name string) (*state, error) {
	if e := w.states[name]; e != nil {
		w.used.MoveToFront(e)
		return e.Value.(*state), nil
	}
	s := &state{name: name, epoch: w.b.epoch(name)}
	var err error
	s.id, s.edge, err = w.b.scanRoom(w.load.room.QueryRow([]byte(name)), name)
	switch {
	case err == nil:
		_, s.head, err = w.b.scanMessage(w.load.head.QueryRow(s.id), name, s.epoch)
		if errors.Is(err, sql.ErrNoRows) {
			s.head, err = s.edge, nil
		}
	case errors.Is(err, sql.ErrNoRows):
		err = nil
	}
	if err == nil && s.head.seq < s.edge.seq {
		err = damaged("its newest message is %d, the last that went %d", s.head.seq, s.edge.seq)
	}
	if err != nil {
		w.note(err)
		return nil, fmt.Errorf("room %q: %w", name, err)
	}
	w.states[name] = w.used.PushFront(s)
	for w.used.Len() > cachedStates {
		last := w.used.Back().Value.(*state)
		if _, ok := w.touched[last]; ok {
			break
		}
		w.forget(last)
	}
	return s, nil
}

func (w *writer) forget(s *state) {
	if e := w.states[s.name]; e != nil && e.Value.(*state) == s {
		w.used.Remove(e)
		delete(w.states, s.name)
	}
}

func scanPosition(row interface{ Scan(...any) error }) (p position, err error) {
	var tag int64
	err = row.Scan(&p.seq, &tag, &p.total, &p.at)
	p.tag = uint64(tag)
	return p, err
}

// subscribe is Broker.Subscribe: no message is handed out meanwhile.
func (w *writer) subscribe(room string) (broker.Subscription, error) {
	s, err := w.state(room)
	if err != nil {
		return nil, fmt.Errorf("hub: sqlitebroker: subscribe: %w", err)
	}
	return w.b.local.Subscribe(context.Background(), room, s.cursor())
}

// note remembers damage: after it nothing is published.
func (w *writer) note(err error) {
	if w.damaged == nil && (code(err) == codeCorrupt || errors.Is(err, ErrDamaged)) {
		w.damaged = err
		if !errors.Is(err, ErrDamaged) {
			w.damaged = fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
}

// make gives a room its row.
func (w *writer) make(s *state) error {
	s.id = w.nextRoom
	w.nextRoom++ // also where the transaction fails: numbers may have holes
	_, err := w.insert.room.Exec(s.id, []byte(s.name), w.b.edgeSum(s.id, s.name, position{}))
	return err
}

// fromNano is a time as messages have it.
func fromNano(n int64) time.Time { return time.Unix(0, n).UTC() }

// write gives r the next position and inserts it.
func (w *writer) write(r *request, s *state, now int64) error {
	if s.id == 0 {
		if err := w.make(s); err != nil {
			return err
		}
	}
	m := &r.msg
	prev := s.head
	s.head = position{seq: prev.seq + 1, total: prev.total + r.size, at: max(now, prev.at)}
	w.latest = max(w.latest, s.head.at)
	r.at = s.head.at
	m.Time = fromNano(time.Now().UnixNano())
	s.head.tag = w.b.tag(m, s.head)
	m.Cursor = s.cursor()
	m.Prev = uint64(prev.seq)
	r.receipt = broker.Receipt{Cursor: m.Cursor, Time: m.Time}
	_, err := w.insert.message.Exec(s.id, s.head.seq, int64(s.head.tag), s.head.at, s.head.total, m.Time.UnixNano(), int64(m.Kind),
		blob(m.ID), blob(m.From.Client), blob(m.From.User), blob(m.From.Name), blob(m.Key), m.Data)
	if err != nil || !r.once {
		return err
	}
	r.n = w.ids.next
	w.ids.next++ // also where the transaction fails: numbers may have holes
	_, err = w.insert.id.Exec(r.n, r.key.key[:], r.key.payload[:], s.head.seq, int64(s.head.tag), m.Time.UnixNano(), s.head.at)
	return err
}

// blob is a string's bytes, NULL where there are none.
func blob(s string) any {
	if s == "" {
		return nil
	}
	return []byte(s)
}

// A commitError is one of COMMIT: what was to be committed may be found in the file later.
type commitError struct{ error }

func (e *commitError) Unwrap() error { return e.error }

func (w *writer) beginTx() error {
	if w.within {
		return nil
	}
	_, err := w.tx.begin.Exec()
	w.within = err == nil
	return err
}

func (w *writer) commit() error {
	if !w.within {
		return nil
	}
	if _, err := w.tx.commit.Exec(); err != nil {
		return &commitError{err}
	}
	w.within = false
	return nil
}

// rollback ends the transaction, which may have ended itself: with some errors SQLite takes it back at once.
func (w *writer) rollback() error {
	if !w.within {
		return nil
	}
	w.within = false
	_, err := w.tx.rollback.Exec()
	if err == nil || code(err) == codeError { // none is active
		return nil
	}
	return err
}
