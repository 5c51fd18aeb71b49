package wsconn

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"unsafe"

	"github.com/chathub-go/hub/internal/memnet"
	"github.com/stretchr/testify/require"
)

func TestBudgetKnowsTheSizes(t *testing.T) {
	require.LessOrEqual(t, int(unsafe.Sizeof(Frame{})), frameBytes)
	require.LessOrEqual(t, int(unsafe.Sizeof(node{})*3/2), placeBytes)
}

// stalledOn is stalled, but the frame that its peer does not read is shared.
func stalledOn(t *testing.T, o *Options, full *Batch) (*Conn, *peer) {
	t.Helper()
	c, p := memPair(t, o, memnet.WithBuffer(200))
	require.NoError(t, c.SendNow(full))
	synctest.Wait()
	return c, p
}

func expectBatch(t *testing.T, p *peer, b *Batch) {
	t.Helper()
	for _, f := range b.Frames {
		got, err := readFrame(p.r)
		require.NoError(t, err)
		require.Equal(t, string(f.Bytes[len(f.Bytes)-len(got.payload):]), got.payload)
	}
}

func finish(c *Conn) {
	c.Abort()
	c.Finish()
}

// A frame that waits for three connections counts once, from the first to the last, whichever
// way it ends: written, dropped, replaced or given up.
func TestBudgetCountsAFrameOnce(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			budget := NewBudget(1 << 20)
			o := &Options{Budget: budget, QueueMessages: 3, GapFrame: gapFrame}
			full := batch(strings.Repeat("x", 500))
			const begun = 96 + 504
			require.Zero(t, budget.Used())
			a, pa := stalledOn(t, o, full)
			require.Equal(t, begun+64, budget.Used(), "begun, and not written yet")
			b, pb := stalledOn(t, o, full)
			c, _ := stalledOn(t, o, full)
			require.Equal(t, begun+3*64, budget.Used())

			r := &room{name: "r"}
			f := r.keyed("key") // 2 bytes of a header, "r 0 1 "
			for _, c := range []*Conn{a, b, c} {
				sendEach(t, c, LatestPerKey, f)
			}
			const key = 96 + 8 + 3
			require.Equal(t, begun+3*64+key+3*128, budget.Used())
			next := r.batch(1) // "r 1 3 "
			for _, c := range []*Conn{a, b, c} {
				require.NoError(t, c.Send(next, DropOldest))
			}
			require.Equal(t, begun+3*64+key+3*128+96+8+3*64, budget.Used())
			g := r.keyed("key") // "r 3 4 "
			sendEach(t, a, LatestPerKey, g)
			require.Equal(t, begun+3*64+key+2*128+96+8+3*64+192+key+128, budget.Used(), "for a it is a gap, and another")
			sendEach(t, b, LatestPerKey, g)
			sendEach(t, c, LatestPerKey, g)
			require.Equal(t, begun+3*64+96+8+3*64+3*192+key+3*128, budget.Used(), "nobody has the first of the key")

			finish(c)
			require.Equal(t, begun+2*64+96+8+2*64+2*192+key+2*128, budget.Used())
			expectBatch(t, pa, full)
			pa.expect(t, text("gap r 0 2 1"), text("r 1 3 "), text("r 3 4 "))
			synctest.Wait()
			require.Equal(t, begun+64+96+8+64+192+key+128, budget.Used())
			expectBatch(t, pb, full)
			pb.expect(t, text("gap r 0 2 1"), text("r 1 3 "), text("r 3 4 "))
			synctest.Wait()
			require.Zero(t, budget.Used())
			require.Zero(t, budget.waiting.Load())
		})
	})
}

// What fits at once does not count, however much of it there is.
func TestBudgetIsForWhatWaits(t *testing.T) {
	if noFastPath {
		t.Skip("it is about the fast path")
	}
	synctest.Test(t, func(t *testing.T) {
		budget := NewBudget(1000)
		c, p := memPair(t, &Options{Budget: budget})
		b := batch(strings.Repeat("x", 3000))
		for range 100 {
			require.NoError(t, c.Send(b, Disconnect))
			require.Zero(t, budget.Used())
			require.Zero(t, b.Frames[0].holders.Load())
			expectBatch(t, p, b)
		}
	})
}

