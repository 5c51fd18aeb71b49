package brokertest

import (
	"fmt"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

// churn has others publish n messages in the lobby, which keeps fewer, and calls read again and again
// meanwhile, on the case's own goroutine.
func (e *env) churn(b broker.Broker, n int, read func()) {
	e.Helper()
	const publishers = 2
	published := make(chan struct{}, 1)
	done := e.background(publishers, func(int) error {
		for range n / publishers {
			if _, err := b.Publish(e.ctx, text("lobby", "", "hello")); err != nil {
				return err
			}
			select {
			case published <- struct{}{}:
			default:
			}
			e.pass(1) // so that others have their turn
		}
		return nil
	})
	for {
		select {
		case errs := <-done:
			e.noErrors(errs)
			read()
			return
		case <-published:
			read()
		}
	}
}

// A page is of one moment: while messages come and go, what it leaves out it tells of.
func resumeTrimming(e *env) {
	b := e.open(Limits{Messages: 8})
	next := e.head(b, "lobby")
	late := next
	read := func(after broker.Cursor, limit int) broker.Page {
		e.Helper()
		p := e.since(b, "lobby", after, limit)
		require.GreaterOrEqual(e, p.Head.Seq, after.Seq, "seq of a page's head")
		switch p.Verdict {
		case broker.Recovered:
			e.chain(after, p.Messages)
		case broker.Gap:
			require.Equal(e, after.Seq, p.Gap.After, "the gap's After")
			require.NotEmpty(e, p.Messages, "messages of a room that keeps some")
			first := p.Messages[0]
			require.Greater(e, first.Prev, after.Seq, "the last message lost and the cursor")
			require.Greater(e, p.Gap.Before, first.Prev, "the gap's Before and the last message lost")
			require.LessOrEqual(e, p.Gap.Before, first.Cursor.Seq, "the gap's Before and the first message kept")
			e.chain(broker.Cursor{Epoch: after.Epoch, Seq: first.Prev}, p.Messages)
		default:
			require.Fail(e, "a cursor of this history is told "+p.Verdict.String())
		}
		if len(p.Messages) > 0 {
			require.Equal(e, p.Messages[len(p.Messages)-1].Cursor, p.Next, "next of a page")
		} else {
			require.Equal(e, after, p.Next, "next of a page without messages")
		}
		require.Equal(e, p.Next != p.Head, p.More, "more after a page that ends at %v, with the head at %v", show(p.Next), show(p.Head))
		return p
	}
	e.churn(b, 200, func() {
		read(late, 100)
		next = read(next, 3).Next
	})
	for read(next, 3).More {
		next = read(next, 3).Next
	}
	require.Equal(e, e.head(b, "lobby"), read(next, 3).Next, "next of the last page")
	if !e.Coarse {
		require.Equal(e, broker.Gap.String(), read(late, 100).Verdict.String(), "verdict on the first position")
	}
}

// Whoever goes back finds no hole, up to where all before has gone.
func resumeBackwardTrimming(e *env) {
	b := e.open(Limits{Messages: 8})
	pages := 0
	e.churn(b, 200, func() {
		var first *broker.Message
		for before := uint64(0); ; before = first.Cursor.Seq {
			p := e.before(b, "lobby", before, 3)
			if len(p.Messages) == 0 {
				require.False(e, p.More, "more before a page without messages")
				return
			}
			e.chain(broker.Cursor{Epoch: p.Head.Epoch, Seq: p.Messages[0].Prev}, p.Messages)
			last := p.Messages[len(p.Messages)-1].Cursor
			require.Equal(e, last, p.Next, "next of a page")
			if first == nil {
				require.Equal(e, p.Head, last, "the newest message and the head")
			} else {
				require.Equal(e, first.Prev, last.Seq, "the newest message before %d", before)
			}
			first = p.Messages[0]
			if pages++; !p.More {
				return
			}
		}
	})
	require.NotZero(e, pages, "pages with messages")
}

// A tail is what a room lost, and what it is to have after.
type tail struct {
	room       string
	kept, lost []broker.Cursor
}

// loseTail publishes n messages, of which the last are lost, and opens the broker again.
func (e *env) loseTail(l Limits, n, lost int) (broker.Broker, tail) {
	e.Helper()
	if e.LoseTail == nil {
		e.Skip("loses no tail")
	}
	b := e.open(l)
	t := tail{room: "lobby"}
	for i := range n {
		t.kept = append(t.kept, e.publish(b, text(t.room, fmt.Sprint("id-", i), fmt.Sprint("message ", i))).Cursor)
	}
	t.kept, t.lost = t.kept[:n-lost:n-lost], t.kept[n-lost:]
	b = e.reopened(e.LoseTail(e.T, b, t.room, lost))
	head := e.head(b, t.room)
	if len(t.kept) > 0 && head.Epoch == t.kept[0].Epoch {
		require.Equal(e, t.kept[len(t.kept)-1], head, "head after its tail was lost")
	}
	return b, t
}

// grow publishes another message than any that was lost.
func (t *tail) grow(e *env, b broker.Broker) {
	e.Helper()
	t.kept = append(t.kept, e.publish(b, text(t.room, "", "grown anew")).Cursor)
}

// A cursor of a message that was lost is of another history, also when another message has its
// place. One from before is good as ever, unless the room has another epoch.
func resumeLostTail(e *env) {
	for _, lost := range []int{1, 4, 10} {
		b, t := e.loseTail(Limits{}, 10, lost)
		before := t.kept
		s := e.subscribe(b, t.room)
		for range 2 * lost {
			for _, c := range t.lost {
				e.reset(b, t.room, c)
			}
			for i, c := range before {
				if e.head(b, t.room).Epoch != c.Epoch {
					e.reset(b, t.room, c)
				} else {
					e.recovered(b, t.room, c, t.kept[i+1:])
				}
			}
			t.grow(e, b)
			e.chain(s.Head(), e.messages(s, 1))
			s.Close()
			s = e.subscribe(b, t.room)
		}
		if len(before) > 0 && before[0].Epoch == s.Head().Epoch {
			r := e.publish(b, text(t.room, "id-0", "message 0"))
			require.Equal(e, broker.Receipt{Cursor: before[0], Time: r.Time, Duplicate: true}, r, "receipt of a repeat of what was kept")
		}
		r := e.publish(b, text(t.room, "id-9", "message 9"))
		require.False(e, r.Duplicate, "receipt of a repeat of what was lost is of a duplicate")
		e.recovered(b, t.room, t.kept[len(t.kept)-1], []broker.Cursor{r.Cursor})
		for _, c := range t.lost {
			e.reset(b, t.room, c)
		}
	}
}

// Where what has taken a lost message's place is no more kept, its cursor is told of a gap at least.
func resumeLostTailTrimmed(e *env) {
	b, t := e.loseTail(Limits{Messages: 5}, 8, 2)
	for range 12 {
		t.grow(e, b)
		for _, c := range t.lost {
			p := e.since(b, t.room, c, 100)
			require.NotEqual(e, broker.Recovered.String(), p.Verdict.String(), "verdict on %v, with the head at %v", show(c), show(p.Head))
			if p.Verdict == broker.Gap {
				require.Equal(e, positions(e.kept(b, t.room)), positions(p.Messages), "messages after a gap")
				require.Equal(e, c.Seq, p.Gap.After, "the gap's After")
				require.Greater(e, p.Gap.Before, c.Seq+1, "the gap's Before")
			}
		}
	}
}

// Nor is it good where all that is left of the room is its head.
func resumeLostTailAged(e *env) {
	age := 2 * e.Second
	if e.Bubble {
		age = e.Second
	}
	b, t := e.loseTail(Limits{Age: age}, 3, 1)
	t.grow(e, b)
	e.pass(age + e.Second)
	require.Equal(e, t.kept[len(t.kept)-1], e.head(b, t.room), "head after all have gone")
	for _, c := range t.lost {
		require.NotEqual(e, broker.Recovered.String(), e.since(b, t.room, c, 100).Verdict.String(), "verdict on %v", show(c))
	}
	e.recovered(b, t.room, t.kept[len(t.kept)-1], nil)
}
