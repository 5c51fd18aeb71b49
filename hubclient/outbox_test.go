package hubclient_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/hubclient"
)

// fast lets clients publish as they like.
var fast = hub.WithPublishRate(100_000, 1000)

// TestOutboxOrder: what is published in a row is kept in that order, whatever happens to the connection, and
// once.
func TestOutboxOrder(t *testing.T) {
	for _, tc := range []struct {
		name string
		opts []hub.HubOption
	}{
		{"no limit that matters", []hub.HubOption{fast}},
		{"paced", []hub.HubOption{hub.WithPublishRate(20, 5)}},
		{"one at a time", []hub.HubOption{hub.WithPublishRate(10, 1)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				const n = 300
				alice := w.dial(hubclient.WithName("alice"), hubclient.WithBackoff(every(time.Second)))
				bob := w.dial(hubclient.WithName("bob"), hubclient.WithBackoff(every(time.Second)))
				list := make([]*hubclient.Publication, n)
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					for i := range n {
						var err error
						if list[i], err = alice.PublishAsync(background, hubclient.Text(fmt.Sprint(i+1))); err != nil {
							t.Error(err)
						}
					}
				}()
				for range 7 {
					elapse(3 * time.Second)
					w.cut()
				}
				require.Equal(t, numbers(1, n), texts(t, bob, n))
				<-sent
				for i, p := range list {
					r, err := p.Result()
					require.NoError(t, err)
					require.Equal(t, uint64(i+1), r.Seq)
					require.Equal(t, p.ID(), r.ID)
				}
				require.NoError(t, alice.Flush(background))
			}, append(tc.opts, hub.WithHistory(1000, time.Hour))...)
		})
	}
}

// TestPaced: a client that keeps to the server's limits is not refused.
func TestPaced(t *testing.T) {
	var refused atomic.Int32
	inBubble(t, func(w *world) {
		alice := w.dial(hubclient.WithName("alice"))
		start := time.Now()
		var last *hubclient.Publication
		for i := range 240 {
			p, err := alice.PublishAsync(background, hubclient.Text(fmt.Sprint(i)))
			require.NoError(t, err)
			last = p
		}
		_, err := last.Result()
		require.NoError(t, err)
		require.InDelta(t, 10.25, time.Since(start).Seconds(), 0.1, "35 at once and 20 a second")
		require.Zero(t, refused.Load())
	})
}

// TestRefusedForAMoment: what the broker can't do now is done later, and what was published after it still
// comes after it.
func TestRefusedForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := &awayBroker{Memory: broker.NewMemory()}
		w := newWorld(t, fast, hub.WithBroker(away))
		alice := w.dial()
		away.fail.Store(5)
		var list []*hubclient.Publication
		for i := range 100 {
			p, err := alice.PublishAsync(background, hubclient.Text(fmt.Sprint(i+1)))
			require.NoError(t, err)
			list = append(list, p)
		}
		for i, p := range list {
			r, err := p.Result()
			require.NoError(t, err)
			require.Equal(t, uint64(i+1), r.Seq)
		}
		require.Equal(t, numbers(1, 100), texts(t, alice, 100))
		require.Zero(t, away.fail.Load())
	})
}

// TestRefusedBehindAnotherRoom: what was refused comes again before what could not be sent until then.
func TestRefusedBehindAnotherRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := &awayBroker{Memory: broker.NewMemory()}
		w := newWorld(t, hub.WithPublishRate(10, 1), hub.WithBroker(away), hub.WithAuthorize(func(*hub.Client, string) error { return nil }))
		alice := w.dial()
		_, err := alice.Join(background, "games")
		require.NoError(t, err)
		room, err := w.hub.Room("games")
		require.NoError(t, err)
		require.NoError(t, room.Close(background)) // alice comes back to it in a second
		elapse(100 * time.Millisecond)
		first, err := alice.PublishAsync(background, hubclient.Message{Room: "games", Kind: broker.KindText, Data: []byte("later")})
		require.NoError(t, err)
		elapse(400 * time.Millisecond)
		away.fail.Store(1)
		second, err := alice.PublishAsync(background, hubclient.Text("refused for a second"))
		require.NoError(t, err)
		elapse(5 * time.Second)
		for _, p := range []*hubclient.Publication{first, second} {
			select {
			case <-p.Done():
				_, err := p.Result()
				require.NoError(t, err)
			default:
				require.Fail(t, "a message is held up for ever")
			}
		}
	})
}

