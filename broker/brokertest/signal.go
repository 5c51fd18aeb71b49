package brokertest

import (
	"context"
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

var signalCases = []testCase{
	{"Order", signalOrder},
	{"Whole", signalWhole},
	{"Exact", signalExact},
	{"Concurrent", signalConcurrent},
	{"Reached", signalReached},
	{"Nobody", signalNobody},
	{"ClosedUnanswered", signalClosedUnanswered},
	{"Unanswered", signalUnanswered},
}

// Signals come after the messages that were there before them, and leave no trace.
func signalOrder(e *env) {
	a, b := e.pair(Limits{})
	head := e.head(a, "lobby")
	subs := []broker.Subscription{e.subscribe(a, "lobby"), e.subscribe(b, "lobby")}
	for range 5 {
		e.publish(a, text("lobby", "", "message"))
		reached, err := a.Signal(e.ctx, &broker.Signal{Room: "lobby", Type: "typing", Data: []byte("signal")})
		require.NoError(e, err, "Signal")
		require.Zero(e, reached, "reached by a signal to everyone")
	}
	last := e.publish(a, text("lobby", "", "message")).Cursor
	for i, s := range subs {
		var list []*broker.Message
		for n, ev := range e.take(s, 11) {
			if n%2 == 1 {
				require.Equal(e, broker.EventSignal, ev.Type, "type of event %d of subscription %d", n, i)
				require.Nil(e, ev.Reached, "Reached of a signal to everyone")
				continue
			}
			require.Equal(e, broker.EventMessage, ev.Type, "type of event %d of subscription %d", n, i)
			list = append(list, ev.Message)
		}
		e.chain(head, list)
	}
	require.Equal(e, last, e.head(b, "lobby"), "head")
	require.Len(e, e.kept(b, "lobby"), 6, "messages kept")
}

// All of a signal arrives.
func signalWhole(e *env) {
	a, b := e.pair(Limits{})
	s := e.subscribe(b, "lobby")
	want := broker.Signal{
		Room: "lobby", Type: "direct", ID: "id", Kind: broker.KindBinary, Data: []byte{0, 0xff, '\n'}, Key: "ü\x00",
		From: broker.Member{Client: "c", User: "u", Name: "ü"},
		Time: time.Date(2030, 1, 2, 3, 4, 5, 6_000_000, time.UTC),
	}
	sent := want
	_, err := a.Signal(e.ctx, &sent)
	require.NoError(e, err, "Signal")
	got := *e.signal(s)
	require.True(e, want.Time.Equal(got.Time), "time of the signal: got %v, want %v", got.Time, want.Time)
	got.Time = want.Time
	require.Equal(e, want, got, "signal")
}

// answer takes events until a signal comes, and answers it.
func answer(ctx context.Context, s broker.Subscription, clients int) error {
	for {
		got, err := takeN(ctx, s, 1)
		if err != nil {
			return err
		}
		if got[0].Type == broker.EventSignal {
			got[0].Reached(clients)
			return nil
		}
	}
}

// A signal to someone reaches as many as all subscriptions say.
func signalReached(e *env) {
	a, b := e.pair(Limits{})
	subs := []broker.Subscription{e.subscribe(a, "lobby"), e.subscribe(a, "lobby"), e.subscribe(b, "lobby")}
	e.subscribe(a, "other")
	for _, to := range []broker.Target{{Client: "c"}, {User: "u"}} {
		var reached int
		e.noErrors(together(4, func(i int) (err error) {
			if i < 3 {
				return answer(e.ctx, subs[i], []int{2, 0, 5}[i])
			}
			reached, err = a.Signal(e.ctx, &broker.Signal{Room: "lobby", Type: "direct", To: to})
			return err
		}))
		require.Equal(e, 7, reached, "reached by a signal to %v", to)
	}
	e.quiet(a, subs[0], "lobby")
}

// Where nobody listens, nobody is reached, at once.
func signalNobody(e *env) {
	b := e.open(Limits{})
	s := e.subscribe(b, "lobby")
	s.Close()
	for _, room := range []string{"lobby", "never heard of"} {
		for _, to := range []broker.Target{{}, {User: "u"}} {
			reached, err := b.Signal(e.ctx, &broker.Signal{Room: room, Type: "direct", To: to})
			require.NoError(e, err, "Signal")
			require.Zero(e, reached, "reached in an empty room")
		}
	}
}

// Whoever closes before answering counts for nobody.
func signalClosedUnanswered(e *env) {
	a, b := e.pair(Limits{})
	closes, answers := e.subscribe(b, "lobby"), e.subscribe(a, "lobby")
	var reached int
	e.noErrors(together(3, func(i int) (err error) {
		switch i {
		case 0:
			_, err = takeN(e.ctx, closes, 1)
			closes.Close()
		case 1:
			err = answer(e.ctx, answers, 3)
		case 2:
			reached, err = a.Signal(e.ctx, &broker.Signal{Room: "lobby", To: broker.Target{User: "u"}})
		}
		return err
	}))
	require.Equal(e, 3, reached, "reached")
}

// Where someone does not answer, the context ends the wait, and a late answer does no harm.
func signalUnanswered(e *env) {
	b := e.open(Limits{})
	silent, answers := e.subscribe(b, "lobby"), e.subscribe(b, "lobby")
	e.noErrors(together(2, func(i int) error {
		if i == 0 {
			return answer(e.ctx, answers, 3)
		}
		ctx, cancel := context.WithTimeout(e.ctx, e.Second)
		defer cancel()
		_, err := b.Signal(ctx, &broker.Signal{Room: "lobby", To: broker.Target{User: "u"}})
		if err == nil || ctx.Err() == nil {
			e.Errorf("Signal without an answer: got %v before the context's end, want its error", err)
			return nil
		}
		if !isContextError(err) {
			e.Errorf("Signal without an answer: got %v, want the context's error", err)
		}
		return nil
	}))
	require.NoError(e, answer(e.ctx, silent, 1), "late answer")
	e.quiet(b, silent, "lobby")
}

// Signals of several senders, among messages, all arrive everywhere, each sender's in order.
func signalConcurrent(e *env) {
	const senders, each = 4, 25
	a, b := e.pair(Limits{})
	subs := []broker.Subscription{e.subscribe(a, "lobby"), e.subscribe(b, "lobby")}
	e.noErrors(together(senders, func(i int) error {
		to := []broker.Broker{a, b}[i%2]
		for n := range each {
			from := broker.Member{User: fmt.Sprint("user-", i)}
			if _, err := to.Signal(e.ctx, &broker.Signal{Room: "lobby", ID: fmt.Sprint(n), From: from}); err != nil {
				return err
			}
			if n%5 == 0 {
				if _, err := to.Publish(e.ctx, text("lobby", "", "hello")); err != nil {
					return err
				}
			}
		}
		return nil
	}))
	for i, s := range subs {
		next := make(map[string]int)
		for range senders * (each + each/5) {
			if ev := e.take(s, 1)[0]; ev.Type == broker.EventSignal {
				user := ev.Signal.From.User
				require.Equal(e, fmt.Sprint(next[user]), ev.Signal.ID, "next signal of %s by subscription %d", user, i)
				next[user]++
			}
		}
		require.Len(e, next, senders, "senders by subscription %d", i)
		for user, n := range next {
			require.Equal(e, each, n, "signals of %s by subscription %d", user, i)
		}
	}
	require.Len(e, e.kept(a, "lobby"), senders*each/5, "messages kept")
}
