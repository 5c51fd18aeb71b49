package broker

import (
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
)

// drained returns a subscription's taker, to be called after each publish.
func drained(b *testing.B, m *Memory, room string) func() {
	s, err := m.Subscribe(ctx, room)
	if err != nil {
		b.Fatal(err)
	}
	var buf []Event
	n := 0
	return func() {
		if n++; n%32 == 0 {
			clear(buf)
			buf, _ = s.Take(buf[:0], 32)
		}
	}
}

func BenchmarkMemoryPublish(b *testing.B) {
	for _, size := range []int{128, 4096} {
		for _, id := range []bool{false, true} {
			b.Run(fmt.Sprintf("bytes=%d/id=%v", size, id), func(b *testing.B) {
				b.ReportAllocs()
				m := NewMemory()
				taken := drained(b, m, "lobby")
				msg := &Message{Room: "lobby", From: Member{User: "u"}, Data: make([]byte, size)}
				ids := make([]string, 1<<20)
				if id {
					for i := range ids {
						ids[i] = strconv.Itoa(i)
					}
				}
				i := 0
				for b.Loop() {
					msg.ID = ids[i%len(ids)]
					i++
					if _, err := m.Publish(ctx, msg); err != nil {
						b.Fatal(err)
					}
					taken()
				}
			})
		}
	}
}

func BenchmarkMemoryPublishSubscriptions(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			m := NewMemory()
			var taken []func()
			for range n {
				taken = append(taken, drained(b, m, "lobby"))
			}
			msg := &Message{Room: "lobby", Data: make([]byte, 128)}
			for b.Loop() {
				if _, err := m.Publish(ctx, msg); err != nil {
					b.Fatal(err)
				}
				for _, f := range taken {
					f()
				}
			}
		})
	}
}

// Each goroutine publishes into rooms of its own.
func BenchmarkMemoryPublishRooms(b *testing.B) {
	for _, rooms := range []int{10, 1_000, 10_000} {
		b.Run(strconv.Itoa(rooms), func(b *testing.B) {
			b.ReportAllocs()
			m := NewMemory()
			names := make([]string, rooms)
			for i := range names {
				names[i] = "room-" + strconv.Itoa(i)
			}
			var goroutines atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				i := int(goroutines.Add(1)) * rooms / 4
				msg := &Message{Data: make([]byte, 128)}
				for pb.Next() {
					msg.Room = names[i%rooms]
					i++
					if _, err := m.Publish(ctx, msg); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func BenchmarkMemorySince(b *testing.B) {
	for _, n := range []int{0, 20, 256} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			m := NewMemory()
			head, _ := m.Head(ctx, "lobby")
			for range n {
				if _, err := m.Publish(ctx, &Message{Room: "lobby"}); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				if p, err := m.Since(ctx, "lobby", head, 256); err != nil || len(p.Messages) != n {
					b.Fatal(p, err)
				}
			}
		})
	}
}

// Every room is new, and another is forgotten for it.
func BenchmarkMemoryForget(b *testing.B) {
	b.ReportAllocs()
	m := NewMemory(WithRooms(10_000))
	i := 0
	for b.Loop() {
		i++
		if _, err := m.Head(ctx, strconv.Itoa(i)); err != nil {
			b.Fatal(err)
		}
	}
}
