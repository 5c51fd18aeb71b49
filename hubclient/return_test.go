package hubclient_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/hubclient"
)

func TestComesBack(t *testing.T) {
	inBubble(t, func(w *world) {
		alice, bob := w.dial(hubclient.WithName("alice")), w.dial(hubclient.WithName("bob"))
		user := bob.User()
		publish(t, alice, "1")
		require.Equal(t, numbers(1, 1), texts(t, bob, 1))
		w.cut()
		for i := 2; i <= 9; i++ {
			publish(t, alice, fmt.Sprint(i))
		}
		require.Error(t, until(t, bob, hubclient.EventDisconnected).Err)
		require.Equal(t, hubclient.RecoveryRecovered, until(t, bob, hubclient.EventWelcome).Welcome.Recovery)
		require.Equal(t, numbers(2, 9), texts(t, bob, 8))
		require.Equal(t, numbers(1, 9), texts(t, alice, 9))
		require.Equal(t, user, bob.User(), "the same guest")
		require.Equal(t, "bob", bob.Name())
	})
}

// TestVerdicts: what is missing is told.
func TestVerdicts(t *testing.T) {
	inBubble(t, func(w *world) {
		alice, bob := w.dial(hubclient.WithName("alice")), w.dial(hubclient.WithName("bob"), hubclient.WithBackoff(every(time.Minute)))
		publish(t, alice, "1")
		texts(t, bob, 1)
		w.cut()
		until(t, bob, hubclient.EventDisconnected)
		for i := 2; i <= 9; i++ {
			publish(t, alice, fmt.Sprint(i))
		}
		require.Equal(t, hubclient.RecoveryGap, until(t, bob, hubclient.EventWelcome).Welcome.Recovery)
		gap := until(t, bob, hubclient.EventGap).Gap
		require.Equal(t, []any{uint64(1), uint64(6), 4, false}, []any{gap.After, gap.Before, gap.Missed, gap.Reset})
		require.Equal(t, numbers(6, 9), texts(t, bob, 4))

		// The whole server is gone, and with it what it kept in memory.
		_ = w.srv.Close()
		w.cut()
		require.NoError(t, w.hub.Shutdown(background))
		w.start()
		require.Equal(t, hubclient.RecoveryReset, until(t, bob, hubclient.EventWelcome).Welcome.Recovery)
		publish(t, alice, "anew")
		require.Equal(t, []string{"anew"}, texts(t, bob, 1))
	}, hub.WithHistory(4, time.Hour))
}

func every(d time.Duration) func(int) time.Duration { return func(int) time.Duration { return d } }

// TestAcrossProcesses: what was stored is enough to go on where another process was.
func TestAcrossProcesses(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.dial(hubclient.WithName("alice"))
		bob := w.dial()
		for i := 1; i <= 5; i++ {
			publish(t, alice, fmt.Sprint(i))
		}
		var last *hubclient.Received
		for range 3 {
			last = until(t, bob, hubclient.EventMessage).Message
		}
		user, session := bob.User(), bob.Session()
		require.NoError(t, bob.Close())

		again := w.dial(hubclient.WithSession(session), hubclient.WithSince(last.Cursor))
		require.Equal(t, user, again.User())
		require.Equal(t, hubclient.RecoveryRecovered, until(t, again, hubclient.EventWelcome).Welcome.Recovery)
		require.Equal(t, numbers(4, 5), texts(t, again, 2))
		require.Equal(t, numbers(4, 5), texts(t, w.dial(hubclient.WithHistory(2)), 2))

		for _, bad := range []string{"garbage", "AQcAAA", "%"} {
			_, err := w.tryDial("ws://hub.test/room/lobby", hubclient.WithSince(bad))
			var refused *hubclient.HandshakeError
			require.ErrorAs(t, err, &refused, bad)
			require.Equal(t, http.StatusBadRequest, refused.Status)
		}
		inURL, err := w.tryDial("ws://hub.test/room/lobby?name=bob&session=" + session + "&since=" + last.Cursor)
		require.NoError(t, err)
		require.Equal(t, []string{user, "bob"}, []string{inURL.User(), inURL.Name()})
		require.Equal(t, numbers(4, 5), texts(t, inURL, 2))

		old := broker.Cursor{Epoch: "another", Seq: 7, Tag: 1}.String()
		require.Equal(t, hubclient.RecoveryReset, until(t, w.dial(hubclient.WithSince(old)), hubclient.EventWelcome).Welcome.Recovery)
	})
}

