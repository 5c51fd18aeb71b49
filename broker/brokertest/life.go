package brokertest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

var lifeCases = []testCase{
	{"Cancelled", lifeCancelled},
	{"CutPublish", lifeCutPublish},
	{"CutSubscribe", lifeCutSubscribe},
	{"OutlivesContext", lifeOutlivesContext},
	{"SubscriptionClose", lifeSubscriptionClose},
	{"Ready", lifeReady},
	{"Close", lifeClose},
	{"CloseWhileBusy", lifeCloseWhileBusy},
	{"PeerClose", lifePeerClose},
}

// calls are all methods that a context or Close can end.
func (e *env) calls(b broker.Broker, l broker.Lease) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Publish": func(ctx context.Context) error { _, err := b.Publish(ctx, text("lobby", "id", "hello")); return err },
		"Signal": func(ctx context.Context) error {
			_, err := b.Signal(ctx, &broker.Signal{Room: "lobby", Type: "typing"})
			return err
		},
		"Subscribe": func(ctx context.Context) error { _, err := b.Subscribe(ctx, "lobby"); return err },
		"Since":     func(ctx context.Context) error { _, err := b.Since(ctx, "lobby", broker.Cursor{}, 10); return err },
		"Before":    func(ctx context.Context) error { _, err := b.Before(ctx, "lobby", 0, 10); return err },
		"Head":      func(ctx context.Context) error { _, err := b.Head(ctx, "lobby"); return err },
		"Lease":     func(ctx context.Context) error { _, err := b.Lease(ctx, "node-2"); return err },
		"Update": func(ctx context.Context) error {
			return l.Update(ctx, "lobby", []broker.Member{member("1", "u", "n")}, nil)
		},
	}
}

// A context that has ended ends every call, before it has an effect.
func lifeCancelled(e *env) {
	b := e.open(Limits{})
	s := e.subscribe(b, "lobby")
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	for name, call := range e.calls(b, e.lease(b, "node")) {
		require.ErrorIs(e, call(ctx), context.Canceled, name)
	}
	require.Empty(e, e.kept(b, "lobby"), "messages kept")
	require.Empty(e, e.subscribe(b, "lobby").Members(), "members")
	require.False(e, e.publish(b, text("lobby", "id", "hello")).Duplicate, "receipt is of a duplicate")
	e.messages(s, 1)
}

// cut calls f with a context that ends while f is under way, or shortly before or after.
func (e *env) cut(n int, f func(context.Context) error) error {
	ctx, cancel := context.WithCancel(e.ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.pass(time.Duration(n%10) * 100 * time.Microsecond)
		cancel()
	}()
	err := f(ctx)
	cancel()
	<-ended
	return err
}

// A publish whose context ends on the way is kept or not, and its repeat has one effect all the same.
func lifeCutPublish(e *env) {
	const publishers, each = 4, 15
	b := e.open(Limits{})
	head := e.head(b, "lobby")
	e.noErrors(together(publishers, func(i int) error {
		for n := range each {
			m := text("lobby", fmt.Sprint(n), "hello")
			m.From.User = fmt.Sprint("user-", i)
			var first broker.Receipt
			cut := e.cut(n+i, func(ctx context.Context) (err error) {
				first, err = b.Publish(ctx, m)
				return err
			})
			again, err := b.Publish(e.ctx, m)
			switch {
			case err != nil:
				return fmt.Errorf("repeat %d: %w", n, err)
			case cut == nil && (!again.Duplicate || again.Cursor != first.Cursor):
				return fmt.Errorf("repeat %d: got %v, want a duplicate of %v", n, again, first)
			case cut != nil && !isContextError(cut):
				return fmt.Errorf("publish %d: got %w, want nothing or the context's error", n, cut)
			case errors.Is(cut, broker.ErrBusy) && again.Duplicate:
				return fmt.Errorf("publish %d: got %w, but was kept", n, cut)
			}
		}
		return nil
	}))
	list := e.kept(b, "lobby")
	require.Len(e, list, publishers*each, "messages kept")
	e.chain(head, list)
	next := make(map[string]int)
	for _, m := range list {
		require.Equal(e, fmt.Sprint(next[m.From.User]), m.ID, "next message of %s", m.From.User)
		next[m.From.User]++
	}
}

