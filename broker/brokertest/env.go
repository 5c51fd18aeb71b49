package brokertest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

// An env is what a case works with. Its methods fail the test and so belong to the test's
// own goroutine, but for those that return an error.
type env struct {
	*testing.T
	Harness
	ctx     context.Context
	settled int // calls of settle
}

// open opens the broker under test.
func (e *env) open(l Limits) broker.Broker {
	e.Helper()
	b := e.Open(e.T, l)
	require.NotNil(e, b, "Open")
	e.Cleanup(func() { _ = b.Close() })
	return b
}

// pair opens the broker under test for two processes. Where there can be only one, both are it.
func (e *env) pair(l Limits) (a, b broker.Broker) {
	e.Helper()
	a = e.open(l)
	if e.Peer == nil {
		return a, a
	}
	return a, e.reopened(e.Peer(e.T, a))
}

// reopened returns b, which the harness has given in place of a broker or beside it.
func (e *env) reopened(b broker.Broker) broker.Broker {
	e.Helper()
	require.NotNil(e, b, "the harness's broker")
	e.Cleanup(func() { _ = b.Close() })
	return b
}

// pass lets time pass.
func (e *env) pass(d time.Duration) { <-time.After(d) }

// soon returns a context that ends before whoever waits for something that does not happen
// would lose patience.
func (e *env) soon() context.Context {
	ctx, cancel := context.WithTimeout(e.ctx, e.Second)
	e.Cleanup(cancel)
	return ctx
}

// text returns a message of alice's.
func text(room, id, data string) *broker.Message {
	return &broker.Message{
		Room: room, ID: id, Kind: broker.KindText, Data: []byte(data),
		From: broker.Member{Client: "client-1", User: "alice", Name: "Alice"},
	}
}

func (e *env) publish(b broker.Broker, m *broker.Message) broker.Receipt {
	e.Helper()
	r, err := b.Publish(e.ctx, m)
	require.NoError(e, err, "Publish")
	return r
}

// publishN publishes n messages without IDs and returns their receipts.
func (e *env) publishN(b broker.Broker, room string, n int) []broker.Receipt {
	e.Helper()
	var list []broker.Receipt
	for i := range n {
		list = append(list, e.publish(b, text(room, "", fmt.Sprint("message ", i))))
	}
	return list
}

func (e *env) subscribe(b broker.Broker, room string) broker.Subscription {
	e.Helper()
	s, err := b.Subscribe(e.ctx, room)
	require.NoError(e, err, "Subscribe")
	e.Cleanup(s.Close)
	return s
}

func (e *env) head(b broker.Broker, room string) broker.Cursor {
	e.Helper()
	c, err := b.Head(e.ctx, room)
	require.NoError(e, err, "Head")
	return c
}

// since calls Since with a cursor that went through its token, as those of clients do.
func (e *env) since(b broker.Broker, room string, after broker.Cursor, limit int) broker.Page {
	e.Helper()
	after, err := broker.ParseCursor(after.String())
	require.NoError(e, err, "ParseCursor")
	p, err := b.Since(e.ctx, room, after, limit)
	require.NoError(e, err, "Since")
	require.LessOrEqual(e, len(p.Messages), limit, "messages of a page")
	if p.More {
		require.NotEmpty(e, p.Messages, "a page with more to come")
	}
	return p
}

func (e *env) before(b broker.Broker, room string, seq uint64, limit int) broker.Page {
	e.Helper()
	p, err := b.Before(e.ctx, room, seq, limit)
	require.NoError(e, err, "Before")
	require.LessOrEqual(e, len(p.Messages), limit, "messages of a page")
	return p
}

// kept returns all that the room keeps.
func (e *env) kept(b broker.Broker, room string) []*broker.Message {
	e.Helper()
	return e.before(b, room, 0, 100_000).Messages
}

// lease opens a lease that the test's end closes.
func (e *env) lease(b broker.Broker, node string) broker.Lease {
	e.Helper()
	l, err := b.Lease(e.ctx, node)
	require.NoError(e, err, "Lease")
	e.Cleanup(func() { _ = l.Close(context.Background()) })
	return l
}