// TestRefusedAfterItWasKept: a refusal of a message says nothing about an earlier sending of it that had no answer.
func TestRefusedAfterItWasKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := &awayBroker{Memory: broker.NewMemory()}
		w := newWorld(t, fast, hub.WithBroker(away), hub.WithAuthorize(func(*hub.Client, string) error { return nil }))
		alice := w.dial()
		_, err := alice.Join(background, "games")
		require.NoError(t, err)
		away.fail.Store(2) // the first of two is kept all the same
		p, err := alice.PublishAsync(background, hubclient.Message{Room: "games", Kind: broker.KindText, Data: []byte("kept")})
		require.NoError(t, err)
		synctest.Wait()
		away.fail.Store(0)
		require.NoError(t, alice.Leave(background, "games"))
		_, err = p.Result()
		require.ErrorIs(t, err, hubclient.ErrUncertain)
		var refused *hubclient.Error
		require.ErrorAs(t, err, &refused)
		require.Equal(t, "not_in_room", refused.Code)
		page, err := away.Before(background, "games", 0, 10)
		require.NoError(t, err)
		require.Len(t, page.Messages, 1)
	})
}

// TestAwayForTooLong: a message that was refused until it was too old is given up, and those behind it are not held up by it.
func TestAwayForTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := &awayBroker{Memory: broker.NewMemory(broker.WithDedup(time.Minute, 1000))}
		w := newWorld(t, fast, hub.WithBroker(away))
		alice := w.dial()
		away.fail.Store(1_000_000)
		old, err := alice.PublishAsync(background, hubclient.Text("old"))
		require.NoError(t, err)
		elapse(30 * time.Second)
		young, err := alice.PublishAsync(background, hubclient.Text("young"))
		require.NoError(t, err)
		elapse(14 * time.Second)
		away.fail.Store(1_000_000)
		_, err = old.Result()
		require.ErrorIs(t, err, hubclient.ErrUncertain)
		away.fail.Store(0)
		_, err = young.Result()
		require.NoError(t, err)
	})
}

// An awayBroker can't be reached for some publishes, some of which it keeps all the same.
type awayBroker struct {
	*broker.Memory
	fail atomic.Int32
}

func (b *awayBroker) Publish(ctx context.Context, m *broker.Message) (broker.Receipt, error) {
	n := b.fail.Load()
	if n == 0 {
		return b.Memory.Publish(ctx, m)
	}
	b.fail.Add(-1)
	if n%2 == 0 {
		_, _ = b.Memory.Publish(ctx, m)
	}
	return broker.Receipt{}, fmt.Errorf("away: %w", context.DeadlineExceeded)
}

// TestFinalErrors: what can't succeed later is told, and holds nothing up.
func TestFinalErrors(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.dial(hubclient.WithOutbox(1000, 10<<20))
		first := hubclient.Text("first")
		first.ID = "same"
		_, err := alice.Publish(background, first)
		require.NoError(t, err)
		r, err := alice.Publish(background, first)
		require.NoError(t, err)
		require.True(t, r.Duplicate)
		first.Data = []byte("another")
		_, err = alice.Publish(background, first)
		requireCode(t, "id_reused", err)
		_, err = alice.Publish(background, hubclient.Text("no"))
		requireCode(t, "refused", err)
		require.ErrorContains(t, err, "not that word")
		_, err = alice.Publish(background, hubclient.Text(strings.Repeat("x", 70_000)))
		requireCode(t, "too_large", err)

		for want, m := range map[string]hubclient.Message{
			"Data is not UTF-8": hubclient.Text("\xff"),
			"Data is not valid": hubclient.JSON([]byte("{")),
			"Kind":              {},
			"ID must be":        {ID: "a\nb", Kind: broker.KindText},
			"ID must not be l":  {ID: strings.Repeat("x", 65), Kind: broker.KindText},
			"Key must not":      {Key: strings.Repeat("x", 65), Kind: broker.KindText},
			"Room must not":     {Room: "a/b", Kind: broker.KindText},
			"client and a user": {To: broker.Target{Client: "c", User: "u"}, Kind: broker.KindText},
		} {
			_, err := alice.Publish(background, m)
			require.ErrorContains(t, err, want)
			_, err = alice.PublishAsync(background, m)
			require.ErrorContains(t, err, want)
		}
		publish(t, alice, "last")
		require.Equal(t, []string{"first", "last"}, texts(t, alice, 2))
	}, fast, hub.WithHandler(func(in *hub.Incoming) error {
		if string(in.Message.Data) == "no" {
			return &hub.Refusal{Message: "not that word"}
		}
		return in.Publish(in.Client.Context())
	}))
}

