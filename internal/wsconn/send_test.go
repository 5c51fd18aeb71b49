package wsconn

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/chathub-go/hub/internal/memnet"
	"github.com/stretchr/testify/require"
)

func TestFrameSizes(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		c, p := tcpPair(t, &Options{QueueBytes: 8 << 20}) // the writer may note a batch as written after the peer has read it
		for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 1 << 20} {
			s := strings.Repeat("x", n)
			require.NoError(t, c.Send(NewBatch(NewFrame(OpText, []byte(s)), NewFrame(OpBinary, []byte(s))), Disconnect))
			p.expect(t, frame{1, s}, frame{2, s})
		}
		require.NoError(t, c.Send(NewBatch(), Disconnect))
		require.NoError(t, c.SendNow(NewBatch()))
	})
}

func TestBatchSharesASingleFrame(t *testing.T) {
	f := NewFrame(OpText, []byte("hi"))
	require.Same(t, &f.Bytes[0], &NewBatch(f).Bytes[0])
	require.Equal(t, append([]byte("x"), f.Bytes...), AppendFrame([]byte("x"), OpText, []byte("hi")))
	require.Equal(t, 1.0, testing.AllocsPerRun(100, func() { sink = AppendFrame(nil, OpText, nil) }))
}

var sink []byte

// Frames go out whole and in order, however little the socket takes at a time.
func TestOrderWithShortWrites(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		for k := 1; k <= 9; k++ {
			c, p := memPair(t, &Options{QueueMessages: 1 << 20}, memnet.WithShortWrites(k), memnet.WithBuffer(300))
			var want []frame
			done := make(chan struct{})
			var sendErr error
			for i := range 200 {
				want = append(want, text(fmt.Sprintf("%d %s", i, strings.Repeat("x", i%140))))
			}
			go func() {
				defer close(done)
				for i := 0; i < len(want) && sendErr == nil; i += 2 {
					sendErr = c.Send(batch(want[i].payload, want[i+1].payload), Disconnect)
				}
			}()
			p.expect(t, want...)
			<-done
			require.NoError(t, sendErr)
		}
	})
}

// Pings and pongs go before waiting data, and never inside a frame that was begun.
func TestControlNeverInsideAFrame(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := memPair(t, &Options{}, memnet.WithShortWrites(20), memnet.WithBuffer(200))
			r := startReader(t, c)
			begun := strings.Repeat("a", 1000)
			require.NoError(t, c.Send(batch(begun), Disconnect)) // 200 bytes of it are taken
			synctest.Wait()
			require.NoError(t, c.Send(batch("b", "c"), Disconnect))
			c.Ping()
			c.Ping()
			for i := range 3 { // the last pong replaces the others
				p.send(t, 9, fmt.Sprint("ping ", i))
				synctest.Wait()
			}
			p.expect(t, text(begun), frame{10, "ping 2"}, frame{9, ""}, text("b"), text("c"))
			c.Ping()
			synctest.Wait()
			p.send(t, 9, "later")
			p.expect(t, frame{9, ""}, frame{10, "later"})
			c.Close(1000, "")
			p.expect(t, closing(1000, ""))
			p.expectEOF(t)
			p.Close()
			<-r.done
		})
	})
}

// The remainder of a ping, pong or close frame goes out before anything else.
func TestControlFramesInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if noFastPath {
			t.Skip("it is about the fast path")
		}
		for k := 1; k <= 4; k++ {
			c, p := memPair(t, &Options{}, memnet.WithShortWrites(k), memnet.WithBuffer(200))
			r := startReader(t, c)
			c.Ping()
			p.send(t, 9, "hello")
			synctest.Wait()
			c.Close(1001, "bye")
			c.Ping()
			p.send(t, 9, "too late")
			p.expect(t, frame{9, ""}, frame{10, "hello"}, closing(1001, "bye"))
			p.expectEOF(t)
			p.Close()
			<-r.done
		}
	})
}

