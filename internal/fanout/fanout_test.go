package fanout

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/internal/wsconn"
)

// A sink notes what it gets. Its worker alone writes; tests read after a barrier.
type sink struct {
	got   []string
	must  int
	block chan struct{} // where not nil, Receive waits for it: a worker held up
}

func (s *sink) Receive(b *Batches, must bool) {
	if s.block != nil {
		<-s.block
	}
	if must {
		s.must++
	}
	for _, f := range b[0].Frames {
		s.got = append(s.got, string(f.Bytes))
	}
}

func say(s string) *Batches {
	return &Batches{wsconn.NewBatch(&wsconn.Frame{Bytes: []byte(s)})}
}

// barrier waits until all that was sent was handed over.
func barrier(g *Group) {
	done := make(chan struct{})
	g.Flush(func() { close(done) })
	<-done
}

func TestMemberGetsExactlyWhatIsItsOwn(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	g := p.NewGroup()
	s := &sink{}
	m := NewMember(s, 7)
	g.Send(say("before"), nil)
	g.Add(m, say("welcome"))
	g.Send(say("not live"), nil)
	g.SendAll(say("presence"))
	g.SendTo(m, say("direct"))
	g.Live(m, say("tail"))
	g.Send(say("message"), nil)
	g.Send(say("own typing"), m)
	g.Remove(m, say("bye"))
	g.Send(say("after"), nil)
	g.SendTo(m, say("direct, too late"))
	barrier(g)
	require.Equal(t, []string{"welcome", "presence", "direct", "tail", "message", "bye"}, s.got)
	require.Equal(t, 3, s.must, "welcome, tail, bye")
	g.Remove(m, nil) // once more does nothing
	barrier(g)
}

// Random joins and leaves among sends: each member has what was sent between its own,
// in order. A model of one slice a member is the judge.
func TestAgainstAModel(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 0))
		p := NewPool(3)
		g := p.NewGroup()
		type pair struct {
			s    *sink
			m    *Member
			want []string
			in   bool
		}
		var all []*pair
		for i := range 2000 {
			switch n := r.IntN(10); {
			case n < 3 && len(all) < 600:
				s := &sink{}
				x := &pair{s: s, m: NewMember(s, r.Uint32()), in: true}
				all = append(all, x)
				g.Add(x.m, nil)
				g.Live(x.m, nil)
			case n < 4 && len(all) > 0:
				if x := all[r.IntN(len(all))]; x.in {
					x.in = false
					g.Remove(x.m, nil)
				}
			default:
				msg := fmt.Sprint(i)
				g.Send(say(msg), nil)
				for _, x := range all {
					if x.in {
						x.want = append(x.want, msg)
					}
				}
			}
		}
		barrier(g)
		for i, x := range all {
			require.Equal(t, x.want, x.s.got, "seed %d, member %d", seed, i)
		}
		p.Close()
	}
}

// A room of thousands is served in slices: one of two does not wait for all of it.
func TestLargeRoomDoesNotHoldUpSmallOne(t *testing.T) {
	p := NewPool(1)
	defer p.Close()
	var served atomic.Int64
	large, small := p.NewGroup(), p.NewGroup()
	for range 100 * slice {
		m := NewMember(receiver(func() { served.Add(1) }), 0)
		large.Add(m, nil)
		large.Live(m, nil)
	}
	var at int64
	m := NewMember(receiver(func() { at = served.Load() }), 0)
	small.Add(m, nil)
	small.Live(m, nil)
	barrier(large)
	barrier(small)
	hold := make(chan struct{})
	large.Then(NewMember(nil, 0), func() { <-hold }) // both rooms have work when the worker goes on
	large.Send(say("large"), nil)
	small.Send(say("small"), nil)
	close(hold)
	barrier(small)
	barrier(large)
	require.EqualValues(t, 100*slice, served.Load())
	require.LessOrEqual(t, at, int64(2*slice))
}

type receiver func()

func (f receiver) Receive(*Batches, bool) { f() }

func TestFullAndReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(2)
		g := p.NewGroup()
		held, free := &sink{block: make(chan struct{})}, &sink{}
		for key, s := range []*sink{held, free} {
			m := NewMember(s, uint32(key))
			g.Add(m, nil)
			g.Live(m, nil)
		}
		for range MaxWaiting {
			require.False(t, g.Full())
			g.Send(say("x"), nil)
		}
		require.True(t, g.Full(), "one worker is held up")
		synctest.Wait()
		require.Len(t, free.got, MaxWaiting, "the other is not")
		close(held.block)
		for g.Full() {
			<-g.Ready()
		}
		barrier(g)
		require.Len(t, held.got, MaxWaiting)
		p.Close()
	})
}

func TestDirectMessagesCountInFull(t *testing.T) {
	p := NewPool(1)
	defer p.Close()
	g := p.NewGroup()
	held := &sink{block: make(chan struct{})}
	release := sync.OnceFunc(func() { close(held.block) })
	defer release() // also where the test fails
	m := NewMember(held, 0)
	g.Add(m, nil)
	for range MaxWaiting {
		require.False(t, g.Full())
		g.SendTo(m, say("x"))
	}
	require.True(t, g.Full())
	release()
	for g.Full() {
		<-g.Ready()
	}
	barrier(g)
	require.Len(t, held.got, MaxWaiting)
}

// Many rooms on one pool, from many loops.
func TestManyGroups(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			g := p.NewGroup()
			var sinks []*sink
			for i := range 20 {
				s := &sink{}
				sinks = append(sinks, s)
				m := NewMember(s, uint32(i))
				g.Add(m, nil)
				g.Live(m, nil)
			}
			for i := range 100 {
				g.Send(say(fmt.Sprint(i)), nil)
			}
			barrier(g)
			for _, s := range sinks {
				if len(s.got) != 100 || s.got[99] != "99" {
					t.Errorf("got %d, last %q", len(s.got), s.got[len(s.got)-1])
				}
			}
		})
	}
	wg.Wait()
}

// Nothing is allocated for a delivery; what a send allocates does not grow with the room.
func BenchmarkSend(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			p := NewPool(0)
			defer p.Close()
			g := p.NewGroup()
			for i := range n {
				m := NewMember(receiver(func() {}), uint32(i))
				g.Add(m, nil)
				g.Live(m, nil)
			}
			barrier(g)
			batch := say("hello")
			b.ReportAllocs()
			for b.Loop() {
				g.Send(batch, nil)
				for g.Full() {
					<-g.Ready()
				}
			}
			barrier(g)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/delivery")
		})
	}
}

// What waits for a worker that is behind goes out in few batches, in order and whole, and no
// batch is larger than a room's own may be.
func TestSendsThatWaitAreMerged(t *testing.T) {
	p := NewPool(1)
	defer p.Close()
	g := p.NewGroup()
	entered, release := make(chan struct{}), make(chan struct{})
	var calls [][]string
	receive := func(b *Batches) {
		if len(calls) == 0 {
			close(entered)
			<-release
		}
		var got []string
		var bytes string
		for _, f := range b[0].Frames {
			got = append(got, string(f.Bytes))
			bytes += string(f.Bytes)
		}
		if bytes != string(b[0].Bytes) {
			t.Errorf("frames and bytes differ: %.100q", b[0].Bytes)
		}
		calls = append(calls, got)
	}
	m := NewMember(batchReceiver(receive), 0)
	g.Add(m, nil)
	g.Live(m, nil)
	var want []string
	send := func(s string) {
		want = append(want, s)
		g.Send(say(s), nil)
	}
	send("first")
	<-entered
	for i := range 200 {
		send(fmt.Sprint("message ", i))
	}
	large := strings.Repeat("x", maxJoinedBytes/2)
	for i := range 3 {
		send(fmt.Sprint(large, i))
	}
	g.SendTo(m, say("direct")) // nothing is merged over it
	want = append(want, "direct")
	send("last")
	close(release)
	barrier(g)
	var got []string
	for i, c := range calls {
		require.LessOrEqual(t, len(c), maxJoined, "call %d", i)
		got = append(got, c...)
	}
	require.Equal(t, want, got)
	// 1, then 64 three times, 8 and one of the large ones, each of the others, direct, last.
	require.Len(t, calls, 9)
	require.EqualValues(t, 0, g.lanes[0].waiting.Load())
}

