package wsconn

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/chathub-go/hub/internal/memnet"
	"github.com/stretchr/testify/require"
)

// drained is a connection over TCP whose peer throws away what it reads.
func drained(tb testing.TB, o *Options) *Conn {
	c, p := tcpPair(tb, o)
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(io.Discard, p.Conn)
	}()
	tb.Cleanup(func() {
		c.Abort()
		<-done
	})
	return c
}

// A send on the fast path allocates nothing.
func TestSendDoesNotAllocate(t *testing.T) {
	if noFastPath {
		t.Skip("it is about the fast path")
	}
	c := drained(t, &Options{QueueBytes: 64 << 20, QueueMessages: 1 << 20})
	b := batch(strings.Repeat("x", 128))
	var err error
	allocs := testing.AllocsPerRun(1000, func() {
		if e := c.Send(b, Disconnect); e != nil {
			err = e
		}
	})
	require.NoError(t, err)
	require.Zero(t, allocs)
}

func BenchmarkSend(b *testing.B) {
	for _, size := range []int{16, 128, 1024, 16384} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			c := drained(b, &Options{})
			m := batch(strings.Repeat("x", size))
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				if err := c.Send(m, Disconnect); err == ErrFull {
					err = c.SendWait(b.Context(), m)
					require.NoError(b, err)
				}
			}
		})
	}
}

func BenchmarkSendQueued(b *testing.B) {
	was := noFastPath
	defer func() { noFastPath = was }()
	noFastPath = true
	c := drained(b, &Options{})
	m := batch(strings.Repeat("x", 128))
	b.ReportAllocs()
	for b.Loop() {
		if err := c.SendWait(b.Context(), m); err != nil {
			b.Fatal(err)
		}
	}
}

// A send for a stalled connection takes as long whether ten keys wait or 10,000.
func BenchmarkLatestPerKey(b *testing.B) {
	for _, keys := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprint(keys), func(b *testing.B) {
			c, _ := memPair(b, &Options{QueueMessages: 2 * keys, QueueBytes: 64 << 20}, memnet.WithBuffer(200))
			if err := c.SendNow(batch(strings.Repeat("x", 500))); err != nil {
				b.Fatal(err)
			}
			r := &room{name: "r"}
			batches := make([]*Batch, keys)
			for i := range batches {
				batches[i] = NewBatch(price(r, fmt.Sprint(i), "price"))
				if err := c.Send(batches[i], LatestPerKey); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := c.Send(batches[i%keys], LatestPerKey); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNewFrame(b *testing.B) {
	p := make([]byte, 128)
	b.ReportAllocs()
	for b.Loop() {
		NewFrame(OpText, p)
	}
}

func BenchmarkRead(b *testing.B) {
	c, p := tcpPair(b, &Options{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		m := []byte(strings.Repeat(string(maskedFrame(0x81, strings.Repeat("x", 128))), 100))
		for {
			if _, err := p.Write(m); err != nil {
				return
			}
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := c.Read(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	c.Abort()
	<-done
}
