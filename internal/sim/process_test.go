package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/chathub-go/hub/broker"
)

// A process is one process's end of an engine: a broker.Broker. The engine's mu guards all of it.
type process struct {
	e      *engine
	f      faults
	closed bool
	subs   []*subscription
	leases []*lease
}

// faults is what goes wrong with a process's calls: the n-th call of a kind has the n-th draw of a stream of
// its own, so that which goroutine is faster changes nothing in the plan. The zero faults are none.
type faults struct {
	publish, read, update, deliver *rand.Rand

	commitLag time.Duration // at most, usually
	late      time.Duration // at most, until a subscription hears of what was committed
	errors    float64       // how often a call fails
}

var _ broker.Broker = (*process)(nil)

var (
	errDown    = errors.New("sim: the engine is away")
	errLostAck = errors.New("sim: the answer was lost")
)

func (e *engine) open(f faults) *process { return &process{e: e, f: f} }

// A misfortune is what becomes of one call.
type misfortune struct {
	lag                     time.Duration
	busy, fail, lose, leave bool
}

// misfortune draws the next. The engine's mu is held.
func (p *process) misfortune(r *rand.Rand, lag time.Duration) (m misfortune) {
	if r == nil {
		return m
	}
	kind, how, leave := r.Float64(), r.Float64(), r.IntN(2) == 0
	m.leave = leave
	if p.e.calm {
		return m
	}
	m.lag = time.Duration(how*how*float64(lag)) + p.e.slow
	switch e := p.f.errors; {
	case kind < e/4:
		m.busy = true
	case kind < e/2:
		m.fail = true
	case kind < e:
		m.lose = true
	case kind < e*1.2: // longer than the hub waits
		m.lag = 12 * time.Second
	}
	return m
}

// wait waits for d, with mu unlocked meanwhile, or until ctx ends.
func (p *process) wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	p.e.mu.Unlock()
	defer p.e.mu.Lock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Publish implements broker.Broker.
func (p *process) Publish(ctx context.Context, m *broker.Message) (broker.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return broker.Receipt{}, fmt.Errorf("sim: publish: %w", err)
	}
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	f := p.misfortune(p.f.publish, p.f.commitLag)
	s := p.e.shelf(m.Room)
	for {
		switch {
		case p.closed:
			return broker.Receipt{}, broker.ErrClosed
		case f.busy:
			count("broker busy")
			return broker.Receipt{}, broker.ErrBusy
		case f.fail:
			count("publish failed")
			return broker.Receipt{}, errDown
		}
		if first := s.find(m); first != nil {
			return repeat(first, m)
		}
		if same := s.findPending(m); same != nil {
			if err := p.until(ctx, same.done); err != nil {
				return broker.Receipt{}, fmt.Errorf("sim: publish: %w", err)
			}
			continue
		}
		if !s.full() {
			break
		}
		count("broker full")
		if err := p.until(ctx, p.e.changed); err != nil && s.full() {
			return broker.Receipt{}, fmt.Errorf("%w: %w", broker.ErrBusy, err)
		}
	}
	return p.keep(ctx, s, m, f)
}