// TestRooms: other rooms are joined again too, each with its own cursor.
func TestRooms(t *testing.T) {
	inBubble(t, func(w *world) {
		alice, bob := w.dial(hubclient.WithName("alice")), w.dial(hubclient.WithName("bob"))
		hi, err := alice.Join(background, "games")
		require.NoError(t, err)
		require.Equal(t, "games", hi.Room)
		_, err = bob.Join(background, "games", hubclient.JoinHistory(0))
		require.NoError(t, err)
		require.Equal(t, []string{"games", "lobby"}, bob.Rooms())
		_, err = bob.Join(background, "games")
		requireCode(t, "already_in_room", err)
		_, err = bob.Join(background, "lobby")
		requireCode(t, "already_in_room", err)
		_, err = bob.Join(background, "a/b")
		require.ErrorContains(t, err, "room must not contain")
		_, err = bob.Join(background, "more", hubclient.JoinSince("garbage"))
		require.ErrorContains(t, err, "since")
		_, err = bob.Join(background, "three")
		requireCode(t, "room_limit", err)
		require.Equal(t, []string{"games", "lobby"}, bob.Rooms())

		in := func(room, text string) {
			m := hubclient.Text(text)
			m.Room = room
			_, err := alice.Publish(background, m)
			require.NoError(t, err)
		}
		in("games", "1")
		in("lobby", "2")
		w.cut()
		in("games", "3")
		in("lobby", "4")
		got := map[string][]string{}
		welcomes := 0
		for len(got["games"])+len(got["lobby"]) < 4 {
			switch e, err := bob.Next(background); {
			case err != nil:
				t.Fatal(err)
			case e.Type == hubclient.EventMessage:
				got[e.Room] = append(got[e.Room], e.Message.Text())
			case e.Type == hubclient.EventWelcome && welcomes > 1:
				require.Equal(t, hubclient.RecoveryRecovered, e.Welcome.Recovery)
				fallthrough
			case e.Type == hubclient.EventWelcome:
				welcomes++
			}
		}
		require.Equal(t, map[string][]string{"games": {"1", "3"}, "lobby": {"2", "4"}}, got)

		require.NoError(t, bob.Leave(background, "games"))
		require.NoError(t, bob.Leave(background, "games"), "nothing to do")
		require.Equal(t, []string{"lobby"}, bob.Rooms())
		m := hubclient.Text("from outside")
		m.Room = "games"
		_, err = bob.Publish(background, m)
		requireCode(t, "not_in_room", err)
		w.cut()
		in("games", "5")
		in("lobby", "6")
		require.Equal(t, numbers(6, 6), texts(t, bob, 1), "it is not in games again")

		require.NoError(t, bob.Leave(background, "lobby"))
		require.Empty(t, bob.Rooms())
		_, err = bob.Join(background, "games")
		require.NoError(t, err)
		w.cut()
		in("lobby", "7")
		in("games", "8")
		for range 2 { // history, then what came
			if texts(t, bob, 1)[0] == "8" {
				break
			}
		}
		require.Equal(t, []string{"games"}, bob.Rooms(), "the URL's room stays left")
		_, err = bob.Join(background, "lobby")
		require.NoError(t, err)
	}, hub.WithRoomsPerClient(2), anyRoom)
}

func requireCode(t *testing.T, code string, err error) {
	t.Helper()
	var e *hubclient.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, code, e.Code)
}

// TestRoomClosed: the service closes a room under its members; who would come back does.
func TestRoomClosed(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.dial(hubclient.WithName("alice"))
		_, err := alice.Join(background, "games")
		require.NoError(t, err)
		for _, name := range []string{"games", "lobby"} {
			room, err := w.hub.Room(name)
			require.NoError(t, err)
			require.NoError(t, room.Close(background))
			if name == "games" {
				require.Equal(t, "shutdown", until(t, alice, hubclient.EventLeftRoom).Reason)
			} else {
				require.ErrorContains(t, until(t, alice, hubclient.EventDisconnected).Err, "1001")
			}
			for until(t, alice, hubclient.EventWelcome).Room != name {
			}
			room, err = w.hub.Room(name)
			require.NoError(t, err)
			_, err = room.Publish(background, hub.Text("open again"))
			require.NoError(t, err)
			require.Equal(t, []string{"open again"}, texts(t, alice, 1))
		}
	}, hub.WithRoomsPerClient(2), anyRoom)
}

