package wsconn

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/chathub-go/hub/internal/memnet"
	"github.com/stretchr/testify/require"
)

// A room is a stream as a hub has them. It numbers its messages with holes, as a broker may.
type room struct {
	name string
	seq  uint64
}

func (r *room) frame(size int) *Frame {
	prev := r.seq
	r.seq += 1 + prev%3
	s := fmt.Sprintf("%s %d %d ", r.name, prev, r.seq)
	f := NewFrame(OpText, []byte(s+strings.Repeat(".", max(0, size-len(s)))))
	f.Stream, f.Prev, f.Seq = r, prev, r.seq
	return f
}

func (r *room) signal() *Frame {
	f := NewFrame(OpText, []byte("signal"))
	f.Stream = r
	return f
}

func (r *room) batch(n int) *Batch {
	var frames []*Frame
	for range n {
		frames = append(frames, r.frame(0))
	}
	return NewBatch(frames...)
}

func gapFrame(stream any, after, before uint64, missed int) *Frame {
	return NewFrame(OpText, fmt.Appendf(nil, "gap %s %d %d %d", stream.(*room).name, after, before, missed))
}

// stalled is a connection whose peer has not read the first frame, which is full.
func stalled(t *testing.T, o *Options) (c *Conn, p *peer, full string) {
	t.Helper()
	c, p = memPair(t, o, memnet.WithBuffer(200))
	full = strings.Repeat("x", 500)
	require.NoError(t, c.SendNow(batch(full)))
	synctest.Wait()
	return c, p, full
}

func TestDropOldest(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p, full := stalled(t, &Options{QueueMessages: 5, GapFrame: gapFrame})
			a, b := &room{name: "a"}, &room{name: "b"}
			require.NoError(t, c.Send(a.batch(1), DropOldest)) // 0 1
			require.NoError(t, c.Send(b.batch(1), DropOldest)) // 0 1
			require.NoError(t, c.Send(a.batch(1), DropOldest)) // 1 3
			require.NoError(t, c.SendNow(batch("ack")))
			require.NoError(t, c.Send(a.batch(2), DropOldest)) // 3 4, 4 6: full
			require.NoError(t, c.Send(a.batch(1), DropOldest)) // 6 7: the first two become a gap
			require.NoError(t, c.Send(a.batch(1), DropOldest)) // 7 9: the gap grows
			require.NoError(t, c.Send(b.batch(1), DropOldest)) // 1 3: b's two become a gap
			p.expect(t, text(full), text("gap a 0 5 3"), text("gap b 0 4 2"), text("ack"), text("a 4 6 "), text("a 6 7 "), text("a 7 9 "))
			synctest.Wait()
			frames, bytes := c.Queued()
			require.Equal(t, []int{0, 0}, []int{frames, bytes})
		})
	})
}

// Frames that were begun are not dropped, signals are dropped with no gap, and frames of
// SendWait stay though they have a stream.
func TestWhatIsNotDropped(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := &room{name: "a"}
			c, p := memPair(t, &Options{QueueMessages: 3, GapFrame: gapFrame}, memnet.WithBuffer(200))
			first := a.frame(500)
			require.NoError(t, c.Send(NewBatch(first), DropOldest)) // 0 1, begun
			synctest.Wait()
			require.NoError(t, c.Send(NewBatch(a.signal()), DropOldest))
			require.NoError(t, c.Send(a.batch(1), DropOldest))           // 1 3
			require.NoError(t, c.SendNow(a.batch(1)))                    // 3 4, stays
			require.NoError(t, c.Send(a.batch(1), DropOldest))           // 4 6: full
			require.NoError(t, c.Send(NewBatch(a.signal()), DropOldest)) // the first signal goes
			require.NoError(t, c.Send(a.batch(1), DropOldest))           // 6 7: 1 3 is a gap, 4 6 another, and the signal goes
			p.expect(t, text(string(first.Bytes[4:])), text("gap a 1 4 1"), text("a 3 4 "), text("gap a 4 7 1"), text("a 6 7 "))
		})
	})
}

// A page that waits takes nothing from the bound: no message is dropped for it.
func TestDropOldestBesideAPage(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p, full := stalled(t, &Options{QueueMessages: 4, QueueBytes: 1000, GapFrame: gapFrame})
			a := &room{name: "a"}
			page := []string{strings.Repeat("p", 3000), "p1", "p2", "p3", "p4"}
			require.NoError(t, c.SendNow(batch(page...)))
			require.NoError(t, c.Send(a.batch(4), DropOldest)) // 0 1, 1 3, 3 4, 4 6: full
			require.NoError(t, c.Send(a.batch(1), DropOldest)) // 6 7: the first two become a gap
			p.expect(t, text(full))
			for _, s := range page {
				p.expect(t, text(s))
			}
			p.expect(t, text("gap a 0 4 2"), text("a 3 4 "), text("a 4 6 "), text("a 6 7 "))
		})
	})
}

// A single frame of Send above the bound waits beside a page as it does alone.
func TestLargeFramesBesideAPage(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		for _, stream := range []any{&room{name: "a"}, nil} {
			synctest.Test(t, func(t *testing.T) {
				c, p, full := stalled(t, &Options{QueueBytes: 1000, GapFrame: gapFrame})
				require.NoError(t, c.SendNow(batch("page")))
				large := NewFrame(OpText, []byte(strings.Repeat("m", 2000)))
				large.Stream, large.Seq = stream, 1
				require.NoError(t, c.Send(NewBatch(large), DropOldest))
				p.expect(t, text(full), text("page"), text(strings.Repeat("m", 2000)))
			})
		}
	})
}

