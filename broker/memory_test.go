package broker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var ctx = context.Background()

func publish(t *testing.T, m *Memory, room, data string) Cursor {
	t.Helper()
	r, err := m.Publish(ctx, &Message{Room: room, Kind: KindText, Data: []byte(data)})
	require.NoError(t, err, "Publish")
	return r.Cursor
}

func since(t *testing.T, m *Memory, room string, after Cursor) Page {
	t.Helper()
	p, err := m.Since(ctx, room, after, 1000)
	require.NoError(t, err, "Since")
	return p
}

// kept returns how many messages a room keeps, without using it.
func kept(m *Memory, name string) int {
	v, ok := m.rooms.Load(name)
	if !ok {
		return -1
	}
	r := v.(*room)
	r.mu.Lock()
	defer r.unlock()
	return r.kept.n
}

// check holds m to what must be true whenever nobody uses it.
func check(t *testing.T, m *Memory) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	known, total := 0, 0
	m.rooms.Range(func(_, v any) bool {
		r := v.(*room)
		r.mu.Lock()
		defer r.unlock()
		known++
		total += r.bytes
		sum := 0
		for i := range r.kept.n {
			sum += r.kept.at(i).size
			require.Equal(t, r.edge.seq+1+uint64(i), r.kept.at(i).msg.Cursor.Seq, "%s: seq of message %d", r.name, i)
		}
		require.Equal(t, sum, r.bytes, "%s: bytes", r.name)
		require.Equal(t, r.head.seq, r.edge.seq+uint64(r.kept.n), "%s: head", r.name)
		require.LessOrEqual(t, r.bytes, m.o.roomBytes, "%s: bytes", r.name)
		require.LessOrEqual(t, r.kept.n, r.retention().messages, "%s: messages", r.name)
		require.True(t, r.in[idleRooms] || r.inUse(), "%s: neither idle nor in use", r.name)
		require.True(t, r.in[fullRooms] || r.bytes == 0, "%s: not among those with messages", r.name)
		require.Nil(t, r.firstWaiter, "%s: waiters", r.name)
		for of, l := range []*lru{&m.idle, &m.withBytes} {
			if r.in[of] {
				require.Same(t, r, l.rooms[r.places[of].index], "%s: place", r.name)
			}
		}
		full := 0
		for _, s := range r.subs {
			if s.full {
				full++
			}
		}
		require.Equal(t, full, r.full, "%s: full subscriptions", r.name)
		return true
	})
	require.Equal(t, known, m.known, "rooms")
	require.LessOrEqual(t, known, m.o.rooms, "rooms")
	require.Equal(t, int64(total), m.bytes.Load(), "bytes of all rooms")
	require.LessOrEqual(t, total, m.o.totalBytes, "bytes of all rooms")
}

// The room that was not used for the longest is forgotten, and its cursors get Reset.
func TestMemoryForgetsRooms(t *testing.T) {
	m := NewMemory(WithRooms(3))
	cursors := make(map[string]Cursor)
	for _, room := range []string{"a", "b", "c"} {
		cursors[room] = publish(t, m, room, "hello")
	}
	since(t, m, "a", Cursor{}) // b is the oldest now
	publish(t, m, "d", "hello")
	check(t, m)
	require.Equal(t, -1, kept(m, "b"), "messages of b")
	for _, room := range []string{"a", "c"} {
		require.Equal(t, Recovered, since(t, m, room, cursors[room]).Verdict, "verdict in %s", room)
	}
	p := since(t, m, "b", cursors["b"]) // d goes
	require.Equal(t, Reset, p.Verdict, "verdict in a forgotten room")
	require.Zero(t, p.Head.Seq, "head of a forgotten room")
	require.NotEqual(t, cursors["b"].Epoch, p.Head.Epoch, "epoch of a forgotten room")
	require.Equal(t, -1, kept(m, "d"), "messages of d")
	check(t, m)
}