// A socket that takes nothing: what is tried waits, in its order.
func TestNothingTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := memPair(t, &Options{}, memnet.WithBuffer(150))
		r := startReader(t, c)
		full := strings.Repeat("x", 146)
		require.NoError(t, c.Send(batch(full), Disconnect))
		synctest.Wait()
		c.Ping()
		synctest.Wait()
		p.send(t, 9, "1")
		require.NoError(t, c.Send(batch("a"), Disconnect))
		synctest.Wait()
		frames, bytes := c.Queued()
		require.Equal(t, []int{1, 3}, []int{frames, bytes})
		p.expect(t, text(full), frame{9, ""}, frame{10, "1"}, text("a"))
		synctest.Wait()
		frames, bytes = c.Queued()
		require.Equal(t, []int{0, 0}, []int{frames, bytes})

		require.NoError(t, c.Send(batch(full), Disconnect))
		synctest.Wait()
		c.Close(1000, "")
		p.expect(t, text(full), closing(1000, ""))
		p.expectEOF(t)
		p.Close()
		<-r.done
	})
}

func TestDisconnectAtTheBound(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := memPair(t, &Options{QueueMessages: 10}, memnet.WithBuffer(200))
			full := strings.Repeat("x", 500)
			require.NoError(t, c.Send(batch(full), Disconnect))
			texts := numbered("m", 9)
			for _, s := range texts {
				require.NoError(t, c.Send(batch(s), Disconnect))
			}
			require.ErrorIs(t, c.Send(batch("one too many"), Disconnect), ErrFull)
			require.NoError(t, c.SendNow(batch("an ack")))
			c.Close(1013, "too slow")
			require.ErrorIs(t, c.Send(batch("late"), Disconnect), ErrClosed)
			require.ErrorIs(t, c.SendNow(batch("late")), ErrClosed)
			require.ErrorIs(t, c.SendWait(t.Context(), batch("late")), ErrClosed)
			p.expect(t, text(full))
			for _, s := range texts {
				p.expect(t, text(s))
			}
			p.expect(t, text("an ack"), closing(1013, "too slow"))
			p.expectEOF(t)
		})
	})
}

func TestBytesBound(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := memPair(t, &Options{QueueBytes: 1000}, memnet.WithBuffer(200))
			// Where nothing waits, a batch of any size is taken.
			large := strings.Repeat("x", 5000)
			require.NoError(t, c.Send(batch(large), Disconnect))
			require.ErrorIs(t, c.Send(batch("y"), Disconnect), ErrFull)
			p.expect(t, text(large))
			synctest.Wait()
			require.NoError(t, c.Send(batch(strings.Repeat("z", 700)), Disconnect))
			require.NoError(t, c.Send(batch(strings.Repeat("z", 200)), Disconnect))
			require.ErrorIs(t, c.Send(batch(strings.Repeat("z", 400)), Disconnect), ErrFull)
		})
	})
}

func TestSendWait(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := memPair(t, &Options{QueueMessages: 8}, memnet.WithBuffer(200))
			full := strings.Repeat("x", 500)
			require.NoError(t, c.SendWait(t.Context(), batch(full)))
			page := batch(numbered("p", 20)...) // beyond the bound, and taken whole
			require.NoError(t, c.SendWait(t.Context(), page))
			ctx, cancel := context.WithCancel(t.Context())
			result := make(chan error, 2)
			go func() { result <- c.SendWait(ctx, batch("given up")) }()
			synctest.Wait()
			require.Empty(t, result)
			cancel()
			require.ErrorIs(t, <-result, context.Canceled)

			go func() { result <- c.SendWait(t.Context(), batch("ack")) }()
			go func() { result <- c.SendWait(t.Context(), batch("ack")) }()
			synctest.Wait()
			require.Empty(t, result)
			p.expect(t, text(full))
			for _, s := range numbered("p", 20) {
				p.expect(t, text(s))
			}
			p.expect(t, text("ack"), text("ack"))
			require.NoError(t, <-result)
			require.NoError(t, <-result)

			require.NoError(t, c.SendWait(t.Context(), batch(full)))
			require.NoError(t, c.SendWait(t.Context(), page))
			go func() { result <- c.SendWait(t.Context(), batch("never")) }()
			synctest.Wait()
			c.Close(1000, "")
			require.ErrorIs(t, <-result, ErrClosed)
		})
	})
}