// TestHalfOpen: a connection on which nothing comes any more is given up.
func TestHalfOpen(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.dial(hubclient.WithName("alice"))
		until(t, alice, hubclient.EventWelcome)
		w.last().Stall(true)
		start := time.Now()
		e := until(t, alice, hubclient.EventDisconnected)
		require.ErrorContains(t, e.Err, "no answer")
		require.InDelta(t, 60, time.Since(start).Seconds(), 2)
		require.Equal(t, hubclient.RecoveryRecovered, until(t, alice, hubclient.EventWelcome).Welcome.Recovery)

		w.last().Stall(true) // a publish does not wait so long
		start = time.Now()
		publish(t, alice, "1")
		require.Less(t, time.Since(start), 35*time.Second)

		elapse(3 * time.Hour) // with pings alone
		require.Equal(t, numbers(1, 1), texts(t, alice, 1))
		publish(t, alice, "2")
		require.Equal(t, numbers(2, 2), texts(t, alice, 1), "with no connection lost between")
	})
}

// anyRoom lets clients join other rooms.
var anyRoom = hub.WithAuthorize(func(*hub.Client, string) error { return nil })

func elapse(d time.Duration) { <-time.After(d) }

// TestCloseLeavesNoHole: who still takes events while the client is closed gets no message behind one that was dropped.
func TestCloseLeavesNoHole(t *testing.T) {
	for range 100 { // when exactly it is closed is the scheduler's choice
		inBubble(t, func(w *world) {
			room, err := w.hub.Room("lobby")
			require.NoError(t, err)
			for i := range 200 {
				_, err := room.Publish(background, hub.Text(fmt.Sprint(i)))
				require.NoError(t, err)
			}
			alice := w.dial(hubclient.WithHistory(200), hubclient.WithQueue(1, 1000))
			closed := make(chan struct{})
			last := uint64(0)
			for e := range alice.Events() {
				if e.Type != hubclient.EventMessage {
					continue
				}
				require.Equal(t, last, e.Message.Prev)
				if last = e.Message.Seq; last == 50 {
					go func() {
						_ = alice.Close()
						close(closed)
					}()
				}
			}
			<-closed
		})
	}
}

// TestLeftAndJoinedAgain: a Join that a Leave has ended does not take away the room that the next Join entered.
func TestLeftAndJoinedAgain(t *testing.T) {
	for range 20 { // which of them is first is the scheduler's choice
		inBubble(t, func(w *world) {
			alice := w.dial(hubclient.WithBackoff(every(time.Second)))
			_ = w.net.Close()
			w.cut()
			until(t, alice, hubclient.EventDisconnected)
			first := make(chan error, 1)
			go func() {
				_, err := alice.Join(background, "games")
				first <- err
			}()
			synctest.Wait()
			require.NoError(t, alice.Leave(background, "games"))
			second := make(chan error, 1)
			go func() {
				_, err := alice.Join(background, "games")
				second <- err
			}()
			require.ErrorContains(t, <-first, "left")
			w.serve(w.hub)
			require.NoError(t, <-second)
			require.Equal(t, []string{"games", "lobby"}, alice.Rooms())
		}, hub.WithAuthorize(func(*hub.Client, string) error { return nil }))
	}
}

