package broker

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// fullRoom returns a broker, a subscription that is full, and what closes both.
func fullRoom(t *testing.T, events int) (*Memory, Subscription) {
	t.Helper()
	m := NewMemory(WithWaiting(events, 1<<20))
	t.Cleanup(func() { _ = m.Close() })
	s, err := m.Subscribe(ctx, "lobby")
	require.NoError(t, err)
	for range events {
		publish(t, m, "lobby", "hello")
	}
	return m, s
}

// Who came first goes first, and who gives up does not hold the others.
func TestMemoryWaitersInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const waiters = 20
		m, s := fullRoom(t, 4)
		refused := make(chan error, waiters)
		for i := range waiters {
			c, cancel := context.WithCancel(ctx)
			if i%5 == 0 {
				c, cancel = context.WithTimeout(ctx, time.Second)
			}
			go func() {
				defer cancel()
				var err error
				if i%2 == 0 {
					_, err = m.Signal(c, &Signal{Room: "lobby", ID: strconv.Itoa(i)})
				} else {
					_, err = m.Publish(c, &Message{Room: "lobby", ID: strconv.Itoa(i)})
				}
				refused <- err
			}()
			synctest.Wait() // it is in line
		}
		<-time.After(2 * time.Second) // every fifth gives up
		require.Equal(t, Recovered, since(t, m, "lobby", s.Head()).Verdict, "verdict")
		var got []Event
		for range waiters {
			list, err := s.Take(nil, 3)
			require.NoError(t, err)
			got = append(got, list...)
			synctest.Wait()
		}
		want := 0
		for _, e := range got[4:] {
			if want%5 == 0 {
				want++
			}
			id := ""
			if e.Message != nil {
				id = e.Message.ID
			} else {
				id = e.Signal.ID
			}
			require.Equal(t, strconv.Itoa(want), id, "id of the next event")
			want++
		}
		require.Equal(t, waiters, want, "events of all that did not give up")
		for range waiters {
			if err := <-refused; err != nil {
				require.ErrorIs(t, err, ErrBusy)
				require.ErrorIs(t, err, context.DeadlineExceeded)
			}
		}
		check(t, m)
	})
}

// Someone who comes while others wait does not overtake them.
func TestMemoryNoOvertaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, s := fullRoom(t, 1)
		for range 50 {
			first := make(chan Receipt, 1)
			go func() {
				r, _ := m.Publish(ctx, &Message{Room: "lobby"})
				first <- r
			}()
			synctest.Wait()
			_, err := s.Take(nil, 1)
			require.NoError(t, err)
			// The one that waits may not have run yet.
			c, cancel := context.WithTimeout(ctx, time.Second)
			_, err = m.Publish(c, &Message{Room: "lobby", Data: []byte("later")})
			cancel()
			require.ErrorIs(t, err, ErrBusy)
			require.NotZero(t, (<-first).Cursor.Seq)
		}
	})
}

// A repeat need not wait: nothing is to be handed out.
func TestMemoryRepeatDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(WithWaiting(1, 1<<20))
		_, err := m.Subscribe(ctx, "lobby")
		require.NoError(t, err)
		msg := &Message{Room: "lobby", ID: "id"}
		first, err := m.Publish(ctx, msg)
		require.NoError(t, err)
		again, err := m.Publish(ctx, msg)
		require.NoError(t, err)
		require.True(t, again.Duplicate)
		require.Equal(t, first.Cursor, again.Cursor)
	})
}

// Of several repeats that wait, one publishes.
func TestMemoryRepeatsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, s := fullRoom(t, 2)
		receipts := make(chan Receipt, 5)
		for range 5 {
			go func() {
				r, _ := m.Publish(ctx, &Message{Room: "lobby", ID: "id"})
				receipts <- r
			}()
		}
		synctest.Wait()
		_, err := s.Take(nil, 1) // room for one
		require.NoError(t, err)
		synctest.Wait()
		_, err = s.Take(nil, 1)
		require.NoError(t, err)
		firsts := 0
		for range 5 {
			r := <-receipts
			require.Equal(t, uint64(3), r.Cursor.Seq, "seq")
			if !r.Duplicate {
				firsts++
			}
		}
		require.Equal(t, 1, firsts, "publishes that were no duplicate")
	})
}

func TestMemoryWaitingBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(WithWaiting(100, 10_000))
		s, err := m.Subscribe(ctx, "lobby")
		require.NoError(t, err)
		publish(t, m, "lobby", string(make([]byte, 5_000)))
		publish(t, m, "lobby", string(make([]byte, 50_000))) // passes the bound by one message
		c, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err = m.Publish(c, &Message{Room: "lobby"})
		require.ErrorIs(t, err, ErrBusy)
		_, err = s.Take(nil, 1)
		require.NoError(t, err)
		c, cancel = context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err = m.Publish(c, &Message{Room: "lobby"})
		require.ErrorIs(t, err, ErrBusy)
		_, err = s.Take(nil, 1)
		require.NoError(t, err)
		publish(t, m, "lobby", "hello")
		check(t, m)
	})
}