// Above 3/4 a connection may queue its share of the last quarter: who has more is at its
// bound, who has less goes on.
func TestBudgetShares(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			budget := NewBudget(40_000)
			o := &Options{Budget: budget, GapFrame: gapFrame}
			full := batch(strings.Repeat("x", 500))
			slow, _ := stalledOn(t, o, full)
			oldest, po := stalledOn(t, o, full)
			healthy, ph := stalledOn(t, o, full)
			r, s := &room{name: "r"}, &room{name: "s"}
			for range 3 {
				require.NoError(t, slow.Send(NewBatch(s.frame(4000)), Disconnect))
				require.NoError(t, oldest.Send(NewBatch(r.frame(4000)), DropOldest))
			}
			for used := budget.Used(); used <= 30_000; used = budget.Used() {
				require.NoError(t, slow.Send(NewBatch(s.frame(1000)), Disconnect), "up to 3/4 nothing is different")
			}
			// The share is 10,000 / 3.
			at := s.seq
			require.ErrorIs(t, slow.Send(s.batch(1), Disconnect), ErrBudget)
			require.ErrorIs(t, slow.Send(s.batch(1), Disconnect), ErrFull)
			s.seq = at
			small := batch(strings.Repeat("h", 700))
			for range 4 {
				require.NoError(t, healthy.Send(small, Disconnect))
			}
			require.ErrorIs(t, healthy.Send(small, Disconnect), ErrBudget)

			require.NoError(t, oldest.Send(r.batch(1), DropOldest)) // its own oldest go
			require.Less(t, budget.Used(), 30_000)
			expectBatch(t, po, full)
			po.expect(t, text("gap r 0 2 1")) // one was enough
			for range 2 {
				f, err := readFrame(po.r)
				require.NoError(t, err)
				require.Len(t, f.payload, 4000)
			}
			po.expect(t, text("r 4 6 "))

			// With that, nothing is different again.
			require.NoError(t, healthy.Send(small, Disconnect))
			expectBatch(t, ph, full)
			for range 5 {
				expectBatch(t, ph, small)
			}
			finish(slow)
			synctest.Wait()
			require.Zero(t, budget.Used())
		})
	})
}

// When it is spent nothing of Send is queued; what no policy drops is.
func TestSpentBudget(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			budget := NewBudget(10_000)
			o := &Options{Budget: budget, GapFrame: gapFrame}
			full := batch(strings.Repeat("x", 500))
			hog, _ := stalledOn(t, o, full)
			fresh, pf := stalledOn(t, o, full)
			other, po := stalledOn(t, o, full)
			require.NoError(t, hog.SendNow(batch(strings.Repeat("x", 11_000))), "SendNow is never refused")
			require.True(t, budget.Spent())
			before := budget.Used()

			require.ErrorIs(t, fresh.Send(batch("x"), Disconnect), ErrBudget)
			require.ErrorIs(t, fresh.Send(batch("x"), DropOldest), ErrBudget, "it has no stream")
			r := &room{name: "r"}
			for _, p := range []Policy{DropOldest, LatestPerKey} {
				require.NoError(t, other.Send(NewBatch(r.keyed("x"), r.frame(300)), p))
			}
			require.Equal(t, before+192, budget.Used(), "one gap")

			waited := make(chan error, 1)
			ack := batch("ack")
			go func() { waited <- fresh.SendWait(t.Context(), ack) }()
			synctest.Wait()
			require.Empty(t, waited, "until nothing is queued")
			expectBatch(t, pf, full)
			require.NoError(t, <-waited)
			expectBatch(t, pf, ack)
			expectBatch(t, po, full)
			po.expect(t, text(fmt.Sprint("gap r 0 ", r.seq+1, " 4")))
			synctest.Wait()

			// A batch of which the socket took a part: the frame that was begun is finished,
			// the rest is not taken.
			if !noFastPath {
				require.ErrorIs(t, fresh.Send(batch(strings.Repeat("y", 400), "z"), Disconnect), ErrBudget)
				pf.expect(t, text(strings.Repeat("y", 400)))
			}
			finish(hog)
			synctest.Wait()
			require.Zero(t, budget.Used())
			require.NoError(t, fresh.Send(batch("again"), Disconnect))
			pf.expect(t, text("again"))
		})
	})
}