// TestGoneForAnHour: no busy loop, no growing memory, and then all is well.
func TestGoneForAnHour(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.dial(hubclient.WithName("alice"), hubclient.WithOutbox(10, 10_000))
		until(t, alice, hubclient.EventWelcome)
		_ = w.net.Close()
		w.cut()
		until(t, alice, hubclient.EventDisconnected)
		start := time.Now()
		before := w.dials.Load()
		var waiting []*hubclient.Publication
		full := 0
		for i := range 60 {
			ctx, cancel := context.WithTimeout(background, time.Minute)
			p, err := alice.PublishAsync(ctx, hubclient.Text(fmt.Sprint(i+1)))
			if err == nil {
				waiting = append(waiting, p)
				<-ctx.Done()
			} else {
				require.ErrorIs(t, err, hubclient.ErrOutboxFull)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				full++
			}
			cancel()
		}
		require.Equal(t, 50, full)
		require.Equal(t, time.Hour, time.Since(start))
		dials := w.dials.Load() - before
		require.Greater(t, dials, int32(100))
		require.Less(t, dials, int32(600), "15 s apart on average")
		until(t, alice, hubclient.EventDisconnected)
		ctx, cancel := context.WithTimeout(background, time.Nanosecond)
		defer cancel()
		_, err := alice.Next(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded, "240 failed attempts are one event")

		w.serve(w.hub)
		for _, p := range waiting {
			_, err := p.Result()
			require.NoError(t, err)
		}
		require.Equal(t, numbers(1, 10), texts(t, alice, 10))
	})
}

// TestDraining: a server that goes away says when to come back, and is left alone until then.
func TestDraining(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.dial(hubclient.WithName("alice"), hubclient.WithBackoff(every(0)))
		until(t, alice, hubclient.EventWelcome)
		_ = w.net.Close()
		require.NoError(t, w.hub.Shutdown(background))
		e := until(t, alice, hubclient.EventDisconnected)
		var ce *hubclient.CloseError
		require.ErrorAs(t, e.Err, &ce)
		require.Equal(t, 1012, ce.Code)
		require.Positive(t, e.RetryIn)
		w.start()
		require.Equal(t, hubclient.RecoveryReset, until(t, alice, hubclient.EventWelcome).Welcome.Recovery)
	})
}

// TestKicked: who is not wanted does not come back.
func TestKicked(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.dial(hubclient.WithName("alice"))
		until(t, alice, hubclient.EventWelcome)
		_, err := alice.PublishAsync(background, hubclient.Text("kick me"))
		require.NoError(t, err)
		n := 0
		for range alice.Events() {
			n++
		}
		var ce *hubclient.CloseError
		require.ErrorAs(t, alice.Err(), &ce)
		require.Equal(t, []any{1008, "out"}, []any{ce.Code, ce.Reason})
		<-alice.Done()
		_, err = alice.Publish(background, hubclient.Text("still there?"))
		require.ErrorIs(t, err, hubclient.ErrClosed)
		require.ErrorIs(t, err, hubclient.ErrNotSent)
		_, err = alice.Join(background, "games")
		require.ErrorIs(t, err, hubclient.ErrClosed)
		require.NoError(t, alice.Flush(background))
		require.NoError(t, alice.Close())
		require.Error(t, alice.Err(), "Close changes nothing any more")
	}, hub.WithHandler(func(in *hub.Incoming) error {
		in.Client.Close(1008, "out")
		return errors.New("no")
	}))
}

// TestKickedWhilePublishing: what the server said last counts, also where a write fails before it was read.
func TestKickedWhilePublishing(t *testing.T) {
	for range 20 {
		inBubble(t, func(w *world) {
			alice := w.dial(hubclient.WithBackoff(every(0)), hubclient.WithOutbox(1000, 10<<20))
			go func() {
				for {
					if _, err := alice.PublishAsync(background, hubclient.Text("x")); err != nil {
						return
					}
				}
			}()
			for range alice.Events() {
			}
			var ce *hubclient.CloseError
			require.ErrorAs(t, alice.Err(), &ce)
			require.Equal(t, 1008, ce.Code)
			require.Equal(t, int32(1), w.dials.Load())
		}, fast, hub.WithHandler(func(in *hub.Incoming) error {
			in.Client.Close(1008, "out")
			return nil
		}))
	}
}