// take waits until n events have come.
func (e *env) take(s broker.Subscription, n int) []broker.Event {
	e.Helper()
	got, err := takeN(e.ctx, s, n)
	require.NoError(e, err, "Take: got %d of %d events", len(got), n)
	return got
}

// takeN may be called on any goroutine.
func takeN(ctx context.Context, s broker.Subscription, n int) (got []broker.Event, err error) {
	for len(got) < n {
		select {
		case <-s.Ready():
		case <-ctx.Done():
			return got, ctx.Err()
		}
		want := n - len(got)
		before := len(got)
		if got, err = s.Take(got, want); err != nil {
			return got, err
		}
		if len(got)-before > want {
			return got, fmt.Errorf("got %d events of a Take of %d", len(got)-before, want)
		}
	}
	return got, nil
}

// messages waits until n events have come, all of them messages.
func (e *env) messages(s broker.Subscription, n int) []*broker.Message {
	e.Helper()
	var list []*broker.Message
	for _, ev := range e.take(s, n) {
		require.Equal(e, broker.EventMessage, ev.Type, "type of an event")
		require.NotNil(e, ev.Message, "message of an event")
		list = append(list, ev.Message)
	}
	return list
}

// signal waits for an event that is a signal.
func (e *env) signal(s broker.Subscription) *broker.Signal {
	e.Helper()
	ev := e.take(s, 1)[0]
	require.Equal(e, broker.EventSignal, ev.Type, "type of an event")
	require.NotNil(e, ev.Signal, "signal of an event")
	return ev.Signal
}

// quiet checks that nothing waits for s, by a message that has to come next.
func (e *env) quiet(b broker.Broker, s broker.Subscription, room string) {
	e.Helper()
	r := e.publish(b, text(room, "", "nothing before this"))
	got := e.messages(s, 1)
	require.Equal(e, r.Cursor, got[0].Cursor, "next message, %q", got[0].Data)
}

// until takes events until one of the given type has come, and returns it.
func (e *env) until(s broker.Subscription, t broker.EventType) broker.Event {
	e.Helper()
	for {
		if ev := e.take(s, 1)[0]; ev.Type == t {
			return ev
		}
	}
}

// chain checks that list follows after without a hole.
func (e *env) chain(after broker.Cursor, list []*broker.Message) {
	e.Helper()
	for i, m := range list {
		require.Equal(e, after.Epoch, m.Cursor.Epoch, "epoch of message %d", i)
		require.Equal(e, after.Seq, m.Prev, "seq before message %d", i)
		require.Greater(e, m.Cursor.Seq, after.Seq, "seq of message %d", i)
		require.NotZero(e, m.Cursor.Tag, "tag of message %d", i)
		after = m.Cursor
	}
}

// show is a cursor that can be read.
func show(c broker.Cursor) string {
	return fmt.Sprintf("seq %d, tag %x, epoch %q", c.Seq, c.Tag, c.Epoch)
}

// positions returns where the messages are, to compare lists of them.
func positions(list []*broker.Message) []broker.Cursor {
	c := make([]broker.Cursor, len(list))
	for i, m := range list {
		c[i] = m.Cursor
	}
	return c
}

func receiptPositions(list []broker.Receipt) []broker.Cursor {
	c := make([]broker.Cursor, len(list))
	for i, r := range list {
		c[i] = r.Cursor
	}
	return c
}

// together runs f n times at once and returns the first error of each.
func together(n int, f func(i int) error) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errs
}

// background is together on another goroutine, for which the case waits in the end, also where it fails.
func (e *env) background(n int, f func(i int) error) <-chan []error {
	done, ended := make(chan []error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		done <- together(n, f)
	}()
	e.Cleanup(func() { <-ended }) // a bubble's time stands still once its case has returned
	return done
}

func (e *env) noErrors(errs []error) {
	e.Helper()
	for _, err := range errs {
		require.NoError(e, err)
	}
}