type batchReceiver func(*Batches)

func (f batchReceiver) Receive(b *Batches, _ bool) { f(b) }

// Whatever is sent to whomever, while members come and go and workers fall behind: each member
// gets exactly what is its own, in the order in which it was sent.
func TestRandomSends(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 0))
		p := NewPool(1 + int(seed%3))
		g := p.NewGroup()
		type member struct {
			*Member
			want, got []string
			live      bool
		}
		var in, all []*member
		add := func() {
			m := &member{}
			m.Member = NewMember(batchReceiver(func(b *Batches) {
				bytes := 0
				for _, f := range b[0].Frames {
					m.got = append(m.got, string(f.Bytes))
					bytes += len(f.Bytes)
				}
				if bytes != len(b[0].Bytes) || len(b[0].Frames) > maxJoined {
					t.Errorf("%d frames of %d bytes, joined %d", len(b[0].Frames), bytes, len(b[0].Bytes))
				}
				if len(m.got)%50 == 0 {
					runtime.Gosched()
				}
			}), rng.Uint32())
			g.Add(m.Member, say("welcome"))
			m.want = append(m.want, "welcome")
			in, all = append(in, m), append(all, m)
		}
		members := rng.IntN(200)
		for range members {
			add()
		}
		for i := range 1500 {
			s := fmt.Sprint(i)
			var one *member
			if len(in) > 0 {
				one = in[rng.IntN(len(in))]
			}
			switch k := rng.IntN(200); {
			case k == 0:
				add()
			case one == nil:
			case k == 1:
				g.Remove(one.Member, say("bye"))
				one.want = append(one.want, "bye")
				in = slices.DeleteFunc(in, func(m *member) bool { return m == one })
			case k < 20 && !one.live:
				g.Live(one.Member, say("tail"))
				one.want, one.live = append(one.want, "tail"), true
			case k == 20:
				g.SendTo(one.Member, say(s))
				one.want = append(one.want, s)
			case k == 21:
				g.SendAll(say(s))
				for _, m := range in {
					m.want = append(m.want, s)
				}
			default:
				except := one.Member
				if k > 25 {
					except = nil
				}
				g.Send(say(s), except)
				for _, m := range in {
					if m.live && m.Member != except {
						m.want = append(m.want, s)
					}
				}
			}
			if rng.IntN(100) == 0 {
				barrier(g)
			}
		}
		barrier(g)
		for i, m := range all {
			require.Equal(t, m.want, m.got, "seed %d, member %d", seed, i)
		}
		for _, l := range g.lanes {
			require.Zero(t, l.waiting.Load())
			require.Nil(t, l.sweep.log)
		}
		p.Close()
	}
}

// Messages that come one after another, while a large lane is gone through, cost each member
// one call a round, not one a message, and none waits for the round to end.
func TestSendsJoinOnTheWay(t *testing.T) {
	p := NewPool(1)
	defer p.Close()
	g := p.NewGroup()
	const members = 10 * grain
	calls, messages := 0, 0
	next := make(chan struct{})
	for range members {
		m := NewMember(batchReceiver(func(b *Batches) {
			if calls++; calls%grain == 0 {
				next <- struct{}{} // the next message comes
				<-next
			}
			messages += len(b[0].Frames)
		}), 0)
		g.Add(m, nil)
		g.Live(m, nil)
	}
	barrier(g)
	const sends = 100
	g.Send(say("x"), nil)
	done := make(chan struct{})
	for sent := 1; ; {
		if sent == sends {
			g.Flush(func() { close(done) })
			sent++
		}
		select {
		case <-next:
			if sent < sends {
				g.Send(say("x"), nil)
				sent++
			}
			next <- struct{}{}
			continue
		case <-done:
		}
		break
	}
	require.Equal(t, members*sends, messages)
	// In each round of 10 grains come 10 messages: a call for 10, and a round more at the ends.
	require.LessOrEqual(t, calls, members*(sends/10+2))
}