// Close and a context's end at the same time leave nobody waiting.
func TestMemoryCloseReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := fullRoom(t, 1)
		errs := make(chan error, 30)
		for i := range 30 {
			go func() {
				c, cancel := context.WithTimeout(ctx, time.Duration(i/10)*time.Second+time.Second)
				defer cancel()
				_, err := m.Publish(c, &Message{Room: "lobby"})
				errs <- err
			}()
		}
		<-time.After(2 * time.Second)
		require.NoError(t, m.Close())
		closed := 0
		for range 30 {
			if err := <-errs; errors.Is(err, ErrClosed) {
				closed++
			} else {
				require.ErrorIs(t, err, ErrBusy)
			}
		}
		require.GreaterOrEqual(t, closed, 10, "publishes that Close released")
	})
}

// However much comes and goes, what waits is bounded by who is there.
func TestMemoryPresenceBounded(t *testing.T) {
	m, s := fullRoom(t, 4)
	l, err := m.Lease(ctx, "node")
	require.NoError(t, err)
	stays := []Member{{Client: "stays"}}
	require.NoError(t, l.Update(ctx, "lobby", stays, nil))
	for i := range 1000 {
		joined := []Member{{Client: strconv.Itoa(i % 7), Name: strconv.Itoa(i)}, {Client: "other"}}
		require.NoError(t, l.Update(ctx, "lobby", joined, nil))
		require.NoError(t, l.Update(ctx, "lobby", nil, joined))
	}
	sub := s.(*subscription)
	require.Equal(t, 5, sub.queue.n, "events that wait")
	got, err := s.Take(nil, 100)
	require.NoError(t, err)
	require.Len(t, got, 5, "events")
	require.Equal(t, Event{Type: EventJoined, Members: stays}, got[4], "the last event")
	require.Nil(t, sub.presence, "change that waits")

	// Another name is told as a join, and who has left under it has left.
	for range 4 {
		publish(t, m, "lobby", "hello")
	}
	renamed := []Member{{Client: "stays", Name: "renamed"}}
	require.NoError(t, l.Update(ctx, "lobby", []Member{{Client: "stays", Name: "between"}}, nil))
	require.NoError(t, l.Update(ctx, "lobby", renamed, nil))
	require.NoError(t, l.Update(ctx, "lobby", renamed, nil)) // changes nothing
	got, err = s.Take(nil, 100)
	require.NoError(t, err)
	require.Len(t, got, 5, "events")
	require.Equal(t, Event{Type: EventJoined, Members: renamed}, got[4], "the last event")
	for range 4 {
		publish(t, m, "lobby", "hello")
	}
	other := []Member{{Client: "other"}}
	require.NoError(t, l.Update(ctx, "lobby", stays, nil)) // the old name
	require.NoError(t, l.Update(ctx, "lobby", other, stays))
	got, err = s.Take(nil, 5)
	require.NoError(t, err)
	require.Equal(t, Event{Type: EventJoined, Members: other}, got[4], "the join")
	// Half of the change is taken: the other half still merges.
	sub.presence.merge(presence{joined: renamed})
	sub.presence.merge(presence{left: renamed})
	got, err = s.Take(nil, 5)
	require.NoError(t, err)
	require.Equal(t, []Event{{Type: EventLeft, Members: renamed}}, got, "the leave")

	// What came to nothing is no event.
	for range 4 {
		publish(t, m, "lobby", "hello")
	}
	guest := []Member{{Client: "guest"}}
	require.NoError(t, l.Update(ctx, "lobby", guest, nil))
	require.NoError(t, l.Update(ctx, "lobby", nil, guest))
	got, err = s.Take(nil, 100)
	require.NoError(t, err)
	require.Len(t, got, 4, "events")
	check(t, m)
}

// A room that only a waiter still used can be forgotten once that is through.
func TestMemoryForgetsAfterWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(WithWaiting(1, 1<<20), WithRooms(1))
		s, err := m.Subscribe(ctx, "lobby")
		require.NoError(t, err)
		publish(t, m, "lobby", "hello")
		through := make(chan error, 1)
		go func() {
			_, err := m.Publish(ctx, &Message{Room: "lobby"})
			through <- err
		}()
		synctest.Wait()
		_, err = m.Publish(ctx, &Message{Room: "other"})
		require.ErrorIs(t, err, ErrBusy, "Publish while the only room is in use")
		s.Close()
		require.NoError(t, <-through)
		synctest.Wait()
		check(t, m)
		publish(t, m, "other", "hello")
		require.Equal(t, -1, kept(m, "lobby"), "messages of the forgotten room")
	})
}
