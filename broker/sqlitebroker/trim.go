package sqlitebroker

import (
	"database/sql"
	"errors"
	"time"
)

const (
	trimRows    = 512 // messages that one transaction deletes of a room at most: a few ms
	trimIDs     = 1024
	sweepRooms  = 128 // in a sweep; 460,000 in an hour
	vacuumPages = 256 // 1 MiB, given back in a sweep at most
	vacuumFrom  = 256 // free pages that are kept for what comes
	saveClock   = time.Minute
)

// slack is how many messages more than it keeps a room may have in the file, so that not every publish
// deletes another. Readers leave them out.
func (r retention) slack() int64 { return int64(min(max(r.messages/4, 16), 256)) }

// A bounds is what a room keeps at some moment.
type bounds struct {
	seq   int64 // from above it on
	total int64 // an edge has at least this one
	at    int64 // from above it on
}

// bounds are those of a room with that head.
func (b *Broker) bounds(r retention, head position) bounds {
	k := bounds{seq: head.seq - int64(r.messages), total: head.total - b.o.roomBytes, at: -1}
	if r.age > 0 {
		k.at = b.now() - int64(r.age)
	}
	return k
}

// trimTouched trims, in the transaction under way, the rooms that have too much by it.
func (w *writer) trimTouched() error {
	for s := range w.touched {
		r := w.b.retention(s.name)
		over := s.head.seq-s.edge.seq-int64(r.messages) >= r.slack()
		if over || s.head.total-s.edge.total > w.b.o.roomBytes+w.b.o.roomBytes/4 {
			if _, err := w.trim(s); err != nil {
				return err
			}
		}
	}
	if w.ids.needed()-w.ids.oldest >= trimIDs {
		return w.trimIDs()
	}
	return nil
}

// trim deletes a room's oldest messages, within a transaction, and tells whether there are more to delete.
func (w *writer) trim(s *state) (more bool, err error) {
	keep := w.b.bounds(w.b.retention(s.name), s.head)
	rows, err := w.load.oldest.Query(s.id, trimRows)
	if err != nil {
		return false, err
	}
	edge, n := s.edge, 0
	for rows.Next() {
		p, err := scanPosition(rows)
		if err != nil {
			return false, errors.Join(err, rows.Close())
		}
		if p.seq > keep.seq && edge.total >= keep.total && p.at > keep.at {
			break
		}
		edge = p
		n++
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil || n == 0 {
		return false, err
	}
	if _, err := w.remove.messages.Exec(s.id, edge.seq); err != nil {
		return false, err
	}
	if _, err := w.update.edge.Exec(edge.seq, int64(edge.tag), edge.total, w.b.edgeSum(s.id, s.name, edge), s.id); err != nil {
		return false, err
	}
	s.edge = edge
	return n == trimRows, nil
}

// trimIDs deletes rows of IDs that are forgotten, within a transaction.
func (w *writer) trimIDs() error {
	until := min(w.ids.needed(), w.ids.oldest+trimIDs)
	if _, err := w.remove.ids.Exec(until); err != nil {
		return err
	}
	w.ids.oldest = until // where the transaction fails, some rows stay until the next Open
	return nil
}

// sweep does, once in a while and a little at a time, what publishes leave: rooms that nobody uses, IDs past their
// window, pages that are free. What fails is tried again by another sweep.
func (w *writer) sweep() {
	w.ids.expire(w.b.now(), 1<<16)
	if w.ids.needed() > w.ids.oldest {
		_ = w.transaction(w.trimIDs)
	}
	if w.latest >= w.saved+int64(saveClock) {
		_ = w.transaction(w.saveClock)
	}
	_ = w.sweepRooms()
	var free, pages int64
	if w.damaged != nil {
		return
	}
	if err := w.free.QueryRow().Scan(&free, &pages); err == nil && free > max(vacuumFrom, pages/8) {
		_, _ = w.vacuum.Exec()
	}
}

func (w *writer) saveClock() error {
	_, err := w.update.clock.Exec(w.latest)
	if err == nil {
		w.saved = w.latest
	}
	return err
}

// sweepRooms trims some rooms, each in transactions of its own.
func (w *writer) sweepRooms() error {
	rows, err := w.rooms.Query(w.swept, sweepRooms)
	if err != nil {
		return err
	}
	var due []string
	n := 0
	for rows.Next() {
		var name []byte
		var edgeTotal int64
		var oldest, at, newest, total sql.NullInt64 // NULL: no messages
		if err := rows.Scan(&w.swept, &name, &edgeTotal, &oldest, &at, &newest, &total); err != nil {
			return errors.Join(err, rows.Close())
		}
		n++
		if !oldest.Valid {
			continue
		}
		head := position{seq: newest.Int64, total: total.Int64}
		keep := w.b.bounds(w.b.retention(string(name)), head)
		if oldest.Int64 <= keep.seq || edgeTotal < keep.total || at.Int64 <= keep.at {
			due = append(due, string(name))
		}
	}
	if n < sweepRooms {
		w.swept = 0
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	for _, name := range due {
		s, err := w.state(name)
		if err != nil {
			return err
		}
		if err := w.transaction(func() error { _, err := w.trim(s); return err }); err != nil {
			w.forget(s)
			return err
		}
	}
	return nil
}

// transaction commits what f does.
func (w *writer) transaction(f func() error) error {
	err := w.damaged
	if err == nil {
		err = w.beginTx()
	}
	if err == nil {
		err = f()
	}
	if err == nil {
		err = w.commit()
	}
	if err != nil {
		w.note(err)
		return errors.Join(err, w.rollback())
	}
	return nil
}