// TestRefusedForTheRate: the server says when it takes the message, and its token is not paid a second time.
func TestRefusedForTheRate(t *testing.T) {
	var at []time.Time
	scripted(t, func(_ *script, c *hubclient.Client) {
		for i := range 3 {
			_, err := c.PublishAsync(background, hubclient.Text(fmt.Sprint(i)))
			require.NoError(t, err)
		}
		require.NoError(t, c.Flush(background))
		var pauses []time.Duration
		for i := range at[1:] {
			pauses = append(pauses, at[i+1].Sub(at[i]))
		}
		require.Equal(t, []time.Duration{10 * time.Second, 5 * time.Millisecond, 10*time.Second - 5*time.Millisecond}, pauses)
	}, func(s *said) {
		s.say(strings.Replace(welcome(5, "new"), `"rate":0,"burst":0`, `"rate":0.1,"burst":1`, 1))
		for i := range 4 {
			id := s.hear().ID
			at = append(at, time.Now())
			if i == 1 { // it came faster than the one before
				s.say(fmt.Sprintf(`{"type":"error","id":%q,"code":"rate","message":"slow down","retry_after_ms":5}`, id))
			} else {
				s.say(fmt.Sprintf(`{"type":"ack","id":%q,"seq":%d}`, id, 6+i))
			}
		}
		s.stay()
	})
}

// TestOutboxOfAnyBytes: an outbox may be bounded by its messages alone.
func TestOutboxOfAnyBytes(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.dial(hubclient.WithOutbox(3, math.MaxInt), hubclient.WithBackoff(every(time.Minute)))
		until(t, alice, hubclient.EventWelcome)
		w.cut()
		until(t, alice, hubclient.EventDisconnected)
		big := hubclient.Text(strings.Repeat("x", 3<<20))
		for range 3 {
			_, err := alice.PublishAsync(background, big)
			require.NoError(t, err)
		}
		ctx, cancel := context.WithTimeout(background, time.Second)
		defer cancel()
		_, err := alice.PublishAsync(ctx, hubclient.Text("4"))
		require.ErrorIs(t, err, hubclient.ErrOutboxFull)
	}, hub.WithMessageLimit(4<<20))
}

