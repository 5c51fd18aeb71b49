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

// keyed is a message of the room with a key, and price a signal.
func (r *room) keyed(key string) *Frame {
	f := r.frame(0)
	f.Key = key
	return f
}

func price(stream any, key, s string) *Frame {
	f := NewFrame(OpText, []byte(s))
	f.Stream, f.Key = stream, key
	return f
}

func sendEach(t *testing.T, c *Conn, p Policy, frames ...*Frame) {
	t.Helper()
	for _, f := range frames {
		require.NoError(t, c.Send(NewBatch(f), p))
	}
}

func TestLatestPerKey(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p, full := stalled(t, &Options{GapFrame: gapFrame})
			a, b := &room{name: "a"}, &room{name: "b"}
			sendEach(t, c, LatestPerKey,
				a.keyed("x"),                 // 0 1: goes
				price(b, "x", "b's x is 1"),  // goes
				a.keyed("y"),                 // 1 3
				a.frame(0),                   // 3 4: has no key
				a.keyed("x"),                 // 4 6: goes
				price(b, "y", "b's y is 1"),  //
				price(b, "x", "b's x is 2"),  // the other is replaced with no word of it
				a.keyed("x"),                 // 6 7
				price(nil, "x", "my x is 1"), // goes
				price(nil, "x", "my x is 2"),
			)
			p.expect(t, text(full), text("gap a 0 2 1"), text("a 1 3 "), text("a 3 4 "), text("gap a 4 7 1"),
				text("b's y is 1"), text("b's x is 2"), text("a 6 7 "), text("my x is 2"))
		})
	})
}

// Gaps between which nothing is left are one, whichever of their messages went last.
func TestLatestPerKeyMergesGaps(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			for _, order := range []string{"xyz", "zyx", "xzy", "yxz", "yzx", "zxy"} {
				c, p, full := stalled(t, &Options{GapFrame: gapFrame})
				a := &room{name: "a"}
				sendEach(t, c, LatestPerKey, a.keyed("x"), a.keyed("y"), a.keyed("z")) // 0 1, 1 3, 3 4
				want := []frame{text(full), text("gap a 0 5 3")}
				for _, k := range order {
					from := a.seq
					sendEach(t, c, LatestPerKey, a.keyed(string(k)))
					want = append(want, text(fmt.Sprintf("a %d %d ", from, a.seq)))
				}
				c.mu.Lock()
				gaps := c.queue.gaps
				c.mu.Unlock()
				require.Equal(t, 1, gaps, order)
				p.expect(t, want...)
			}
			// A signal between two gaps keeps them apart as long as it waits.
			c, p, full := stalled(t, &Options{GapFrame: gapFrame})
			a := &room{name: "a"}
			sendEach(t, c, LatestPerKey, a.keyed("x"), price(a, "s", "s1"), a.keyed("y"), a.keyed("x"), a.keyed("y"), price(a, "s", "s2"))
			p.expect(t, text(full), text("gap a 0 4 2"), text("a 3 4 "), text("a 4 6 "), text("s2"))
		})
	})
}

// Of one batch, too, the latest stays; and of what the socket did not take of one.
func TestLatestPerKeyOfOneBatch(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := memPair(t, &Options{GapFrame: gapFrame}, memnet.WithBuffer(200))
			a := &room{name: "a"}
			large := a.frame(400)
			require.NoError(t, c.Send(NewBatch(large, a.keyed("x"), a.keyed("y"), a.keyed("x"), a.keyed("x")), LatestPerKey))
			synctest.Wait()
			require.NoError(t, c.Send(NewBatch(a.keyed("y"), a.keyed("y")), LatestPerKey)) // 7 9, 9 10
			p.expect(t, text(string(large.Bytes[4:])), text("gap a 1 4 1"), text("a 3 4 "), text("gap a 4 7 1"), text("a 6 7 "),
				text("gap a 7 10 1"), text("a 9 10 "))
		})
	})
}

// At the bound what is left is dropped as by drop oldest, and not before: a newer frame of a
// key makes room for itself.
func TestLatestPerKeyAtTheBound(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p, full := stalled(t, &Options{QueueMessages: 4})
			b := &room{name: "b"}
			for _, k := range []string{"1", "2", "3", "4", "2", "3", "5"} {
				sendEach(t, c, LatestPerKey, price(b, k, k))
			}
			p.expect(t, text(full), text("4"), text("2"), text("3"), text("5"))
		})
	})
}

// What has a key and no stream replaces its like at the bound too; where it can't be taken
// what waits of it stays.
func TestLatestPerKeyWithoutAStream(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p, full := stalled(t, &Options{QueueMessages: 3, QueueBytes: 1000})
			sendEach(t, c, LatestPerKey, price(nil, "1", "one"), price(nil, "2", "two"), price(nil, "3", "three"))
			require.ErrorIs(t, c.Send(NewBatch(price(nil, "4", "four")), LatestPerKey), ErrFull)
			require.ErrorIs(t, c.Send(NewBatch(price(nil, "1", strings.Repeat("1", 2000))), LatestPerKey), ErrFull)
			sendEach(t, c, LatestPerKey, price(nil, "2", "two again"))
			p.expect(t, text(full), text("one"), text("three"), text("two again"))
		})
	})
}

// What waits by another way or policy is not replaced, and neither is what was begun.
func TestLatestPerKeyReplacesItsOwnOnly(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := memPair(t, &Options{GapFrame: gapFrame}, memnet.WithBuffer(200))
			a := &room{name: "a"}
			begun := price(a, "x", strings.Repeat("x", 500))
			sendEach(t, c, LatestPerKey, begun)
			synctest.Wait()
			require.NoError(t, c.SendNow(NewBatch(a.keyed("x"))))
			sendEach(t, c, DropOldest, a.keyed("x"))
			sendEach(t, c, Disconnect, a.keyed("x"))
			sendEach(t, c, LatestPerKey, a.keyed("x"), a.keyed("x"))
			p.expect(t, text(string(begun.Bytes[4:])), text("a 0 1 "), text("a 1 3 "), text("a 3 4 "), text("gap a 4 7 1"), text("a 6 7 "))
		})
	})
}