// A room in use is not forgotten; where all are, there is no room for another.
func TestMemoryKeepsRoomsInUse(t *testing.T) {
	m := NewMemory(WithRooms(2))
	s, err := m.Subscribe(ctx, "subscribed")
	require.NoError(t, err)
	l, err := m.Lease(ctx, "node")
	require.NoError(t, err)
	require.NoError(t, l.Update(ctx, "present", []Member{{Client: "c"}}, nil))

	_, err = m.Publish(ctx, &Message{Room: "third"})
	require.ErrorIs(t, err, ErrBusy, "Publish into a third room")
	_, err = m.Subscribe(ctx, "third")
	require.ErrorIs(t, err, ErrBusy, "Subscribe to a third room")
	_, err = m.Head(ctx, "third")
	require.ErrorIs(t, err, ErrBusy, "Head of a third room")
	require.ErrorIs(t, l.Update(ctx, "third", []Member{{Client: "c"}}, nil), ErrBusy, "join in a third room")
	require.NoError(t, l.Update(ctx, "third", nil, []Member{{Client: "c"}}), "leave in a third room")
	_, err = m.Signal(ctx, &Signal{Room: "third"})
	require.NoError(t, err, "Signal to nobody")
	check(t, m)

	s.Close()
	publish(t, m, "third", "hello")
	require.Equal(t, -1, kept(m, "subscribed"), "messages of the room that was closed")
	check(t, m)
	require.NoError(t, l.Close(ctx))
	publish(t, m, "fourth", "hello")
	publish(t, m, "fifth", "hello")
	require.Equal(t, -1, kept(m, "present"), "messages of the room whose member left")
	check(t, m)
}

// A repeat stays one when its room was forgotten meanwhile.
func TestMemoryDedupOutlivesRoom(t *testing.T) {
	m := NewMemory(WithRooms(1))
	msg := &Message{Room: "lobby", ID: "id", From: Member{User: "u"}, Data: []byte("hello")}
	first, err := m.Publish(ctx, msg)
	require.NoError(t, err)
	publish(t, m, "other", "hello")
	again, err := m.Publish(ctx, msg)
	require.NoError(t, err)
	first.Duplicate = true
	require.Equal(t, first, again, "receipt")
	require.Equal(t, 0, kept(m, "lobby"), "messages kept of the new lobby")
}

func TestMemoryTotalBytes(t *testing.T) {
	const size = 1000 // of a message
	data := string(make([]byte, size-messageOverhead))
	m := NewMemory(WithTotalBytes(64*size), WithRetention(1000, 0))
	cursors := make(map[string][]Cursor)
	for _, room := range []string{"a", "b", "c"} {
		for range 20 {
			cursors[room] = append(cursors[room], publish(t, m, room, data))
		}
	}
	since(t, m, "a", Cursor{})
	for range 10 {
		publish(t, m, "c", data)
		check(t, m)
	}
	require.Equal(t, 20, kept(m, "a"), "messages of a, used since")
	// 65 were 1 too many and 63 are left; so again with the 67th and the 69th.
	require.Equal(t, 14, kept(m, "b"), "messages of b")
	require.Equal(t, 30, kept(m, "c"), "messages of c")
	require.Equal(t, Recovered, since(t, m, "b", cursors["b"][5]).Verdict, "verdict at the edge of b")
	require.Equal(t, GapBounds{After: 5, Before: 7, Missed: 1}, since(t, m, "b", cursors["b"][4]).Gap, "gap below it")

	for range 100 { // a and b go altogether, and then c's own
		publish(t, m, "c", data)
		check(t, m)
	}
	require.Equal(t, 0, kept(m, "a"), "messages of a")
	require.Equal(t, Recovered, since(t, m, "a", cursors["a"][19]).Verdict, "verdict at the head of a")
	require.LessOrEqual(t, kept(m, "c"), 64, "messages of c")
	require.GreaterOrEqual(t, kept(m, "c"), 62, "messages of c")
}

