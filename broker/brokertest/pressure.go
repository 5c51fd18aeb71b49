package brokertest

import (
	"context"
	"errors"
	"fmt"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

var pressureCases = []testCase{
	{"Bound", pressureBound},
	{"Released", pressureReleased},
	{"Subscriptions", pressureSubscriptions},
	{"Closed", pressureClosed},
	{"Presence", pressurePresence},
	{"Behind", pressureBehind},
}

func isContextError(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

const waiting = 16 // the bound in these cases

// fill publishes, with nobody taking, until a publish has to wait. It returns what was kept.
func (e *env) fill(b broker.Broker, room string) []broker.Cursor {
	e.Helper()
	if e.Unbounded {
		e.Skip("publishes don't wait for subscriptions")
	}
	var all []broker.Cursor
	for {
		m := text(room, fmt.Sprint("fill-", len(all)), "hello")
		ctx := e.ctx
		if e.Coarse || len(all) >= waiting {
			ctx = e.soon()
		}
		r, err := b.Publish(ctx, m)
		if err != nil {
			require.ErrorIs(e, err, broker.ErrBusy, "Publish at the bound")
			require.ErrorIs(e, err, context.DeadlineExceeded, "Publish at the bound")
			break
		}
		all = append(all, r.Cursor)
		require.LessOrEqual(e, len(all), 100*waiting, "messages that wait for a subscription")
	}
	if !e.Coarse {
		require.Len(e, all, waiting, "messages that wait for a subscription")
	}
	return all
}

// At the bound a publish waits and, when its context ends, has kept nothing.
func pressureBound(e *env) {
	b := e.open(Limits{Waiting: waiting})
	s := e.subscribe(b, "lobby")
	all := e.fill(b, "lobby")
	require.Equal(e, all, positions(e.kept(b, "lobby")), "messages kept")
	require.Equal(e, all[len(all)-1], e.head(b, "lobby"), "head")

	_, err := b.Signal(e.soon(), &broker.Signal{Room: "lobby", Type: "typing"})
	require.ErrorIs(e, err, context.DeadlineExceeded, "Signal at the bound")
	reached, err := b.Signal(e.soon(), &broker.Signal{Room: "lobby", To: broker.Target{User: "u"}})
	require.ErrorIs(e, err, context.DeadlineExceeded, "Signal at the bound")
	require.Zero(e, reached, "reached by a signal at the bound")

	e.publishN(b, "other", 3) // another room does not wait
	require.Equal(e, all, positions(e.messages(s, len(all))), "events")
	refused := text("lobby", fmt.Sprint("fill-", len(all)), "hello")
	require.False(e, e.publish(b, refused).Duplicate, "receipt of what was refused before is of a duplicate")
	e.messages(s, 1)
	e.quiet(b, s, "lobby")
}

// What waited goes on when there is room, once, and each publisher's in order.
func pressureReleased(e *env) {
	const publishers, each = 4, 20
	b := e.open(Limits{Waiting: waiting})
	s := e.subscribe(b, "lobby")
	head := s.Head()
	begun := e.fill(b, "lobby")
	var got []broker.Event
	e.noErrors(together(publishers+1, func(i int) (err error) {
		if i == publishers {
			e.pass(e.Second / 2) // all publishers wait by now
			got, err = takeN(e.ctx, s, len(begun)+publishers*each)
			return err
		}
		for n := range each {
			m := text("lobby", fmt.Sprint("id-", n), fmt.Sprint(n))
			m.From.User = fmt.Sprint("user-", i)
			if r, err := b.Publish(e.ctx, m); err != nil || r.Duplicate {
				return fmt.Errorf("publish %d: %v, duplicate %v", n, err, r.Duplicate)
			}
		}
		return nil
	}))
	var list []*broker.Message
	next := make(map[string]int)
	for _, ev := range got {
		require.Equal(e, broker.EventMessage, ev.Type, "type of an event")
		list = append(list, ev.Message)
	}
	for _, m := range list[len(begun):] {
		require.Equal(e, fmt.Sprint("id-", next[m.From.User]), m.ID, "next message of %s", m.From.User)
		next[m.From.User]++
	}
	e.chain(head, list)
	e.quiet(b, s, "lobby")
}

// One subscription that does not take holds the room, not what another has got.
func pressureSubscriptions(e *env) {
	b := e.open(Limits{Waiting: waiting})
	stuck, reads := e.subscribe(b, "lobby"), e.subscribe(b, "lobby")
	all := e.fill(b, "lobby")
	require.Equal(e, all, positions(e.messages(reads, len(all))), "events of the one that reads")
	_, err := b.Publish(e.soon(), text("lobby", "", "hello"))
	require.ErrorIs(e, err, broker.ErrBusy, "Publish while one is at the bound")
	stuck.Close()
	e.quiet(b, reads, "lobby")
}

// A subscription that closes releases whoever waits for it.
func pressureClosed(e *env) {
	b := e.open(Limits{Waiting: waiting})
	s := e.subscribe(b, "lobby")
	all := e.fill(b, "lobby")
	e.noErrors(together(5, func(i int) error {
		if i == 0 {
			s.Close()
			return nil
		}
		_, err := b.Publish(e.ctx, text("lobby", "", "hello"))
		return err
	}))
	require.Len(e, e.kept(b, "lobby"), len(all)+4, "messages kept")
}

// Presence does not wait for anyone, and nothing of it is lost.
func pressurePresence(e *env) {
	b := e.open(Limits{Waiting: waiting})
	s := e.subscribe(b, "lobby")
	l := e.lease(b, "node")
	who := newFold(s)
	early := []broker.Member{member("early-1", "u", "n"), member("early-2", "u", "n")}
	require.NoError(e, l.Update(e.ctx, "lobby", early, nil), "join before the bound")
	for len(who) < 2 {
		who.add(e.take(s, 1)[0])
	}
	e.fill(b, "lobby")
	require.NoError(e, l.Update(e.ctx, "lobby", nil, early), "leave at the bound")
	require.NoError(e, l.Update(e.ctx, "lobby", early[1:], nil), "join at the bound")
	var all []broker.Member
	for i := range 10 * waiting {
		m := member(fmt.Sprint("c", i), "u", "n")
		all = append(all, m)
		require.NoError(e, l.Update(e.ctx, "lobby", []broker.Member{m}, nil), "join at the bound")
		if i%3 > 0 {
			require.NoError(e, l.Update(e.ctx, "lobby", nil, []broker.Member{m}), "leave at the bound")
		}
	}
	require.NoError(e, l.Update(e.ctx, "lobby", nil, all[:3]), "leave at the bound")
	require.NoError(e, l.Update(e.ctx, "lobby", all[1:2], nil), "join at the bound")
	e.settle(b, s, who)
	require.Equal(e, newFold(e.subscribe(b, "lobby")).list(), who.list(), "members by the events")
}

// Whoever is behind gets everything, or is told of a gap; whether publishes wait or not.
func pressureBehind(e *env) {
	b := e.open(Limits{Waiting: waiting, Messages: 20 * waiting})
	s := e.subscribe(b, "lobby")
	after := s.Head()
	done := make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < 10*waiting && err == nil; i++ {
			_, err = b.Publish(e.ctx, text("lobby", "", fmt.Sprint(i)))
		}
		if err == nil {
			_, err = b.Publish(e.ctx, text("lobby", "", "last"))
		}
		done <- err
	}()
	for last := false; !last; {
		ev := e.take(s, 1)[0]
		switch ev.Type {
		case broker.EventGap:
			require.Equal(e, after.Seq, ev.Gap.After, "the gap's After")
			after = ev.Cursor
		case broker.EventMessage:
			e.chain(after, []*broker.Message{ev.Message})
			after = ev.Message.Cursor
			last = string(ev.Message.Data) == "last"
		}
	}
	require.NoError(e, <-done, "Publish")
}
