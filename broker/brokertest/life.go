package brokertest

import (
	"context"
	"errors"
	"fmt"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

var lifeCases = []testCase{
	{"Life/Cancelled", lifeCancelled},
	{"Life/SubscriptionClose", lifeSubscriptionClose},
	{"Life/Ready", lifeReady},
	{"Life/Close", lifeClose},
	{"Life/CloseWhileBusy", lifeCloseWhileBusy},
	{"Life/Restart", lifeRestart},
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
	until := func(f func(i int) error) error {
		for i := 0; ; i++ {
			if err := f(i); err != nil {
				if errors.Is(err, broker.ErrClosed) {
					return nil
				}
				return fmt.Errorf("call %d: %w", i, err)
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
		func() error {
			return until(func(int) error {
				got, err := takeN(e.ctx, s, 1)
				if len(got) > 0 && got[0].Reached != nil {
					got[0].Reached(1)
				}
				return err
			})
		},
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
			return b.Close()
		},
	}
	if e.Unbounded {
		jobs = append(jobs, func() error { // or it would fill up for ever
			return until(func(int) error { _, err := takeN(e.ctx, full, 1); return err })
		})
	}
	e.noErrors(together(len(jobs), func(i int) error { return jobs[i]() }))
}

// What was acked before a restart is there after it, and so are positions and ids.
func lifeRestart(e *env) {
	if e.Restart == nil {
		e.Skip("not durable")
	}
	b := e.open(Limits{Messages: 10})
	silent := e.head(b, "silent")
	m := text("lobby", "id", "hello")
	first := e.publish(b, m)
	all := append([]broker.Cursor{first.Cursor}, receiptPositions(e.publishN(b, "lobby", 5))...)
	e.publishN(b, "long", 30)
	long := e.head(b, "long")
	kept := positions(e.kept(b, "lobby"))
	for range 2 {
		b = e.Restart(e.T, b)
		require.NotNil(e, b, "Restart")
		e.Cleanup(func() { _ = b.Close() })
		require.Equal(e, kept, positions(e.kept(b, "lobby")), "messages after a restart")
		require.Equal(e, all[len(all)-1], e.head(b, "lobby"), "head after a restart")
		e.recovered(b, "lobby", all[0], all[1:])
		e.recovered(b, "silent", silent, nil)
		e.recovered(b, "long", long, nil)
		e.repeat(b, m, first)
		wrong := all[2]
		wrong.Tag++
		e.reset(b, "lobby", wrong)
		require.Empty(e, e.subscribe(b, "lobby").Members(), "members after a restart")

		s := e.subscribe(b, "lobby")
		r := e.publish(b, text("lobby", "", "after a restart"))
		e.chain(all[len(all)-1], e.messages(s, 1))
		all, kept = append(all, r.Cursor), append(kept, r.Cursor)
	}
	r := e.publish(b, text("silent", "", "at last"))
	e.recovered(b, "silent", silent, []broker.Cursor{r.Cursor})
}
