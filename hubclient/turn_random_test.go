package hubclient_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/hubclient"
)

// TestComeAndGo: whatever several callers do with the rooms at any moment, on connections that stall and break, each stay's stream
// is whole, and in the end the client and the server agree.
func TestComeAndGo(t *testing.T) {
	for seed := range uint64(80) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(w *world) { comeAndGo(w, rand.New(rand.NewPCG(seed, 1)), seed%10 == 0) },
				fast, anyRoom, hub.WithRoomsPerClient(3), hub.WithHistory(10000, time.Hour))
		})
	}
}

func comeAndGo(w *world, rnd *rand.Rand, slow bool) {
	t := w.t
	rooms := []string{"lobby", "games"}
	places := 100_000
	if slow {
		places = 3
	}
	alice := w.dial(hubclient.WithBackoff(every(100*time.Millisecond)), hubclient.WithQueue(places, 1<<30))
	stop := make(chan struct{})
	var wg, taker sync.WaitGroup
	own := func() *rand.Rand { return rand.New(rand.NewPCG(rnd.Uint64(), 2)) } // of one goroutine
	pace, news, faults := own(), own(), own()
	taker.Go(func() {
		at := map[string]uint64{}
		loose := map[string]bool{}
		for e := range alice.Events() {
			if slow && pace.IntN(10) == 0 {
				elapse(time.Duration(pace.IntN(1500)) * time.Millisecond)
			}
			switch e.Type {
			case hubclient.EventWelcome:
				if r := e.Welcome.Recovery; r == hubclient.RecoveryRecovered && at[e.Room] != e.Welcome.Seq && at[e.Room] != 0 && !loose[e.Room] {
					t.Errorf("%s: recovered at %d, was at %d", e.Room, e.Welcome.Seq, at[e.Room])
				}
				at[e.Room], loose[e.Room] = e.Welcome.Seq, false
			case hubclient.EventMessage:
				if m := e.Message; m.Seq != at[e.Room]+1 && !loose[e.Room] {
					t.Errorf("%s: message %d after %d", e.Room, m.Seq, at[e.Room])
				}
				at[e.Room], loose[e.Room] = e.Message.Seq, false
			case hubclient.EventGap:
				loose[e.Room] = true
			}
		}
	})
	wg.Go(func() { // the service
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(news.IntN(5)) * time.Millisecond):
			}
			if room, err := w.hub.Room(rooms[news.IntN(2)]); err == nil {
				_, _ = room.Publish(background, hub.Text(fmt.Sprint(n)))
			}
		}
	})
	wg.Go(func() { // the network
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(faults.IntN(150)) * time.Millisecond):
			}
			switch conn := w.last(); faults.IntN(8) {
			case 0:
				conn.Cut()
			case 1:
				if room, err := w.hub.Room("games"); err == nil {
					_ = room.Close(background)
				}
			default:
				conn.Stall(true)
				elapse(time.Duration(faults.IntN(200)) * time.Millisecond)
				conn.Stall(false)
			}
		}
	})
	var callers sync.WaitGroup
	for range 4 {
		rnd := own()
		callers.Go(func() {
			for range 15 {
				name := rooms[rnd.IntN(2)]
				ctx, cancel := context.WithTimeout(background, time.Duration(rnd.IntN(100))*time.Millisecond)
				if rnd.IntN(2) == 0 {
					cancel()
					ctx, cancel = context.WithTimeout(background, 10*time.Minute)
				}
				began := time.Now()
				if rnd.IntN(2) == 0 {
					opts := []hubclient.JoinOption{hubclient.JoinHistory(rnd.IntN(3))}
					if rnd.IntN(2) == 0 {
						m := hubclient.Text("mine")
						m.Room = name
						_, _ = alice.PublishAsync(ctx, m)
					}
					hi, err := alice.Join(ctx, name, opts...)
					if err == nil && hi.Room != name {
						t.Errorf("join %s: %v", name, hi)
					}
				} else {
					_ = alice.Leave(ctx, name)
				}
				if d := time.Since(began); d > 5*time.Minute {
					t.Errorf("it took %v", d)
				}
				cancel()
				elapse(time.Duration(rnd.IntN(20)) * time.Millisecond)
			}
		})
	}
	callers.Wait()
	close(stop)
	wg.Wait()
	w.last().Stall(false)
	elapse(20 * time.Minute)
	for _, name := range rooms {
		room, err := w.hub.Room(name)
		require.NoError(t, err)
		n := 0
		for range room.Members() {
			n++
		}
		require.Equal(t, isIn(alice, name), n == 1, "%s: %d members", name, n)
		_ = alice.Leave(background, name)
		ctx, cancel := context.WithTimeout(background, 10*time.Minute)
		_, err = alice.Join(ctx, name)
		require.NoError(t, err)
		cancel()
		_, err = room.Publish(background, hub.Text("the last"))
		require.NoError(t, err)
	}
	elapse(20 * time.Minute)
	synctest.Wait()
	for _, name := range rooms {
		list, _, err := alice.History(background, name, 0, 1)
		require.NoError(t, err)
		require.Equal(t, list[0].Cursor, alice.Cursor(name))
	}
	require.NoError(t, alice.Close())
	taker.Wait()
}