// A Subscribe whose context ends on the way leaves no subscription behind, for which publishes would
// wait.
func lifeCutSubscribe(e *env) {
	b := e.open(Limits{Waiting: waiting})
	e.noErrors(together(20, func(i int) error {
		var s broker.Subscription
		err := e.cut(i, func(ctx context.Context) (err error) {
			s, err = b.Subscribe(ctx, "lobby")
			return err
		})
		if err == nil {
			s.Close()
		} else if !isContextError(err) {
			return fmt.Errorf("subscribe %d: got %w, want nothing or the context's error", i, err)
		}
		return nil
	}))
	e.publishN(b, "lobby", 4*waiting)
	reached, err := b.Signal(e.ctx, &broker.Signal{Room: "lobby", To: broker.Target{User: "u"}})
	require.NoError(e, err, "Signal")
	require.Zero(e, reached, "reached by a signal where nobody is")
}

// A context bounds its call, not what the call has opened.
func lifeOutlivesContext(e *env) {
	b := e.open(Limits{})
	ctx, cancel := context.WithCancel(e.ctx)
	s, err := b.Subscribe(ctx, "lobby")
	require.NoError(e, err, "Subscribe")
	e.Cleanup(s.Close)
	l, err := b.Lease(ctx, "node")
	require.NoError(e, err, "Lease")
	e.Cleanup(func() { _ = l.Close(context.Background()) })
	alice, bob := member("1", "alice", "Alice"), member("2", "bob", "Bob")
	require.NoError(e, l.Update(ctx, "lobby", []broker.Member{alice}, nil), "Update")
	cancel()
	e.pass(e.Second / 10) // for whatever it would end
	who := newFold(s)
	require.NoError(e, l.Update(e.ctx, "lobby", []broker.Member{bob}, nil), "Update after the end of the lease's context")
	e.settle(b, s, who)
	require.Equal(e, []broker.Member{alice, bob}, who.list(), "members by the events")
	require.Equal(e, []broker.Member{alice, bob}, newFold(e.subscribe(b, "lobby")).list(), "members of a new subscription")
	e.quiet(b, s, "lobby")
}

// A subscription that was closed hands out what waited, and then says so.
func lifeSubscriptionClose(e *env) {
	b := e.open(Limits{})
	s, other := e.subscribe(b, "lobby"), e.subscribe(b, "lobby")
	e.publishN(b, "lobby", 2)
	e.messages(other, 2)
	e.messages(s, 2)
	s.Close()
	s.Close()
	e.publishN(b, "lobby", 2)
	select {
	case <-s.Ready():
	case <-e.ctx.Done():
		require.Fail(e, "Ready has no value after Close")
	}
	got, err := s.Take(nil, 10)
	require.ErrorIs(e, err, broker.ErrClosed, "Take after Close")
	require.Empty(e, got, "events after Close")
	e.messages(other, 2)
}

// Ready has a value as long as something waits, and Take gives no more than it is asked for.
func lifeReady(e *env) {
	b := e.open(Limits{})
	s := e.subscribe(b, "lobby")
	got, err := s.Take(nil, 10)
	require.NoError(e, err, "Take when nothing waits")
	require.Empty(e, got, "events when nothing waits")
	e.publishN(b, "lobby", 10)
	for _, n := range []int{1, 2, 3, 4} {
		e.messages(s, n)
	}
	first := []broker.Event{{Type: broker.EventGap}}
	e.publishN(b, "lobby", 1)
	select {
	case <-s.Ready():
	case <-e.ctx.Done():
		require.Fail(e, "Ready has no value")
	}
	got, err = s.Take(first, 10)
	require.NoError(e, err, "Take")
	require.Len(e, got, 2, "Take appends")
	require.Equal(e, broker.EventGap, got[0].Type, "what was there before Take")
}

// After Close every method says so, and subscriptions end after what waited for them.
func lifeClose(e *env) {
	b := e.open(Limits{})
	s, l := e.subscribe(b, "lobby"), e.lease(b, "node")
	e.publishN(b, "lobby", 3)
	e.messages(s, 1)
	require.NoError(e, b.Close(), "Close")
	_ = b.Close() // does no harm
	for name, call := range e.calls(b, l) {
		require.ErrorIs(e, call(e.ctx), broker.ErrClosed, "%s after Close", name)
	}
	var got []broker.Event
	for {
		ev, err := takeN(e.ctx, s, 1)
		if err != nil {
			require.ErrorIs(e, err, broker.ErrClosed, "Take after Close")
			break
		}
		got = append(got, ev...)
	}
	require.LessOrEqual(e, len(got), 2, "events after Close")
	s.Close()
	_ = l.Close(e.ctx)
}

