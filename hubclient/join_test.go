package hubclient_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/hubclient"
)

// in makes an event one of the room games.
func in(event string) string { return strings.Replace(event, `"room":"lobby"`, `"room":"games"`, 1) }

// quiet fails when the connection is lost before the test ends.
func quiet(t *testing.T, s *script) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Equal(t, 1, s.n, "a connection was lost")
}

// join joins games, and fails where that hangs.
func join(t *testing.T, c *hubclient.Client, opts ...hubclient.JoinOption) *hubclient.Welcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(background, 5*time.Minute)
	defer cancel()
	hi, err := c.Join(ctx, "games", opts...)
	require.NoError(t, err)
	return hi
}

func isIn(c *hubclient.Client, room string) bool {
	return strings.Contains(fmt.Sprint(c.Rooms()), room)
}

// TestJoinGivenUpTooLate: a join whose context ends in the moment in which the server lets the client in is taken back all the
// same, or has succeeded.
func TestJoinGivenUpTooLate(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.dial()
		room, err := w.hub.Room("games")
		require.NoError(t, err)
		for range 300 {
			ctx, cancel := context.WithCancel(background)
			w.last().Stall(true)
			joined := make(chan error, 1)
			go func() {
				_, err := alice.Join(ctx, "games")
				joined <- err
			}()
			synctest.Wait()
			go w.last().Stall(false)
			go cancel()
			err := <-joined
			synctest.Wait()
			elapse(time.Second)
			require.Equal(t, err == nil, isIn(alice, "games"))
			n := 0
			for range room.Members() {
				n++
			}
			require.Equal(t, err == nil, n == 1, "%d members after %v", n, err)
			require.NoError(t, alice.Leave(background, "games"))
		}
		require.Equal(t, int32(1), w.dials.Load(), "no connection was lost for it")
	}, fast, anyRoom)
}

// TestBackAtOnce: a room can be joined again while it is being left.
func TestBackAtOnce(t *testing.T) {
	scripted(t, func(s *script, c *hubclient.Client) {
		join(t, c)
		ctx, cancel := context.WithCancel(background)
		left := make(chan error, 1)
		go func() { left <- c.Leave(ctx, "games") }()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-left, context.Canceled)
		hi := join(t, c, hubclient.JoinHistory(0))
		require.Equal(t, uint64(7), hi.Seq)
		require.Equal(t, numbers(8, 8), texts(t, c, 1))
		quiet(t, s)
	}, func(s *said) {
		s.say(welcome(5, "new"))
		require.Equal(s.t, "join", s.hear().Type)
		s.say(in(welcome(5, "new")))
		leave := s.hear()
		require.Equal(s.t, "leave", leave.Type)
		elapse(time.Second)
		s.say(in(message(6, 5)), `{"type":"error","id":"`+leave.ID+`","code":"rate","message":"slowly","retry_after_ms":1000}`, in(message(7, 6)))
		leave = s.hear()
		require.Equal(s.t, "leave", leave.Type, "in the order in which they were asked for")
		s.say(`{"type":"left_room","id":"` + leave.ID + `","room":"games"}`)
		require.Equal(s.t, "join", s.hear().Type)
		s.say(in(welcome(7, "new")), in(message(8, 7)))
		s.stay()
	})
}

// TestJoinedFromElsewhere: what a join that was given up has led to is not taken for a later one with another position.
func TestJoinedFromElsewhere(t *testing.T) {
	scripted(t, func(s *script, c *hubclient.Client) {
		ctx, cancel := context.WithTimeout(background, time.Second)
		defer cancel()
		_, err := c.Join(ctx, "games", hubclient.JoinSince(cursor(7)))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		hi := join(t, c, hubclient.JoinSince(cursor(5)))
		require.Equal(t, uint64(5), hi.Seq)
		require.Equal(t, numbers(6, 7), texts(t, c, 2))
		quiet(t, s)
	}, func(s *said) {
		s.say(welcome(5, "new"))
		require.Equal(s.t, cursor(7), s.hear().Since)
		elapse(10 * time.Second)
		s.say(in(welcome(7, "recovered")))
		for range 2 {
			switch cmd := s.hear(); cmd.Type {
			case "leave":
				s.say(fmt.Sprintf(`{"type":"left_room","id":%q,"room":"games"}`, cmd.ID))
			case "join":
				require.Equal(s.t, cursor(5), cmd.Since)
				s.say(in(welcome(5, "recovered")), in(message(6, 5)), in(message(7, 6)))
			}
		}
		s.stay()
	})
}

// TestJoinLeaveJoin: a join that was taken back does not take the next one with it.
func TestJoinLeaveJoin(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.dial()
		for range 300 {
			w.last().Stall(true)
			first := make(chan error, 1)
			go func() {
				_, err := alice.Join(background, "games")
				first <- err
			}()
			synctest.Wait()
			left := make(chan error, 1)
			go func() { left <- alice.Leave(background, "games") }()
			synctest.Wait()
			second := make(chan error, 1)
			go func() {
				_, err := alice.Join(background, "games")
				second <- err
			}()
			synctest.Wait()
			w.last().Stall(false)
			requireCode(t, "not_in_room", <-first)
			require.NoError(t, <-left)
			require.NoError(t, <-second)
			require.True(t, isIn(alice, "games"))
			require.NoError(t, alice.Leave(background, "games"))
		}
		require.Equal(t, int32(1), w.dials.Load(), "no connection was lost for it")
	}, fast, anyRoom)
}

// TestPutOutUnread: to be taken out of a room is told for certain, whether or not the caller takes events in time, and the
// connection holds.
func TestPutOutUnread(t *testing.T) {
	for name, publishes := range map[string]bool{"waited for": false, "events go by": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{t: t, steps: []func(*said){func(s *said) {
					s.say(welcome(5, "new"))
					s.hear()
					s.say(in(welcome(5, "new")))
					var id string
					if publishes {
						id = s.hear().ID
					}
					s.say(message(6, 5), message(7, 6), message(8, 7), `{"type":"left_room","room":"games","reason":"kicked"}`)
					if publishes {
						s.say(fmt.Sprintf(`{"type":"ack","id":%q,"seq":9}`, id))
						s.stay()
					}
					elapse(time.Minute)
				}, func(s *said) {
					s.say(welcome(6, "recovered"), message(7, 6), message(8, 7))
					s.stay()
				}}}
				w := newWorld(t)
				_ = w.srv.Close()
				w.serve(s)
				c := w.dial(hubclient.WithBackoff(every(time.Second)), hubclient.WithQueue(3, 1<<20))
				join(t, c)
				if publishes {
					publish(t, c, "1")
				}
				elapse(3 * time.Minute)
				var got []string
				for range 20 {
					ctx, cancel := context.WithTimeout(background, time.Hour)
					e, err := c.Next(ctx)
					cancel()
					if err != nil {
						break
					}
					if e.Type == hubclient.EventLeftRoom {
						require.Equal(t, "kicked", e.Reason)
						got = append(got, e.Room)
					}
				}
				require.Equal(t, []string{"games"}, got)
			})
		})
	}
}