// TestContexts: what a context's end means depends on what has become of the message.
func TestContexts(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.dial(hubclient.WithOutbox(2, 1000), hubclient.WithBackoff(every(time.Minute)))
		until(t, alice, hubclient.EventWelcome)
		soon := func() context.Context {
			ctx, cancel := context.WithTimeout(background, time.Second)
			t.Cleanup(cancel)
			return ctx
		}
		ended, cancel := context.WithCancel(background)
		cancel()
		_, err := alice.Publish(ended, hubclient.Text("never"))
		require.ErrorIs(t, err, hubclient.ErrNotSent)
		require.ErrorIs(t, err, context.Canceled)

		w.last().Stall(true)
		m := hubclient.Text("1")
		m.ID = "one"
		_, err = alice.Publish(soon(), m)
		require.ErrorIs(t, err, hubclient.ErrUncertain)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		m.Data = []byte("other")
		_, err = alice.Publish(soon(), m)
		require.ErrorIs(t, err, hubclient.ErrIDReused)
		w.cut()
		until(t, alice, hubclient.EventDisconnected)

		_, err = alice.Publish(soon(), hubclient.Text("2"))
		require.ErrorIs(t, err, hubclient.ErrNotSent)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		p, err := alice.PublishAsync(soon(), hubclient.Text("3"))
		require.NoError(t, err)
		_, err = p.Wait(soon())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = alice.Publish(soon(), hubclient.Text("4"))
		require.ErrorIs(t, err, hubclient.ErrOutboxFull)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, alice.Flush(soon()), context.DeadlineExceeded)

		m.Data = []byte("1")
		r, err := alice.Publish(background, m) // waits for the one that is in the outbox
		require.NoError(t, err)
		require.Equal(t, uint64(1), r.Seq)
		r, err = p.Result()
		require.NoError(t, err)
		require.Equal(t, uint64(2), r.Seq)
		require.Equal(t, []string{"1", "3"}, texts(t, alice, 2))

		w.last().Stall(true)
		async, err := alice.PublishAsync(background, hubclient.Text("5"))
		require.NoError(t, err)
		synctest.Wait()
		require.NoError(t, alice.Close())
		_, err = async.Result()
		require.ErrorIs(t, err, hubclient.ErrUncertain)
		require.ErrorIs(t, err, hubclient.ErrClosed)
		require.NoError(t, alice.Err())
	})
}

// TestPublishedTwice: who waits no more for a message takes it away from nobody else.
func TestPublishedTwice(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.dial(hubclient.WithBackoff(every(time.Minute)))
		_ = w.net.Close()
		w.cut()
		until(t, alice, hubclient.EventDisconnected)
		soon := func(m hubclient.Message) error {
			ctx, cancel := context.WithTimeout(background, time.Second)
			defer cancel()
			_, err := alice.Publish(ctx, m)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			return err
		}
		m := hubclient.Text("1")
		m.ID = "one"
		p, err := alice.PublishAsync(background, m)
		require.NoError(t, err)
		require.ErrorIs(t, soon(m), hubclient.ErrUncertain, "it will be sent")

		m.ID = "two"
		both := make(chan error, 1)
		go func() {
			_, err := alice.Publish(background, m)
			both <- err
		}()
		synctest.Wait()
		require.ErrorIs(t, soon(m), hubclient.ErrUncertain)
		m.ID = "three"
		require.ErrorIs(t, soon(m), hubclient.ErrNotSent)

		w.serve(w.hub)
		r, err := p.Result()
		require.NoError(t, err)
		require.Equal(t, uint64(1), r.Seq)
		require.NoError(t, <-both)
		require.Equal(t, uint64(3), publish(t, alice, "last").Seq)
	})
}

// TestUncertain: past the server's dedup window nothing is repeated.
func TestUncertain(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.dial(hubclient.WithName("alice"), hubclient.WithBackoff(every(10*time.Second)))
		publish(t, alice, "0")
		texts(t, alice, 1)
		w.last().Stall(true)
		sent, err := alice.PublishAsync(background, hubclient.Text("sent"))
		require.NoError(t, err)
		synctest.Wait()
		_ = w.net.Close()
		w.cut()
		until(t, alice, hubclient.EventDisconnected)
		waits, err := alice.PublishAsync(background, hubclient.Text("not sent"))
		require.NoError(t, err)
		start := time.Now()
		_, err = sent.Result()
		require.ErrorIs(t, err, hubclient.ErrUncertain)
		require.Equal(t, 45*time.Second, time.Since(start), "a quarter before the end of the window")
		w.serve(w.hub)
		_, err = waits.Result()
		require.NoError(t, err)
		require.Equal(t, []string{"not sent"}, texts(t, alice, 1))

		// A room that began anew knows no ids.
		w.last().Stall(true)
		sent, err = alice.PublishAsync(background, hubclient.Text("sent"))
		require.NoError(t, err)
		synctest.Wait()
		_ = w.srv.Close()
		w.cut()
		w.start(hub.WithDedupWindow(time.Minute))
		_, err = sent.Result()
		require.ErrorIs(t, err, hubclient.ErrUncertain)
		publish(t, alice, "1")
		require.Equal(t, []string{"1"}, texts(t, alice, 1))
	}, hub.WithDedupWindow(time.Minute))
}