// Relieve makes room at the expense of those who hold most; others notice nothing.
func TestRelieve(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			budget := NewBudget(100_000)
			o := &Options{Budget: budget, GapFrame: gapFrame}
			full := batch(strings.Repeat("x", 500))
			conns, peers := map[string]*Conn{}, map[string]*peer{}
			var all []*Conn
			for _, name := range []string{"small", "page", "sharing", "shared", "cut", "drops"} {
				conns[name], peers[name] = stalledOn(t, o, full)
				all = append(all, conns[name])
			}
			r := &room{name: "r"}
			require.NoError(t, conns["small"].Send(batch("a little"), Disconnect))
			require.NoError(t, conns["page"].SendNow(batch(strings.Repeat("p", 3500))))
			common := batch(strings.Repeat("s", 5000))
			require.NoError(t, conns["shared"].Send(common, Disconnect))
			require.NoError(t, conns["sharing"].Send(common, Disconnect))
			require.Empty(t, budget.Pressed())
			require.Zero(t, budget.Relieve(slices.Values(all), 1013, "too slow"), "nothing is wrong")
			for range 3 {
				require.NoError(t, conns["drops"].Send(NewBatch(r.frame(10_000)), DropOldest))
				require.NoError(t, conns["cut"].Send(batch(strings.Repeat("c", 12_000)), Disconnect))
			}
			require.Len(t, budget.Pressed(), 1)
			require.Greater(t, budget.Used(), 75_000)
			<-budget.Pressed()

			require.Equal(t, 1, budget.Relieve(slices.Values(all), 1013, "too slow"))
			require.Less(t, budget.Used(), 50_000)
			require.Zero(t, budget.Relieve(slices.Values(all), 1013, "too slow"), "once is enough")
			expectBatch(t, peers["cut"], full)
			peers["cut"].expect(t, closing(1013, "too slow"))

			// Whom its policy lets stay, stays.
			require.NoError(t, conns["drops"].Send(NewBatch(r.frame(10_000)), DropOldest))
			require.NoError(t, conns["page"].SendNow(batch(strings.Repeat("q", 26_000))))
			require.Len(t, budget.Pressed(), 1)
			require.Zero(t, budget.Relieve(slices.Values(all), 1013, "too slow"))
			require.Less(t, budget.Used(), 50_000)
			for name, want := range map[string][]frame{
				"small": {text("a little")}, "page": {text(strings.Repeat("p", 3500)), text(strings.Repeat("q", 26_000))},
				"drops":  {text("gap r 0 7 4")},
				"shared": {text(strings.Repeat("s", 5000))}, "sharing": {text(strings.Repeat("s", 5000))},
			} {
				expectBatch(t, peers[name], full)
				peers[name].expect(t, want...)
			}
		})
	})
}

// Shed lets go what waits, also of a connection that is closing already.
func TestShed(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			budget := NewBudget(1 << 20)
			full := batch(strings.Repeat("x", 500))
			c, p := stalledOn(t, &Options{Budget: budget}, full)
			require.NoError(t, c.Send(batch("gone"), Disconnect))
			require.NoError(t, c.SendNow(batch("gone too")))
			require.True(t, c.Shed(1013, "too slow"))
			require.False(t, c.Shed(1013, "too slow"))
			expectBatch(t, p, full)
			p.expect(t, closing(1013, "too slow"))
			p.expectEOF(t)

			c, p = stalledOn(t, &Options{Budget: budget}, full)
			require.NoError(t, c.Send(batch("gone"), Disconnect))
			c.Close(1000, "bye")
			require.False(t, c.Shed(1013, "too slow"))
			expectBatch(t, p, full)
			p.expect(t, closing(1000, "bye"))
		})
	})
}

// The rest of a frame that nobody came to write is let go too.
func TestBudgetOfABegunFrame(t *testing.T) {
	budget := NewBudget(1 << 20)
	c, _ := memPair(t, &Options{Budget: budget})
	f := NewFrame(OpText, []byte("begun"))
	c.mu.Lock()
	c.keepRest(f.Bytes[1:], item{frame: f})
	c.mu.Unlock()
	require.Equal(t, 64+96+7, budget.Used())
	c.Abort()
	require.Zero(t, budget.Used())
}

// counted is what a budget should say of the connections: their frames once each.
func counted(conns []*Conn) (n, waiting int) {
	frames := map[*Frame]bool{}
	for _, c := range conns {
		c.mu.Lock()
		items := 0
		for it := range c.held {
			items++
			n += it.place()
			if f := it.frame; f != nil && !frames[f] {
				frames[f] = true
				n += f.size()
			}
		}
		if items > 0 {
			waiting++
		}
		c.mu.Unlock()
	}
	return n, waiting
}

// Whatever happens to connections that share a budget, it says what waits for them, keeps its
// bound, and is back at nothing when they have gone.
func TestBudgetAgainstAModel(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		for seed := range uint64(60) {
			synctest.Test(t, func(t *testing.T) { budgetAgainstAModel(t, rand.New(rand.NewPCG(seed, 3))) })
		}
	})
}