func TestMemoryRoomBytes(t *testing.T) {
	m := NewMemory(WithRoomBytes(10_000))
	for i := range 30 {
		publish(t, m, "lobby", string(make([]byte, 100*i)))
		check(t, m)
	}
	require.Equal(t, 3, kept(m, "lobby"), "messages of some 3 kB")
	publish(t, m, "lobby", string(make([]byte, 10_000-messageOverhead)))
	require.Equal(t, 1, kept(m, "lobby"), "messages of 10 kB")
	head, err := m.Head(ctx, "lobby")
	require.NoError(t, err)
	_, err = m.Publish(ctx, &Message{Room: "lobby", Data: make([]byte, 10_000-messageOverhead+1)})
	require.ErrorIs(t, err, ErrTooLarge)
	require.Equal(t, head, since(t, m, "lobby", head).Head, "head after a message that is too large")
	_, err = NewMemory(WithTotalBytes(1000)).Publish(ctx, &Message{Data: make([]byte, 1000)})
	require.ErrorIs(t, err, ErrTooLarge)
}

// A retention of no messages keeps the head.
func TestMemoryKeepsNothing(t *testing.T) {
	m := NewMemory(WithRetention(0, 0))
	s, err := m.Subscribe(ctx, "lobby")
	require.NoError(t, err)
	start := s.Head()
	var list []Cursor
	for range 3 {
		list = append(list, publish(t, m, "lobby", "hello"))
		check(t, m)
	}
	require.Equal(t, 0, kept(m, "lobby"), "messages")
	require.Equal(t, Page{Verdict: Recovered, Next: list[2], Head: list[2]}, since(t, m, "lobby", list[2]), "page at the head")
	want := Page{Verdict: Gap, Gap: GapBounds{After: 0, Before: 4, Missed: 3}, Next: list[2], Head: list[2]}
	require.Equal(t, want, since(t, m, "lobby", start), "page from the start")
	list[2].Tag++
	require.Equal(t, Reset, since(t, m, "lobby", list[2]).Verdict, "verdict on another tag")
	got, err := s.Take(nil, 10)
	require.NoError(t, err)
	require.Len(t, got, 3, "events")
}

func TestMemorySetRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(WithRetention(10, time.Hour), WithRooms(2))
		require.NoError(t, m.SetRetention("long", 20, 3*time.Hour))
		require.NoError(t, m.SetRetention("short", 5, time.Minute))
		for range 30 {
			publish(t, m, "long", "hello")
			publish(t, m, "short", "hello")
		}
		check(t, m)
		require.Equal(t, 20, kept(m, "long"), "messages of the long one")
		require.Equal(t, 5, kept(m, "short"), "messages of the short one")
		<-time.After(2 * time.Hour)
		require.Len(t, since(t, m, "long", Cursor{}).Messages, 20, "messages of the long one")
		require.Empty(t, since(t, m, "short", Cursor{}).Messages, "messages of the short one")

		require.NoError(t, m.SetRetention("long", 3, 3*time.Hour))
		require.Equal(t, 3, kept(m, "long"), "messages of the long one")
		require.NoError(t, m.SetRetention("long", 0, 0))
		require.Equal(t, 0, kept(m, "long"), "messages of the long one")
		check(t, m)

		// It outlives its room, and only as many rooms as may be known have one.
		publish(t, m, "other", "hello")
		publish(t, m, "another", "hello")
		require.Equal(t, -1, kept(m, "short"), "messages of a forgotten room")
		for range 10 {
			publish(t, m, "short", "hello")
		}
		require.Equal(t, 5, kept(m, "short"), "messages of the short one")
		require.ErrorIs(t, m.SetRetention("another", 1, 0), ErrBusy)
		require.Len(t, m.own, 2, "rooms with a retention of their own")
		require.NoError(t, m.SetRetention("short", 10, time.Hour))
		require.Len(t, m.own, 1, "rooms with a retention of their own")
		require.NoError(t, m.SetRetention("another", 1, 0))
		require.Len(t, m.own, 2, "rooms with a retention of their own")
		require.Panics(t, func() { _ = m.SetRetention("short", -1, 0) })
	})
}

