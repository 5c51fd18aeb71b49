package sqlitebroker

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"sort"

	"github.com/chathub-go/hub/broker"
)

// A reader is a connection that only reads; the writer does not hold it up. Who has taken it from Broker.readers
// owns it.
type reader struct {
	b       *Broker
	conn    conn
	room    *sql.Stmt
	head    *sql.Stmt
	at      *sql.Stmt
	forward *sql.Stmt
	back    *sql.Stmt
	begin   *sql.Stmt
	end     *sql.Stmt
}

func (r *reader) open(ctx context.Context) error {
	if err := r.conn.open(ctx, r.b.path, "PRAGMA busy_timeout = 10000", "PRAGMA query_only = ON"); err != nil {
		return err
	}
	return r.conn.prepare(ctx, map[**sql.Stmt]string{
		&r.room:    "SELECT id, edge_seq, edge_tag, edge_total, sum FROM rooms WHERE name = ?",
		&r.head:    "SELECT " + columns + " FROM messages WHERE room = ? ORDER BY seq DESC LIMIT 1",
		&r.at:      "SELECT seq, tag, total, at FROM messages WHERE room = ? AND seq = ?",
		&r.forward: "SELECT " + columns + " FROM messages WHERE room = ? AND seq > ? ORDER BY seq LIMIT ?",
		&r.back:    "SELECT " + columns + " FROM messages WHERE room = ? AND seq BETWEEN ? AND ? ORDER BY seq",
		&r.begin:   "BEGIN",
		&r.end:     "ROLLBACK",
	})
}

func (r *reader) close() error { return r.conn.close() }

// A history is a room's as one transaction sees it.
type history struct {
	r          *reader
	room       string
	id         int64
	epoch      string
	head, edge position // edge: the newest message that is not in the file
	first      int64    // edge's seq or, where retention says so, that of a later message: what is above it is handed out
}

// read calls f with a room's history.
func (b *Broker) read(ctx context.Context, what, room string, f func(*history) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("hub: %s: %w", what, err)
	}
	select {
	case <-b.closing: // goes first
		return broker.ErrClosed
	default:
	}
	var r *reader
	select {
	case r = <-b.readers:
	case <-ctx.Done():
		return fmt.Errorf("hub: %s: %w", what, ctx.Err())
	case <-b.closing:
		return broker.ErrClosed
	}
	defer func() { b.readers <- r }()
	h := &history{r: r, room: room, epoch: b.epoch(room)}
	if err := h.read(f); err != nil {
		return fmt.Errorf("hub: sqlitebroker: %s: room %q: %w", what, room, err)
	}
	return nil
}

func (h *history) read(f func(*history) error) (err error) {
	if _, err := h.r.begin.Exec(); err != nil {
		return err
	}
	defer func() {
		if _, end := h.r.end.Exec(); err == nil {
			err = end
		}
	}()
	if err := h.load(); err != nil {
		return err
	}
	return f(h)
}

func (h *history) load() (err error) {
	h.id, h.edge, err = h.r.b.scanRoom(h.r.room.QueryRow([]byte(h.room)), h.room)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // never had a message
	}
	if err != nil {
		return err
	}
	h.first = h.edge.seq
	_, h.head, err = h.r.b.scanMessage(h.r.head.QueryRow(h.id), h.room, h.epoch)
	if errors.Is(err, sql.ErrNoRows) {
		h.head, err = h.edge, nil
	}
	return err
}

// expire finds the first message that is to be handed out. Sizes and times grow with seq, so it searches.
func (h *history) expire() error {
	keep := h.r.b.bounds(h.r.b.retention(h.room), h.head)
	h.first = max(h.first, keep.seq)
	if h.edge.total < keep.total {
		if err := h.shrink(keep.total); err != nil {
			return err
		}
	}
	return h.skip(func(p position) bool { return p.at <= keep.at })
}

// shrink raises first to the first message with that total, if it is not there yet.
func (h *history) shrink(total int64) error {
	at, err := h.position(h.first)
	if err != nil || at.total >= total {
		return err
	}
	err = h.skip(func(p position) bool { return p.total < total })
	h.first = min(h.first+1, h.head.seq)
	return err
}

// skip raises first for as long as the message after it is gone.
func (h *history) skip(gone func(position) bool) error {
	var failed error
	is := func(seq int64) bool {
		p, err := h.position(seq)
		failed = errors.Join(failed, err)
		return err == nil && gone(p)
	}
	if h.first >= h.head.seq || !is(h.first+1) { // as most often
		return failed
	}
	n := sort.Search(int(h.head.seq-h.first-1), func(i int) bool { return !is(h.first + 2 + int64(i)) })
	h.first += 1 + int64(n)
	return failed
}

// position is that of the message at seq, which is from edge.seq to head.seq.
func (h *history) position(seq int64) (position, error) {
	switch seq {
	case h.edge.seq:
		return h.edge, nil
	case h.head.seq:
		return h.head, nil
	}
	p, err := scanPosition(h.r.at.QueryRow(h.id, seq))
	if errors.Is(err, sql.ErrNoRows) {
		err = damaged("no message %d", seq)
	}
	return p, err
}