func budgetAgainstAModel(t *testing.T, rnd *rand.Rand) {
	const maxBatch = 4 * 600
	budget := NewBudget(5000 + rnd.IntN(30_000))
	rooms := []*room{{name: "a"}, {name: "b"}, {name: "c"}}
	policies := []Policy{Disconnect, DropOldest, LatestPerKey}
	var conns, gone []*Conn
	var peers []*peer
	kept := 0 // bytes that nothing bounds
	for range 400 {
		switch i := 0; {
		case len(conns) < 3 || rnd.IntN(40) == 0:
			o := &Options{Budget: budget, QueueMessages: 10 + rnd.IntN(50), QueueBytes: 3000 + rnd.IntN(20_000)}
			if rnd.IntN(5) > 0 {
				o.GapFrame = gapFrame
			}
			c, p := memPair(t, o, memnet.WithBuffer(200+rnd.IntN(2000)), memnet.WithShortWrites(rnd.IntN(80)))
			conns, peers = append(conns, c), append(peers, p)
		case rnd.IntN(30) == 0: // one ends
			i = rnd.IntN(len(conns))
			c, p := conns[i], peers[i]
			switch rnd.IntN(4) {
			case 0:
				c.Abort()
			case 1:
				c.Close(1000, "")
				go p.rest()
			case 2:
				c.Shed(1013, "")
				go p.rest()
			case 3:
				p.Close()
			}
			conns, peers = append(conns[:i:i], conns[i+1:]...), append(peers[:i:i], peers[i+1:]...)
			gone = append(gone, c)
		case rnd.IntN(3) == 0: // one reads
			i = rnd.IntN(len(conns))
			if n, _ := conns[i].Queued(); n > 0 {
				_, err := readFrame(peers[i].r)
				require.NoError(t, err)
			}
		case rnd.IntN(50) == 0:
			budget.Relieve(slices.Values(conns), 1013, "")
		default: // a room talks to all, or one gets an answer
			r := rooms[rnd.IntN(len(rooms))]
			var frames []*Frame
			for range 1 + rnd.IntN(4) {
				f := r.frame(rnd.IntN(500))
				if rnd.IntN(2) == 0 {
					f.Key = fmt.Sprint(rnd.IntN(5))
				}
				frames = append(frames, f)
			}
			b := NewBatch(frames...)
			if rnd.IntN(20) == 0 {
				require.NotErrorIs(t, conns[rnd.IntN(len(conns))].SendNow(b), ErrFull)
				kept += maxBatch
				break
			}
			p := policies[rnd.IntN(3)]
			for _, c := range conns {
				if err := c.Send(b, p); err != nil && err != ErrClosed {
					require.ErrorIs(t, err, ErrFull)
				}
			}
		}
		synctest.Wait()
		want, waiting := counted(append(conns[:len(conns):len(conns)], gone...))
		require.Equal(t, want, budget.Used())
		require.Equal(t, waiting, int(budget.waiting.Load()))
		require.LessOrEqual(t, want, int(budget.max)+maxBatch+kept+(len(conns)+len(gone))*(len(rooms)*192+64))
	}
	for i, c := range conns {
		if rnd.IntN(2) == 0 {
			go peers[i].rest()
			c.Close(1000, "")
		}
		gone = append(gone, c)
	}
	for _, c := range gone {
		c.Finish()
	}
	require.Zero(t, budget.Used())
	require.Zero(t, budget.waiting.Load())
}

// The same with all at once, over real sockets.
func TestBudgetOfManySenders(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		budget := NewBudget(200_000)
		var conns []*Conn
		var peers []*peer
		for range 12 {
			c, p := tcpPair(t, &Options{Budget: budget, GapFrame: gapFrame, QueueMessages: 50})
			conns, peers = append(conns, c), append(peers, p)
		}
		var reading, writing sync.WaitGroup
		for i, p := range peers {
			if i%3 > 0 { // others stall
				reading.Go(func() {
					p.rest()
					p.Close()
				})
			}
		}
		for n := range 4 {
			writing.Go(func() {
				r := &room{name: fmt.Sprint(n)}
				for i := range 400 {
					f := r.frame(5000)
					f.Key = fmt.Sprint(i % 7)
					for _, c := range conns {
						c.Send(NewBatch(f), Policy(n%3))
					}
					if i%50 == 0 {
						budget.Relieve(slices.Values(conns), 1013, "")
					}
				}
			})
		}
		writing.Wait()
		for i, c := range conns {
			if i%2 == 0 {
				c.Close(1000, "")
			} else {
				c.Abort()
			}
		}
		for i, p := range peers {
			if i%3 == 0 {
				p.Close()
			}
		}
		for _, c := range conns {
			c.Finish()
		}
		reading.Wait()
		require.Zero(t, budget.Used())
		require.Zero(t, budget.waiting.Load())
	})
}