// What has expired goes though nobody asks for it.
func TestMemorySweeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory()
		const rooms = 3 * sweepRooms
		for i := range rooms {
			publish(t, m, strconv.Itoa(i), "hello")
		}
		<-time.After(defaultAge / 2)
		publish(t, m, "0", "hello")
		<-time.After(defaultAge / 2)
		for range rooms/sweepRooms + 1 {
			publish(t, m, "busy", "hello")
			<-time.After(sweepEvery)
		}
		check(t, m)
		left := 0
		for i := range rooms {
			left += kept(m, strconv.Itoa(i))
		}
		require.Equal(t, 1, left, "messages that have not expired")
	})
}

func TestMemoryDedupBound(t *testing.T) {
	for _, keys := range []int{1, 100, 1000} {
		m := NewMemory(WithDedup(time.Hour, keys))
		send := func(i int) Receipt {
			r, err := m.Publish(ctx, &Message{Room: "lobby", ID: strconv.Itoa(i)})
			require.NoError(t, err)
			return r
		}
		for i := range 3 * keys {
			require.False(t, send(i).Duplicate, "message %d is a duplicate", i)
		}
		for i := 2 * keys; i < 3*keys; i++ {
			require.True(t, send(i).Duplicate, "message %d of %d is no duplicate", i, 3*keys)
		}
		require.False(t, send(2*keys-1).Duplicate, "the key that was forgotten last")
	}
}

func TestMemoryDedupManyKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keys = dedupShards << 10
		d := newDedup(time.Minute, keys)
		require.Len(t, d.shards, dedupShards)
		add := func(i int, at time.Duration) {
			k := d.key(&Message{ID: strconv.Itoa(i)})
			_, ok := d.find(k, at)
			require.False(t, ok, "key %d is known", i)
			d.add(dedupRecord{dedupKey: k, seq: uint64(i), at: at})
		}
		count := func() (n int) {
			for i := range d.shards {
				s := &d.shards[i]
				require.Equal(t, int(s.next-s.first), len(s.index), "index of shard %d", i)
				n += len(s.index)
			}
			return n
		}
		for i := range 3 * keys {
			add(i, time.Second)
		}
		require.LessOrEqual(t, count(), keys, "records")
		require.Greater(t, count(), keys*9/10, "records")
		rec, ok := d.find(d.key(&Message{ID: strconv.Itoa(3*keys - 1)}), time.Second)
		require.True(t, ok, "the last key is unknown")
		require.Equal(t, uint64(3*keys-1), rec.seq, "seq of the last key")
		for i := range keys / 4 { // the same keys after the window
			add(3*keys-1-i, time.Hour)
		}
		require.Equal(t, keys/4, count(), "records after the window")
	})
}

// Without a window nothing is a duplicate.
func TestMemoryDedupOff(t *testing.T) {
	m := NewMemory(WithDedup(0, 1))
	for range 2 {
		r, err := m.Publish(ctx, &Message{Room: "lobby", ID: "id"})
		require.NoError(t, err)
		require.False(t, r.Duplicate)
	}
	require.NoError(t, m.Close())
}

func TestMemoryOptionsPanic(t *testing.T) {
	for name, opt := range map[string]func() MemoryOption{
		"messages": func() MemoryOption { return WithRetention(-1, 0) },
		"age":      func() MemoryOption { return WithRetention(0, -1) },
		"room":     func() MemoryOption { return WithRoomBytes(0) },
		"total":    func() MemoryOption { return WithTotalBytes(0) },
		"rooms":    func() MemoryOption { return WithRooms(0) },
		"window":   func() MemoryOption { return WithDedup(-1, 1) },
		"keys":     func() MemoryOption { return WithDedup(1, 0) },
		"events":   func() MemoryOption { return WithWaiting(0, 1) },
		"bytes":    func() MemoryOption { return WithWaiting(1, 0) },
	} {
		require.Panics(t, func() { NewMemory(opt()) }, name)
	}
}