func (h *history) cursor(p position) broker.Cursor {
	return broker.Cursor{Epoch: h.epoch, Seq: uint64(p.seq), Tag: p.tag}
}

// Head implements [broker.Broker].
func (b *Broker) Head(ctx context.Context, room string) (head broker.Cursor, err error) {
	err = b.read(ctx, "head", room, func(h *history) error {
		head = h.cursor(h.head)
		return nil
	})
	return head, err
}

var errLimit = errors.New("limit below 1")

// Since implements [broker.Broker]. The zero Cursor is before the first message that the room had.
func (b *Broker) Since(ctx context.Context, room string, after broker.Cursor, limit int) (p broker.Page, err error) {
	err = b.read(ctx, "history", room, func(h *history) error {
		if limit < 1 {
			return errLimit
		}
		if err := h.expire(); err != nil {
			return err
		}
		p, err = h.since(after, limit)
		return err
	})
	if err != nil {
		return broker.Page{}, err
	}
	return p, nil
}

func (h *history) since(after broker.Cursor, limit int) (broker.Page, error) {
	if after == (broker.Cursor{}) {
		after.Epoch = h.epoch
	}
	head := h.cursor(h.head)
	p := broker.Page{Verdict: broker.Recovered, Next: after, Head: head}
	if after.Epoch != h.epoch || after.Seq > head.Seq || after.Seq == 0 && after.Tag != 0 {
		p.Verdict, p.Next = broker.Reset, head
		return p, nil
	}
	from := int64(after.Seq)
	if after.Tag != 0 && from >= h.edge.seq {
		at, err := h.position(from)
		if err != nil && !errors.Is(err, ErrDamaged) {
			return p, err
		}
		if err == nil && at.tag != after.Tag {
			p.Verdict, p.Next = broker.Reset, head
			return p, nil
		}
	}
	from = max(from, h.first)
	var err error
	if p.Messages, from, err = h.next(from, limit); err != nil {
		return p, err
	}
	if from > int64(after.Seq) {
		p.Verdict, p.Next = broker.Gap, head
		p.Gap = broker.GapBounds{After: after.Seq, Before: uint64(from) + 1, Missed: int(from) - int(after.Seq)}
	}
	if n := len(p.Messages); n > 0 {
		p.Next = p.Messages[n-1].Cursor
		p.More = p.Next.Seq < head.Seq
	}
	return p, nil
}

// next returns messages without a hole, and the seq before the first of them: from or, where what follows it
// is damaged or missing, a later one.
func (h *history) next(from int64, limit int) ([]*broker.Message, int64, error) {
	for from < h.head.seq {
		list, err := h.messages(h.r.forward, from, int64(limit), false)
		if len(list) > 0 {
			from = int64(list[0].Prev)
			n := 1
			for n < len(list) && list[n].Prev == list[n-1].Cursor.Seq {
				n++
			}
			return list[:n], from, nil
		}
		if err == nil {
			err = damaged("no message after %d", from)
		}
		if !errors.Is(err, ErrDamaged) {
			return nil, from, err
		}
		from++
	}
	return nil, from, nil
}

// Before implements [broker.Broker].
func (b *Broker) Before(ctx context.Context, room string, before uint64, limit int) (p broker.Page, err error) {
	err = b.read(ctx, "history", room, func(h *history) error {
		if limit < 1 {
			return errLimit
		}
		if err := h.expire(); err != nil {
			return err
		}
		p, err = h.before(before, limit)
		return err
	})
	if err != nil {
		return broker.Page{}, err
	}
	return p, nil
}

func (h *history) before(before uint64, limit int) (broker.Page, error) {
	head := h.cursor(h.head)
	end := h.head.seq // the last of the page
	if before > 0 && before <= head.Seq {
		end = int64(before) - 1
	}
	first := h.first + 1
	if end-first >= int64(limit) {
		first = end - int64(limit) + 1
	}
	p := broker.Page{Next: head, Head: head, More: first > h.first+1 && end > h.first}
	if first > end {
		return p, nil
	}
	var err error
	if p.Messages, err = h.messages(h.r.back, first, end, true); err != nil {
		return p, err
	}
	if n := len(p.Messages); n > 0 {
		p.Next = p.Messages[n-1].Cursor
	} else {
		p.More = false // all are damaged
	}
	return p, nil
}

// messages are those that a statement selects with two numbers. Damaged ones are left out or, without skip, end the
// list with their error.
func (h *history) messages(s *sql.Stmt, a, b int64, skip bool) ([]*broker.Message, error) {
	rows, err := s.Query(h.id, a, b)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := make([]*broker.Message, 0, min(b, h.head.seq-h.first, math.MaxInt16))
	for rows.Next() {
		m, _, err := h.r.b.scanMessage(rows, h.room, h.epoch)
		if skip && errors.Is(err, ErrDamaged) {
			continue
		}
		if err != nil {
			return list, err
		}
		list = append(list, m)
	}
	return list, rows.Err()
}
