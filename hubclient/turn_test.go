package hubclient_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/hubclient"
)

// leftRoom is the answer to a leave.
func leftRoom(id string) string {
	return fmt.Sprintf(`{"type":"left_room","id":%q,"room":"games"}`, id)
}

// TestLeaveBetweenJoins: what a join leads to that a leave was asked for behind is not what the join after that leave is for.
func TestLeaveBetweenJoins(t *testing.T) {
	scripted(t, func(s *script, c *hubclient.Client) {
		first, left := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := c.Join(background, "games")
			first <- err
		}()
		synctest.Wait()
		go func() { left <- c.Leave(background, "games") }()
		synctest.Wait()
		hi := join(t, c)
		requireCode(t, "not_in_room", <-first)
		require.NoError(t, <-left)
		require.Equal(t, uint64(7), hi.Seq, "of the stay after the leave")
		require.Equal(t, numbers(8, 8), texts(t, c, 1))
		quiet(t, s)
	}, func(s *said) {
		s.say(welcome(5, "new"))
		require.Equal(s.t, "join", s.hear().Type)
		elapse(time.Second)
		s.say(in(welcome(5, "new")), in(message(6, 5)))
		s.say(leftRoom(s.hear().ID))
		require.Equal(s.t, "join", s.hear().Type)
		s.say(in(welcome(7, "new")), in(message(8, 7)))
		s.stay()
	})
}

// TestLeftWhileRefused: a join that nobody wants any more is not repeated, and a Leave does not wait for that.
func TestLeftWhileRefused(t *testing.T) {
	scripted(t, func(s *script, c *hubclient.Client) {
		joined := make(chan error, 1)
		go func() {
			_, err := c.Join(background, "games")
			joined <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(background, time.Minute)
		defer cancel()
		require.NoError(t, c.Leave(ctx, "games"))
		requireCode(t, "not_in_room", <-joined)
		quiet(t, s)
	}, func(s *said) {
		s.say(welcome(5, "new"))
		id := s.hear().ID
		elapse(time.Second)
		s.say(fmt.Sprintf(`{"type":"error","id":%q,"code":"busy","message":"later","retry_after_ms":3600000}`, id))
		cmd := s.hear()
		require.Equal(s.t, "leave", cmd.Type)
		s.say(fmt.Sprintf(`{"type":"error","id":%q,"room":"games","code":"not_in_room","message":"no"}`, cmd.ID))
		s.stay()
	})
}

// TestJoinedUnread: what Join has returned is where the room begins, also if its event found no place.
func TestJoinedUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{t: t, steps: []func(*said){func(s *said) {
			s.say(welcome(5, "new"))
			require.Equal(s.t, "join", s.hear().Type)
			s.say(in(welcome(5, "new")))
			id := s.hear().ID
			s.say(in(message(6, 5)), fmt.Sprintf(`{"type":"ack","id":%q,"seq":9}`, id))
			s.stay()
		}, func(s *said) {
			s.say(welcome(5, "recovered"))
			require.Equal(s.t, cursor(5), s.hear().Since)
			s.say(in(welcome(5, "recovered")), in(message(6, 5)))
			s.stay()
		}}}
		w := newWorld(t)
		_ = w.srv.Close()
		w.serve(s)
		c := w.dial(hubclient.WithBackoff(every(time.Second)), hubclient.WithQueue(1, 1<<20))
		require.Equal(t, uint64(5), join(t, c, hubclient.JoinHistory(0)).Seq)
		publish(t, c, "1")
		for _, recovery := range []string{hubclient.RecoveryNew, hubclient.RecoveryRecovered, hubclient.RecoveryNew} { // lobby, and once more, games
			require.Equal(t, recovery, until(t, c, hubclient.EventWelcome).Welcome.Recovery)
		}
		require.Equal(t, numbers(6, 6), texts(t, c, 1))
	})
}

// TestBackWhileOnLeave: who is told that it has left a room can join it again, whatever the service still does about that.
func TestBackWhileOnLeave(t *testing.T) {
	for name, asks := range map[string]bool{"by itself": false, "leaves and joins": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				alice := w.dial(hubclient.WithBackoff(every(time.Second)))
				join(t, alice)
				room, err := w.hub.Room("games")
				require.NoError(t, err)
				closed := make(chan error, 1)
				go func() { closed <- room.Close(background) }()
				synctest.Wait()
				if asks {
					require.NoError(t, alice.Leave(background, "games"))
					join(t, alice)
				}
				elapse(time.Minute)
				require.NoError(t, <-closed)
				require.True(t, isIn(alice, "games"))
				require.Equal(t, int32(1), w.dials.Load(), "no connection was lost for it")
				room, err = w.hub.Room("games")
				require.NoError(t, err)
				n := 0
				for range room.Members() {
					n++
				}
				require.Equal(t, 1, n)
			}, hub.WithRoomsPerClient(2), anyRoom, hub.WithOnLeave(func(_ *hub.Client, r *hub.Room, _ error) {
				if r.Name() == "games" {
					elapse(5 * time.Second)
				}
			}))
		})
	}
}