// A single frame above the bound waits where nothing else does, and is the one that goes
// for a newer one; with no GapFrame nothing is told.
func TestDropOldestOfLargeFrames(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := &room{name: "a"}
			c, p, full := stalled(t, &Options{QueueBytes: 1000})
			for range 3 {
				require.NoError(t, c.Send(NewBatch(a.frame(2000)), DropOldest))
			}
			require.NoError(t, c.Send(NewBatch(a.frame(300), a.frame(2000), a.frame(300), a.frame(600)), DropOldest))
			p.expect(t, text(full))
			for _, start := range []string{"a 7 9 ", "a 9 10 "} {
				f, err := readFrame(p.r)
				require.NoError(t, err)
				require.Equal(t, start, f.payload[:len(start)])
			}
		})
	})
}

// Frames without a stream are not dropped: at the bound DropOldest refuses them, once
// nothing of the batch's streams is left to drop.
func TestDropOldestOfFramesThatStay(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p, full := stalled(t, &Options{QueueMessages: 4, GapFrame: gapFrame})
			a := &room{name: "a"}
			require.NoError(t, c.Send(batch("1", "2", "3"), DropOldest))
			require.NoError(t, c.Send(a.batch(1), DropOldest))
			require.ErrorIs(t, c.Send(batch("4"), DropOldest), ErrFull)
			require.NoError(t, c.Send(a.batch(3), DropOldest)) // all of a's are one gap now
			p.expect(t, text(full), text("1"), text("2"), text("3"), text("gap a 0 7 4"))
		})
	})
}

// More streams than the bound, each with a gap, can't fill the memory.
func TestGapsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, _ := stalled(t, &Options{QueueMessages: 10, GapFrame: gapFrame})
		n := 0
		for range 1000 {
			if c.Send((&room{name: "r"}).batch(1), DropOldest) == nil {
				n++
			}
		}
		require.Less(t, n, 30)
		frames, bytes := c.Queued()
		require.Less(t, frames, 30)
		require.Less(t, bytes, 30*gapBytes)
	})
}

// Whatever the mix, the queue keeps its bound, and who reads everything in the end knows
// of each message of each stream: it came, or a gap told of it.
func TestDropOldestLosesNothingSilently(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		for seed := range uint64(60) {
			synctest.Test(t, func(t *testing.T) { dropOldestMix(t, rand.New(rand.NewPCG(seed, 1))) })
		}
	})
}

func dropOldestMix(t *testing.T, rnd *rand.Rand) {
	const maxFrames, maxBytes = 12, 1500
	c, p := memPair(t, &Options{QueueMessages: maxFrames, QueueBytes: maxBytes, GapFrame: gapFrame},
		memnet.WithBuffer(200+rnd.IntN(300)), memnet.WithShortWrites(rnd.IntN(50)))
	rooms := []*room{{name: "a"}, {name: "b"}, {name: "c"}}
	position, missed, sent, got := map[string]uint64{}, 0, 0, 0
	read := func() {
		f, err := readFrame(p.r)
		require.NoError(t, err)
		var name string
		var from, to uint64
		var n int
		switch {
		case f.payload == "signal", f.payload == "kept":
			return
		case strings.HasPrefix(f.payload, "gap"):
			fmt.Sscanf(f.payload, "gap %s %d %d %d", &name, &from, &to, &n)
			to--
			missed += n
		default:
			fmt.Sscanf(f.payload, "%s %d %d", &name, &from, &to)
			got++
		}
		require.Equal(t, position[name], from, "%s", f.payload)
		position[name] = to
	}
	for range 300 {
		r := rooms[rnd.IntN(len(rooms))]
		before := r.seq
		b := NewBatch(r.frame(rnd.IntN(100)))
		switch rnd.IntN(12) {
		case 0:
			b = NewBatch(append(b.Frames, r.frame(0), r.signal(), r.frame(rnd.IntN(300)))...)
		case 1:
			b = NewBatch(append(b.Frames, r.frame(rnd.IntN(2000)))...)
		}
		if rnd.IntN(20) == 0 {
			require.NoError(t, c.SendNow(b))
		} else if err := c.Send(b, DropOldest); err != nil { // so many gaps, between frames that stay
			require.ErrorIs(t, err, ErrFull)
			c.mu.Lock()
			gaps := c.queue.gaps
			c.mu.Unlock()
			require.GreaterOrEqual(t, gaps, maxFrames)
			r.seq = before
			break
		}
		for _, f := range b.Frames {
			if f.Seq > 0 {
				sent++
			}
		}
		synctest.Wait()
		c.mu.Lock()
		waits, sent := c.queue.all(), load{}
		for it := range c.queue.each {
			if !it.keep {
				sent = sent.plus(load{1, it.bytes()})
			}
		}
		counted := c.queue.sent()
		c.mu.Unlock()
		require.Equal(t, sent, counted)
		require.LessOrEqual(t, sent.frames, maxFrames+2*len(rooms))
		require.LessOrEqual(t, sent.bytes, maxBytes+maxFrames*gapBytes+2000)
		if waits.frames == 0 {
			require.Zero(t, waits)
		}
		if rnd.IntN(3) == 0 {
			for range rnd.IntN(4) {
				if n, _ := c.Queued(); n > 0 {
					read()
				}
			}
		}
	}
	require.NoError(t, c.SendNow(batch("kept")))
	c.Close(1000, "")
	for {
		f, err := p.r.Peek(1)
		require.NoError(t, err)
		if f[0] == 0x88 {
			break
		}
		read()
	}
	for _, r := range rooms {
		require.Equal(t, r.seq, position[r.name])
	}
	require.Equal(t, sent, got+missed)
}