// Close releases whoever waits, and nothing runs on after it.
func lifeCloseWhileBusy(e *env) {
	b := e.open(Limits{Waiting: waiting})
	full, s, l := e.subscribe(b, "full"), e.subscribe(b, "lobby"), e.lease(b, "node")
	if !e.Unbounded {
		e.fill(b, "full")
	}
	progress := make(chan struct{}, 1)
	var closed atomic.Bool // Close has returned
	until := func(f func(i int) error) error {
		for i := 0; ; i++ {
			e.pass(100 * time.Microsecond) // a bubble's time goes on only where all wait
			late := closed.Load()
			if err := f(i); err != nil {
				if errors.Is(err, broker.ErrClosed) {
					return nil
				}
				return fmt.Errorf("call %d: %w", i, err)
			} else if late {
				return fmt.Errorf("call %d, after Close: got no error, want ErrClosed", i)
			}
		}
	}
	drain := func(s broker.Subscription) error { // also after Close, what waited
		for {
			got, err := takeN(e.ctx, s, 1)
			if errors.Is(err, broker.ErrClosed) {
				return nil
			} else if err != nil {
				return fmt.Errorf("take: %w", err)
			}
			if got[0].Reached != nil {
				got[0].Reached(1)
			}
		}
	}
	jobs := []func() error{
		func() error {
			return until(func(i int) error {
				if i == 50 {
					progress <- struct{}{}
				}
				_, err := b.Publish(e.ctx, text("lobby", fmt.Sprint(i), "hello"))
				return err
			})
		},
		func() error { return drain(s) },
		func() error {
			return until(func(int) error {
				_, err := b.Signal(e.ctx, &broker.Signal{Room: "lobby", To: broker.Target{User: "u"}})
				return err
			})
		},
		func() error {
			return until(func(int) error { _, err := b.Publish(e.ctx, text("full", "", "hello")); return err })
		},
		func() error {
			return until(func(int) error { _, err := b.Signal(e.ctx, &broker.Signal{Room: "full"}); return err })
		},
		func() error {
			return until(func(i int) error {
				sub, err := b.Subscribe(e.ctx, fmt.Sprint("room-", i%10))
				if err == nil {
					sub.Close()
				}
				return err
			})
		},
		func() error {
			return until(func(i int) error {
				m := []broker.Member{member(fmt.Sprint(i%10), "u", "n")}
				if i%2 == 0 {
					return l.Update(e.ctx, "lobby", m, nil)
				}
				return l.Update(e.ctx, "lobby", nil, m)
			})
		},
		func() error {
			select {
			case <-progress:
			case <-e.ctx.Done():
			}
			defer closed.Store(true)
			return b.Close()
		},
	}
	if e.Unbounded {
		jobs = append(jobs, func() error { return drain(full) }) // or it would fill up for ever
	}
	e.noErrors(together(len(jobs), func(i int) error { return jobs[i]() }))
}

// One process that closes its broker ends nothing of another's, and can come back.
func lifePeerClose(e *env) {
	if e.Peer == nil {
		e.Skip("one process")
	}
	a, b := e.pair(Limits{Waiting: waiting})
	onA, onB := e.subscribe(a, "lobby"), e.subscribe(b, "lobby")
	head := onA.Head()
	all := receiptPositions(append(e.publishN(a, "lobby", 2), e.publishN(b, "lobby", 2)...))
	e.messages(onB, 1)
	require.NoError(e, b.Close(), "Close of one of two")
	_, err := b.Publish(e.ctx, text("lobby", "", "hello"))
	require.ErrorIs(e, err, broker.ErrClosed, "Publish of the closed one")
	for err = nil; err == nil; {
		_, err = takeN(e.ctx, onB, 1)
	}
	require.ErrorIs(e, err, broker.ErrClosed, "Take of the closed one")

	// Nobody waits for it, neither with a message nor with a signal.
	require.Equal(e, all, positions(e.messages(onA, 4)), "events")
	for range 2 * waiting {
		all = append(all, e.publishN(a, "lobby", 1)[0].Cursor)
		e.messages(onA, 1)
	}
	var reached int
	e.noErrors(together(2, func(i int) (err error) {
		if i == 0 {
			return answer(e.ctx, onA, 3)
		}
		reached, err = a.Signal(e.ctx, &broker.Signal{Room: "lobby", To: broker.Target{User: "u"}})
		return err
	}))
	require.Equal(e, 3, reached, "reached by a signal")

	c := e.reopened(e.Peer(e.T, a))
	e.recovered(c, "lobby", head, all)
	onC := e.subscribe(c, "lobby")
	e.quiet(a, onC, "lobby")
	e.messages(onA, 1)
	e.quiet(c, onA, "lobby")
}