// TestDirect: a direct message says how many it reached, and is not repeated.
func TestDirect(t *testing.T) {
	inBubble(t, func(w *world) {
		alice, bob := w.dial(hubclient.WithName("alice"), hubclient.WithBackoff(every(time.Second))), w.dial(hubclient.WithName("bob"))
		until(t, alice, hubclient.EventJoined)
		until(t, alice, hubclient.EventJoined)
		m := hubclient.Text("psst")
		m.To = broker.Target{User: bob.User()}
		r, err := alice.Publish(background, m)
		require.NoError(t, err)
		require.Equal(t, 1, r.Reached)
		got := until(t, bob, hubclient.EventDirect).Message
		require.Equal(t, "psst", got.Text())
		require.Equal(t, bob.User(), got.To.User)
		require.Zero(t, got.Seq)

		w.last().Stall(true)
		w.conns[0].Stall(true)
		p, err := alice.PublishAsync(background, m)
		require.NoError(t, err)
		synctest.Wait()
		w.cut()
		_, err = p.Result()
		require.ErrorIs(t, err, hubclient.ErrUncertain)
	})
}

// TestRequests: what is asked for waits for a connection.
func TestRequests(t *testing.T) {
	inBubble(t, func(w *world) {
		alice, bob := w.dial(hubclient.WithName("alice")), w.dial(hubclient.WithName("bob"))
		for i := range 5 {
			publish(t, alice, fmt.Sprint(i+1))
		}
		w.cut()
		list, more, err := alice.History(background, "", 5, 2)
		require.NoError(t, err)
		require.True(t, more)
		require.Equal(t, []string{"3", "4"}, []string{list[0].Text(), list[1].Text()})
		members, count, err := alice.Presence(background, "lobby")
		require.NoError(t, err)
		require.Equal(t, 2, count)
		require.ElementsMatch(t, []string{"alice", "bob"}, []string{members[0].Name, members[1].Name})
		_, _, err = alice.Presence(background, "elsewhere")
		requireCode(t, "not_in_room", err)
		_, _, err = alice.History(background, "", 0, 101)
		require.ErrorContains(t, err, "limit")
		_, _, err = alice.History(background, "a/b", 0, 0)
		require.ErrorContains(t, err, "room")

		until(t, bob, hubclient.EventDisconnected)
		until(t, bob, hubclient.EventWelcome)
		alice.Typing("", true)
		e := until(t, bob, hubclient.EventTyping)
		require.Equal(t, []any{"alice", true}, []any{e.Member.Name, e.On})

		_ = w.net.Close()
		w.cut()
		ctx, cancel := context.WithTimeout(background, time.Minute)
		defer cancel()
		_, _, err = alice.Presence(ctx, "")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = alice.Join(ctx, "games")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		alice.Typing("", true)
	})
}

// TestSameIDAtOnce: calls with one ID at the same moment are one message.
func TestSameIDAtOnce(t *testing.T) {
	inBubble(t, func(w *world) {
		const rounds, callers = 300, 8
		alice := w.dial()
		for round := range rounds {
			m := hubclient.Text("one")
			m.ID = fmt.Sprint(round)
			start := make(chan struct{})
			got := make(chan *hubclient.Publication, callers)
			for range callers {
				go func() {
					<-start
					p, err := alice.PublishAsync(background, m)
					if err != nil {
						t.Error(err)
					}
					got <- p
				}()
			}
			close(start)
			seqs := map[uint64]bool{}
			for range callers {
				r, err := (<-got).Result()
				require.NoError(t, err)
				seqs[r.Seq] = true
			}
			require.Len(t, seqs, 1)
		}
		require.Equal(t, int32(1), w.dials.Load(), "no connection was lost for it")
	}, fast)
}