// TestLeave: a room can be left at any moment, also one that is not reached yet.
func TestLeave(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.dial(hubclient.WithName("alice"), hubclient.WithBackoff(every(time.Second)))
		until(t, alice, hubclient.EventJoined)
		_ = w.net.Close()
		w.cut()
		until(t, alice, hubclient.EventDisconnected)
		joined := make(chan error, 1)
		go func() {
			_, err := alice.Join(background, "games")
			joined <- err
		}()
		elapse(time.Minute)
		require.NoError(t, alice.Leave(background, "games"))
		requireCode(t, "not_in_room", <-joined)
		require.NoError(t, alice.Leave(background, "lobby"))
		require.Empty(t, alice.Rooms())
		w.serve(w.hub)
		_, err := alice.Join(background, "games")
		require.NoError(t, err)
		require.Equal(t, []string{"games"}, alice.Rooms())
		_, err = alice.Join(background, "lobby")
		require.NoError(t, err)

		// A join that nobody waits for any more is taken back.
		w.last().Stall(true)
		ctx, cancel := context.WithTimeout(background, time.Second)
		defer cancel()
		require.NoError(t, alice.Leave(ctx, "elsewhere"), "it never was there")
		_, err = alice.Join(ctx, "late")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, alice.Leave(ctx, "games"), context.DeadlineExceeded)
		w.last().Stall(false)
		elapse(time.Minute)
		require.Equal(t, []string{"lobby"}, alice.Rooms())
		for _, name := range []string{"late", "games"} {
			room, err := w.hub.Room(name)
			require.NoError(t, err)
			for m := range room.Members() {
				t.Errorf("%s is in %s", m.Name, name)
			}
		}
		// Nor does it stand in the way of the next one.
		w.last().Stall(true)
		soon, cancel := context.WithTimeout(background, time.Second)
		defer cancel()
		_, err = alice.Join(soon, "late")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.AfterFunc(time.Second, func() { w.last().Stall(false) })
		hi, err := alice.Join(background, "late")
		require.NoError(t, err)
		require.Equal(t, "late", hi.Room)
		require.Equal(t, []string{"late", "lobby"}, alice.Rooms())
		publish(t, alice, "still there")
		require.Equal(t, []string{"still there"}, texts(t, alice, 1))
	}, hub.WithRoomsPerClient(5), anyRoom)
}

// TestJoinWhileLeaving: what still comes of the stay that a Leave has given up waiting for the end of does not count for the next one.
func TestJoinWhileLeaving(t *testing.T) {
	scripted(t, func(s *script, c *hubclient.Client) {
		_, err := c.Join(background, "games")
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(background, time.Second)
		defer cancel()
		require.ErrorIs(t, c.Leave(ctx, "games"), context.DeadlineExceeded)
		hi, err := c.Join(background, "games")
		require.NoError(t, err)
		require.Equal(t, uint64(6), hi.Seq)
		require.Equal(t, numbers(7, 7), texts(t, c, 1))
		require.Equal(t, 1, s.n, "connections")
	}, func(s *said) {
		games := func(event string) string { return strings.Replace(event, "lobby", "games", 1) }
		s.say(welcome(5, "new"))
		s.hear()
		s.say(games(welcome(5, "new")))
		leave := s.hear()
		elapse(2 * time.Second)
		s.say(games(message(6, 5)), fmt.Sprintf(`{"type":"left_room","id":%q,"room":"games"}`, leave.ID))
		s.hear()
		s.say(games(welcome(6, "new")), games(message(7, 6)))
		s.stay()
	})
}

// TestShutOut: a room that is closed to the client while it was away is told as left.
func TestShutOut(t *testing.T) {
	allowed := true
	inBubble(t, func(w *world) {
		alice := w.dial()
		_, err := alice.Join(background, "games")
		require.NoError(t, err)
		allowed = false
		w.cut()
		e := until(t, alice, hubclient.EventLeftRoom)
		require.Equal(t, "games", e.Room)
		requireCode(t, "forbidden", e.Err)
		require.Equal(t, []string{"lobby"}, alice.Rooms())
	}, hub.WithRoomsPerClient(5), hub.WithAuthorize(func(_ *hub.Client, room string) error {
		if room == "games" && !allowed {
			return errors.New("no")
		}
		return nil
	}))
}

// TestCompression: it changes nothing but the bytes on the wire.
func TestCompression(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.dial(hubclient.WithCompression())
		long := strings.Repeat("a long message ", 1000)
		publish(t, alice, long)
		require.Equal(t, []string{long}, texts(t, alice, 1))
	}, hub.WithCompression(100))
}