func TestMemoryLimit(t *testing.T) {
	m := NewMemory()
	_, err := m.Since(ctx, "lobby", Cursor{}, 0)
	require.ErrorIs(t, err, errLimit)
	_, err = m.Before(ctx, "lobby", 0, -1)
	require.ErrorIs(t, err, errLimit)
}

// A room that has had no message costs less than 600 bytes.
func TestMemoryEmptyRoom(t *testing.T) {
	const rooms = 20_000
	m := NewMemory(WithRooms(rooms))
	heap := func() int {
		var s runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&s)
		return int(s.HeapAlloc)
	}
	before := heap()
	for i := range rooms {
		_, err := m.Head(ctx, "room-"+strconv.Itoa(i))
		require.NoError(t, err)
	}
	each := (heap() - before) / rooms
	t.Logf("%d bytes", each)
	require.Less(t, each, 600, "bytes of an empty room")
	runtime.KeepAlive(m)
}

// Everything at once, with hardly any room for it.
func TestMemoryChurn(t *testing.T) {
	const workers, rooms, steps = 8, 6, 1500
	m := NewMemory(WithRooms(rooms-1), WithTotalBytes(40*messageOverhead), WithRetention(20, 0), WithWaiting(10, 1<<20), WithDedup(time.Hour, 50))
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(w)))
			l, err := m.Lease(ctx, strconv.Itoa(w))
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = l.Close(ctx) }()
			for range steps {
				room := strconv.Itoa(rnd.IntN(rooms))
				short, cancel := context.WithTimeout(ctx, time.Millisecond)
				switch rnd.IntN(6) {
				case 0, 1:
					_, _ = m.Publish(short, &Message{Room: room, ID: strconv.Itoa(rnd.IntN(100))})
				case 2:
					if s, err := m.Subscribe(short, room); err == nil {
						for range rnd.IntN(20) {
							_, _ = m.Publish(short, &Message{Room: room})
						}
						_, _ = s.Take(nil, rnd.IntN(10))
						s.Close()
					}
				case 3:
					if p, err := m.Since(short, room, Cursor{}, 5); err == nil {
						if again, err := m.Since(short, room, p.Next, 5); err == nil && again.Verdict == 0 {
							t.Error("page without a verdict")
						}
					}
				case 4:
					_, _ = m.Signal(short, &Signal{Room: room, To: Target{User: "u"}})
				case 5:
					member := []Member{{Client: strconv.Itoa(w)}}
					_ = l.Update(short, room, member, nil)
					if rnd.IntN(2) == 0 {
						_ = l.Update(short, room, nil, member)
					}
				}
				cancel()
			}
		})
	}
	wg.Wait()
	check(t, m)
	for i := range rooms { // nothing is left in use
		publish(t, m, fmt.Sprint("new-", i), "hello")
	}
	check(t, m)
	require.NoError(t, m.Close())
	require.Zero(t, m.bytes.Load(), "bytes after Close")
}

func TestDeque(t *testing.T) {
	var d deque[int]
	rnd := rand.New(rand.NewPCG(1, 2))
	in, out := 0, 0
	for range 2000 {
		if n := rnd.IntN(300); rnd.IntN(2) == 0 {
			for range n {
				d.push(in)
				in++
			}
		} else {
			for range min(n, d.n) {
				require.Equal(t, out, d.pop())
				out++
			}
		}
		require.Equal(t, in-out, d.n, "length")
		if d.n > 0 {
			i := rnd.IntN(d.n)
			require.Equal(t, out+i, *d.at(i), "at %d", i)
		}
	}
	for d.n > 0 {
		d.pop()
	}
	require.LessOrEqual(t, len(d.buf), 64, "ring of an empty queue")
}