// However much comes, one frame of each key waits.
func TestLatestPerKeyHoldsOneOfEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keys = 2000
		c, p, full := stalled(t, &Options{QueueMessages: 2 * keys, GapFrame: gapFrame})
		b := &room{name: "b"}
		for n := range 100 * keys {
			sendEach(t, c, LatestPerKey, price(b, fmt.Sprint(n%keys), fmt.Sprint(n)))
		}
		frames, _ := c.Queued()
		require.LessOrEqual(t, frames, keys+1)
		require.LessOrEqual(t, len(c.queue.nodes), keys+8)
		p.expect(t, text(full))
		for n := 99 * keys; n < 100*keys; n++ {
			p.expect(t, text(fmt.Sprint(n)))
		}
	})
}

// A model of the queue is a slice, in which everything is looked for.
type modelItem struct {
	r       *room
	f       *Frame // nil: a gap
	from    uint64
	to      uint64
	missed  int
	mayDrop bool
	kept    bool
}

type model struct {
	max   int
	items []modelItem
}

func (m *model) drop(i int) {
	it := &m.items[i]
	if it.f.Seq == 0 {
		m.items = append(m.items[:i:i], m.items[i+1:]...)
	} else {
		*it = modelItem{r: it.r, from: it.f.Prev, to: it.f.Seq, missed: 1, mayDrop: true}
	}
	for again := true; again; { // the first two gaps that touch are one
		again = false
		for i := 0; i < len(m.items) && !again; i++ {
			for j := i + 1; j < len(m.items); j++ {
				a, b := m.items[i], m.items[j]
				if !b.mayDrop || a.r != b.r {
					continue
				}
				if a.f == nil && b.f == nil && b.from == a.to {
					m.items[i].to = b.to
					m.items[i].missed += b.missed
					m.items = append(m.items[:j:j], m.items[j+1:]...)
					again = true
				}
				break // the next of that room
			}
		}
	}
}

func (m *model) send(r *room, f *Frame, keep bool) {
	if !keep && f.Key != "" {
		for i, it := range m.items {
			if it.mayDrop && it.f != nil && it.r == r && it.f.Key == f.Key {
				m.drop(i)
				break
			}
		}
	}
	for !keep && m.sent()+1 > m.max && m.dropOldest(r) {
	}
	m.items = append(m.items, modelItem{r: r, f: f, mayDrop: !keep, kept: keep})
	for !keep && m.sent() > m.max && m.frames() > 1 && m.dropOldest(r) {
	}
}

func (m *model) dropOldest(r *room) bool {
	for i, it := range m.items {
		if it.mayDrop && it.f != nil && it.r == r {
			m.drop(i)
			return true
		}
	}
	return false
}

func (m *model) sent() (n int) {
	for _, it := range m.items {
		if !it.kept {
			n++
		}
	}
	return n
}

func (m *model) frames() (n int) {
	for _, it := range m.items {
		if it.mayDrop && it.f != nil {
			n++
		}
	}
	return n
}

func (m *model) want() (all []frame) {
	for _, it := range m.items {
		if it.f == nil {
			all = append(all, text(fmt.Sprintf("gap %s %d %d %d", it.r.name, it.from, it.to+1, it.missed)))
		} else {
			all = append(all, text(string(it.f.Bytes[2:])))
		}
	}
	return all
}

// Whatever is sent to a connection whose peer does not read, the queue is what the model
// says: what a policy takes from it, where gaps stand, and in which order.
func TestQueueAgainstAModel(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		for seed := range uint64(80) {
			synctest.Test(t, func(t *testing.T) { queueAgainstAModel(t, rand.New(rand.NewPCG(seed, 2))) })
		}
	})
}

func queueAgainstAModel(t *testing.T, rnd *rand.Rand) {
	m := &model{max: 4 + rnd.IntN(60)}
	c, p, full := stalled(t, &Options{QueueMessages: m.max, GapFrame: gapFrame})
	rooms := []*room{{name: "a"}, {name: "b"}, {name: "c"}}
	keys := 1 + rnd.IntN(12)
	for range 50 + rnd.IntN(300) {
		c.mu.Lock()
		gaps := c.queue.gaps
		c.mu.Unlock()
		if gaps >= m.max {
			break
		}
		r := rooms[rnd.IntN(1+rnd.IntN(len(rooms)))]
		f := r.frame(0)
		if rnd.IntN(3) == 0 {
			r.seq = f.Prev
			f = r.signal()
		}
		if rnd.IntN(4) > 0 {
			f.Key = fmt.Sprint(rnd.IntN(keys))
		}
		keep := rnd.IntN(15) == 0
		if keep {
			require.NoError(t, c.SendNow(NewBatch(f)))
		} else {
			require.NoError(t, c.Send(NewBatch(f), LatestPerKey))
		}
		m.send(r, f, keep)
	}
	c.mu.Lock()
	n, indexed := c.queue.n, len(c.queue.keys)
	c.mu.Unlock()
	want := m.want()
	require.Len(t, want, n)
	require.LessOrEqual(t, indexed, keys*len(rooms))
	p.expect(t, text(full))
	p.expect(t, want...)
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Zero(t, c.queue.all())
	require.Empty(t, c.queue.streams)
	require.Empty(t, c.queue.nodes)
}