// until waits for a channel to be closed, with mu unlocked meanwhile.
func (p *process) until(ctx context.Context, done <-chan struct{}) error {
	p.e.mu.Unlock()
	defer p.e.mu.Lock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// keep makes m pending and waits for its commit.
func (p *process) keep(ctx context.Context, s *shelf, m *broker.Message, f misfortune) (broker.Receipt, error) {
	c := *m
	pd := &pending{p: p, m: &c, done: make(chan struct{})}
	s.pending = append(s.pending, pd)
	if f.lag <= 0 {
		s.commitThrough(pd)
	} else {
		pd.timer = time.AfterFunc(f.lag, func() {
			p.e.mu.Lock()
			defer p.e.mu.Unlock()
			if slices.Contains(s.pending, pd) {
				s.commitThrough(pd)
			}
		})
	}
	err := p.until(ctx, pd.done)
	switch {
	case err != nil:
		count("publish timed out")
		if !f.leave {
			s.withdraw(pd)
		}
		return broker.Receipt{}, fmt.Errorf("sim: publish: %w", err)
	case p.closed:
		count("publish cut short")
		return broker.Receipt{}, broker.ErrClosed
	case pd.kept == nil:
		return broker.Receipt{}, errDown
	case f.lose:
		count("answer of the broker lost")
		return broker.Receipt{}, errLostAck
	}
	return broker.Receipt{Cursor: pd.kept.Cursor, Time: pd.kept.Time}, nil
}

// repeat is the outcome of a publish of m, which has the key of first.
func repeat(first, m *broker.Message) (broker.Receipt, error) {
	if sum(first) != sum(m) {
		return broker.Receipt{}, broker.ErrIDReused
	}
	count("duplicate answered")
	return broker.Receipt{Cursor: first.Cursor, Time: first.Time, Duplicate: true}, nil
}

// Since implements broker.Broker.
func (p *process) Since(ctx context.Context, room string, after broker.Cursor, limit int) (broker.Page, error) {
	return p.page(ctx, room, func(s *shelf) broker.Page { return s.since(after, limit) })
}

// Before implements broker.Broker.
func (p *process) Before(ctx context.Context, room string, before uint64, limit int) (broker.Page, error) {
	return p.page(ctx, room, func(s *shelf) broker.Page { return s.before(before, limit) })
}

func (p *process) page(ctx context.Context, room string, read func(*shelf) broker.Page) (page broker.Page, err error) {
	err = p.call(ctx, "history", p.f.read, func() error {
		page = read(p.e.shelf(room))
		return nil
	})
	return page, err
}

// call runs f, with mu held, as far as nothing goes wrong.
func (p *process) call(ctx context.Context, what string, r *rand.Rand, f func() error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("sim: %s: %w", what, err)
	}
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	m := p.misfortune(r, p.f.commitLag)
	if p.closed {
		return broker.ErrClosed
	}
	if err := p.wait(ctx, m.lag); err != nil {
		return fmt.Errorf("sim: %s: %w", what, err)
	}
	switch {
	case p.closed:
		return broker.ErrClosed
	case m.busy || m.fail:
		count(what + " failed")
		return errDown
	}
	err := f()
	if m.lose && err == nil {
		err = errLostAck
	}
	return err
}

// Head implements broker.Broker.
func (p *process) Head(ctx context.Context, room string) (c broker.Cursor, err error) {
	err = p.call(ctx, "head", nil, func() error {
		c = p.e.shelf(room).present().head()
		return nil
	})
	return c, err
}

// Retention is what the hub tells its clients.
func (p *process) Retention(string) (messages int, age time.Duration) {
	return p.e.o.messages, p.e.o.age
}

// DedupWindow is what the hub tells its clients.
func (p *process) DedupWindow() time.Duration { return p.e.o.window }

// Close implements broker.Broker. What is pending is lost or kept.
func (p *process) Close() error {
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	p.stop()
	for _, l := range p.leases {
		l.end()
	}
	return nil
}

// kill ends the process at once: each pending message is lost or kept, in part of them behind one that is lost, and its members stay
// for the lease's time.
func (p *process) kill() {
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	if p.closed {
		return
	}
	p.stop()
	p.e.forget()
	for _, l := range p.leases {
		if p.e.o.broken == keepsGhosts {
			break
		}
		time.AfterFunc(p.e.o.lease, func() {
			p.e.mu.Lock()
			defer p.e.mu.Unlock()
			l.end()
		})
	}
}

func (p *process) stop() {
	if p.closed {
		return
	}
	p.closed = true
	for _, s := range p.e.shelves {
		for _, pd := range slices.Clone(s.pending) {
			if pd.p != p {
				continue
			}
			if p.f.deliver != nil && p.f.deliver.IntN(2) == 0 {
				count("unacked kept")
				s.commitThrough(pd) // what others have pending before it is committed with it
			} else {
				count("unacked lost")
				s.withdraw(pd)
			}
		}
	}
	for _, sub := range slices.Clone(p.subs) {
		sub.end()
	}
	p.e.wake()
}