// What waits of SendWait and SendNow makes no connection slow: Send has its whole bound
// beside it, in frames and in bytes, and whether it was begun or not. SendWait looks at all.
func TestHistoryMakesNobodySlow(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := memPair(t, &Options{QueueMessages: 4, QueueBytes: 400}, memnet.WithBuffer(200))
			page := append(numbered("history ", 20), strings.Repeat("p", 3000))
			require.NoError(t, c.SendWait(t.Context(), batch(page...))) // the first are begun
			synctest.Wait()
			require.NoError(t, c.SendNow(batch("ack")))
			for _, s := range numbered("m", 4) {
				require.NoError(t, c.Send(batch(s), Disconnect))
			}
			require.ErrorIs(t, c.Send(batch("slow"), Disconnect), ErrFull)

			done := make(chan error, 1)
			go func() { done <- c.SendWait(t.Context(), batch("last")) }()
			for _, s := range page {
				p.expect(t, text(s))
			}
			p.expect(t, text("ack"))
			for _, s := range numbered("m", 4) {
				p.expect(t, text(s))
			}
			p.expect(t, text("last"))
			require.NoError(t, <-done)

			// By bytes: of Send's 400 there are 390, whatever else waits.
			require.NoError(t, c.SendNow(batch(strings.Repeat("k", 500), strings.Repeat("k", 500))))
			synctest.Wait()
			require.NoError(t, c.Send(batch(strings.Repeat("m", 386)), Disconnect))
			require.ErrorIs(t, c.Send(batch("far too much"), Disconnect), ErrFull)
			require.NoError(t, c.Send(batch("12345678"), Disconnect))
			require.ErrorIs(t, c.Send(batch(""), Disconnect), ErrFull)
			frames, bytes := c.Queued()
			require.Greater(t, frames, 2)
			require.Greater(t, bytes, 400+500)
			synctest.Wait()
			c.mu.Lock()
			low := c.low()
			c.mu.Unlock()
			require.False(t, low)
		})
	})
}

// What Send left half written counts in its bound.
func TestBegunFramesCount(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, _ := memPair(t, &Options{QueueMessages: 2}, memnet.WithBuffer(200))
			require.NoError(t, c.Send(batch(strings.Repeat("x", 500)), Disconnect))
			synctest.Wait()
			require.NoError(t, c.SendNow(batch("ack")))
			require.NoError(t, c.Send(batch("m"), Disconnect))
			require.ErrorIs(t, c.Send(batch("n"), Disconnect), ErrFull)
		})
	})
}

// One goroutine of many sends, all at once, over a real socket: each one's messages
// arrive whole and in its order, then one close frame and nothing else.
func TestConcurrentSends(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		const senders, each = 8, 200
		c, p := tcpPair(t, &Options{QueueMessages: senders * each * 2})
		r := startReader(t, c)
		var wg sync.WaitGroup
		errs := make([]error, senders)
		for s := range senders {
			wg.Go(func() {
				for i := 0; i < each && errs[s] == nil; i++ {
					b := batch(fmt.Sprintf("%d %d %s", s, i, strings.Repeat("x", i*s*8)))
					switch i % 3 {
					case 0:
						errs[s] = c.Send(b, Disconnect)
					case 1:
						errs[s] = c.SendWait(t.Context(), b)
					default:
						errs[s] = c.SendNow(b)
					}
					if i%50 == 0 {
						c.Ping()
					}
				}
			})
		}
		go func() {
			for i := range 100 {
				p.Write(maskedFrame(0x89, fmt.Sprint(i)))
			}
			wg.Wait()
			c.Close(1000, "all said")
			c.Close(1001, "second")
		}()
		all, err := p.rest()
		require.EqualError(t, err, "EOF")
		p.Close()
		ce := r.closed(t)
		require.Equal(t, 1000, ce.Code)
		wg.Wait()
		for _, err := range errs {
			require.NoError(t, err)
		}
		require.Equal(t, closing(1000, "all said"), all[len(all)-1])
		next := make([]int, senders)
		for _, f := range all[:len(all)-1] {
			require.NotEqual(t, byte(8), f.op)
			if f.op == 1 {
				var s, i int
				fmt.Sscan(f.payload, &s, &i)
				require.Equal(t, next[s], i, "sender %d", s)
				next[s]++
			}
		}
		for s, n := range next {
			require.Equal(t, each, n, "sender %d", s)
		}
	})
}
