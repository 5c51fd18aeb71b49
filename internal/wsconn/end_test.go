package wsconn

import (
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/chathub-go/hub/internal/memnet"
	"github.com/stretchr/testify/require"
)

func TestCloseReasonIsCut(t *testing.T) {
	for in, want := range map[string]string{
		"":                              "",
		"bye":                           "bye",
		strings.Repeat("x", 123):        strings.Repeat("x", 123),
		strings.Repeat("x", 124):        strings.Repeat("x", 123),
		strings.Repeat("é", 62):         strings.Repeat("é", 61),
		"x" + strings.Repeat("日", 60):   "x" + strings.Repeat("日", 40),
		strings.Repeat("\xff", 50):      "\uFFFD",
		strings.Repeat("x", 120) + "😀x": strings.Repeat("x", 120),
	} {
		require.Equal(t, want, cutReason(in))
		require.True(t, utf8.ValidString(cutReason(in)))
	}
}

func TestCloseCodesThatCannotBeSent(t *testing.T) {
	for _, code := range []int{-1, 0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1999, 2000, 2999, 5000, 65536 + 1000} {
		require.Equal(t, []byte{0x88, 0}, closeFrame(code, "x"), code)
	}
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		require.Equal(t, []byte{0x88, 3, byte(code >> 8), byte(code), 'x'}, closeFrame(code, "x"), code)
	}
}

// Whoever closes first wins, and one close frame goes out.
func TestOneCloseFrame(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		for range 50 {
			c, p := tcpPair(t, &Options{})
			r := startReader(t, c)
			go together(5, func(i int) {
				switch i {
				case 0:
					p.Write(maskedFrame(0x88, "\x03\xe8"))
				case 1:
					p.Write(maskedFrame(0x89, "ping"))
				default:
					c.Close(4000+i, "")
				}
			})
			all, err := p.rest()
			require.Equal(t, io.EOF, err)
			p.Close()
			ce := r.closed(t)
			last := all[len(all)-1]
			require.Equal(t, closing(uint16(ce.Code), ""), last)
			for _, f := range all[:len(all)-1] {
				require.Equal(t, frame{10, "ping"}, f)
			}
		}
	})
}

func TestEndIsIdempotent(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		for name, f := range map[string]func(c *Conn, i int){
			"Abort":  func(c *Conn, i int) { c.Abort() },
			"Close":  func(c *Conn, i int) { c.Close(1000, "") },
			"Finish": func(c *Conn, i int) { c.Finish() },
			"all": func(c *Conn, i int) {
				[]func(){func() { c.Close(1000, "") }, c.Abort, c.Finish, c.Ping, func() { c.Send(batch("x"), DropOldest) }}[i%5]()
			},
		} {
			t.Run(name, func(t *testing.T) {
				for range 20 {
					c, p := tcpPair(t, &Options{CloseTimeout: time.Millisecond})
					r := startReader(t, c)
					c.Send(batch("hello"), Disconnect)
					together(10, func(i int) { f(c, i) })
					p.Close()
					<-r.done
					c.Finish()
				}
			})
		}
	})
}

// Finish waits CloseTimeout for a peer that does not close, and no longer.
func TestCloseTimeout(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := memPair(t, &Options{})
			r := startReader(t, c)
			start := time.Now()
			c.Close(1001, "")
			p.expect(t, closing(1001, ""))
			p.expectEOF(t)
			<-r.done
			require.Equal(t, defaultCloseTimeout, time.Since(start))
			_, err := p.Write([]byte("x"))
			require.ErrorIs(t, err, syscall.EPIPE)
		})
	})
}

// A peer that is still sending reads its close frame, over a network that resets a
// connection closed with unread input.
func TestCloseWhileThePeerSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := memPair(t, &Options{}, memnet.WithResetOnClose(), memnet.WithBuffer(1000))
		r := startReader(t, c)
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				if _, err := p.Write(maskedFrame(0xF1, strings.Repeat("x", 700))); err != nil {
					return
				}
				<-time.After(100 * time.Millisecond)
			}
		})
		<-time.After(time.Second)
		p.expect(t, closing(1002, "protocol error"))
		p.expectEOF(t)
		p.Close()
		wg.Wait()
		require.Equal(t, 1002, r.closed(t).Code)
	})
}

// A peer that takes nothing is cut WriteTimeout after the last byte it took, and never
// holds up who sends.
func TestStalledPeer(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, _ := memPair(t, &Options{}, memnet.WithBuffer(200))
			r := startReader(t, c)
			start := time.Now()
			require.NoError(t, c.Send(batch(strings.Repeat("x", 500)), Disconnect))
			require.Equal(t, start, time.Now())
			ce := r.closed(t)
			require.Equal(t, 1006, ce.Code)
			require.ErrorContains(t, ce, "timeout")
			took := time.Since(start)
			require.True(t, took >= defaultWriteTimeout && took <= 2*defaultWriteTimeout, took)
			require.ErrorIs(t, c.Send(batch("x"), Disconnect), ErrClosed)
		})
	})
}

// A stalled peer sees no close frame: Finish waits WriteTimeout after Close.
func TestCloseOfAStalledPeer(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := memPair(t, &Options{}, memnet.WithBuffer(200))
			r := startReader(t, c)
			require.NoError(t, c.Send(batch(strings.Repeat("x", 500)), Disconnect))
			<-time.After(5 * time.Second)
			start := time.Now()
			c.Close(1013, "too slow")
			require.Equal(t, 1013, r.closed(t).Code)
			took := time.Since(start)
			require.True(t, took >= 5*time.Second && took <= defaultWriteTimeout, took)
			_, err := p.rest()
			require.Equal(t, io.ErrUnexpectedEOF, err)
		})
	})
}

// After Close a slow peer has WriteTimeout for all, however steadily it reads.
func TestCloseOfASlowPeerIsBounded(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := memPair(t, &Options{}, memnet.WithBuffer(200))
			r := startReader(t, c)
			require.NoError(t, c.Send(batch(strings.Repeat("x", 500)), Disconnect))
			start := time.Now()
			c.Close(1013, "too slow")
			slow := slowReader{p.Conn, time.Second}
			done := make(chan struct{})
			go func() {
				defer close(done)
				io.Copy(io.Discard, slow)
			}()
			require.Equal(t, 1013, r.closed(t).Code)
			require.LessOrEqual(t, time.Since(start), defaultWriteTimeout+defaultCloseTimeout)
			p.Close()
			<-done
		})
	})
}

// A slow peer that reads is never cut.
func TestSlowPeerLives(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := memPair(t, &Options{}, memnet.WithBuffer(200))
			r := startReader(t, c)
			start := time.Now()
			want := []frame{text(strings.Repeat("a", 300)), text(strings.Repeat("b", 100)), text("c")}
			for _, f := range want {
				require.NoError(t, c.Send(batch(f.payload), Disconnect))
			}
			slow := &peer{p.Conn, p.r}
			slow.r.Reset(slowReader{p.Conn, 9 * time.Second})
			slow.expect(t, want...)
			require.Greater(t, time.Since(start), 3000*time.Second)
			slow.r.Reset(p.Conn)
			// At rest there is no deadline.
			<-time.After(time.Hour)
			require.NoError(t, c.Send(batch("d"), Disconnect))
			p.expect(t, text("d"))
			p.Close()
			require.Equal(t, 1006, r.closed(t).Code)
		})
	})
}

// A slowReader reads a byte each pause.
type slowReader struct {
	io.Reader
	pause time.Duration
}

func (r slowReader) Read(p []byte) (int, error) {
	<-time.After(r.pause)
	return r.Reader.Read(p[:1])
}

// A lazyConn behaves as Linux does with a large buffer: it takes bytes long before it
// wakes a Write that waits.
type lazyConn struct{ *memnet.Conn }

func (c lazyConn) Write(p []byte) (int, error) {
	<-time.After(defaultWriteTimeout)
	return 0, os.ErrDeadlineExceeded
}

func TestSlowPeerLivesThoughNoWriteWakes(t *testing.T) {
	if noFastPath {
		t.Skip("it needs TryWrite")
	}
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe(memnet.WithBuffer(200))
		c, p := accept(t, a, b, &Options{})
		c.conn = lazyConn{a}
		r := startReader(t, c)
		want := []frame{text(strings.Repeat("a", 300)), text(strings.Repeat("b", 500))}
		for _, f := range want {
			require.NoError(t, c.Send(batch(f.payload), Disconnect))
		}
		p.expect(t, want...)
		require.NoError(t, c.Send(batch(strings.Repeat("c", 500)), Disconnect))
		require.ErrorIs(t, r.closed(t), os.ErrDeadlineExceeded) // now it has stalled
	})
}

// At rest a connection has no goroutine of ours, and no memory for what it sent.
func TestAtRest(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := memPair(t, &Options{}, memnet.WithBuffer(200))
			for _, s := range numbered("m", 100) {
				require.NoError(t, c.Send(batch(s), Disconnect))
			}
			for _, s := range numbered("m", 100) {
				p.expect(t, text(s))
			}
			synctest.Wait()
			c.writer.Wait()
			require.False(t, c.owned)
			require.LessOrEqual(t, cap(c.queue.nodes), smallQueue)
			for _, nd := range c.queue.nodes[:cap(c.queue.nodes)] {
				require.Zero(t, nd)
			}
			require.Nil(t, c.queue.keys)
		})
	})
}

// A transport whose writing side can't be closed alone: after both close frames there is
// nothing to wait for.
func TestCloseWithoutCloseWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe()
		c, p := accept(t, struct{ net.Conn }{a}, b, &Options{})
		require.Equal(t, p.LocalAddr(), c.RemoteAddr())
		r := startReader(t, c)
		start := time.Now()
		p.send(t, 8, "\x03\xe8")
		p.expect(t, closing(1000, ""))
		p.expectEOF(t)
		require.Equal(t, 1000, r.closed(t).Code)
		require.LessOrEqual(t, time.Since(start), drainWait)
	})
}

func TestLostWhileSending(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := memPair(t, &Options{}, memnet.WithBuffer(200))
			r := startReader(t, c)
			require.NoError(t, c.Send(batch(strings.Repeat("x", 500)), Disconnect))
			p.Conn.(*memnet.Conn).Cut()
			ce := r.closed(t)
			require.Equal(t, 1006, ce.Code)
			require.ErrorIs(t, ce, syscall.ECONNRESET)
			frames, bytes := c.Queued()
			require.Equal(t, []int{0, 0}, []int{frames, bytes})
		})
	})
}

func TestLastRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := memPair(t, &Options{})
		r := startReader(t, c)
		start := time.Now()
		require.Equal(t, start, c.LastRead())
		<-time.After(time.Minute)
		require.Equal(t, start, c.LastRead())
		p.Write([]byte{0x81}) // any byte counts
		synctest.Wait()
		require.Equal(t, start.Add(time.Minute), c.LastRead())
		<-time.After(time.Minute)
		p.Close()
		<-r.done
		require.Equal(t, start.Add(time.Minute), c.LastRead())
	})
}

// Abort never waits, whatever is in the way, and everything ends.
func TestAbort(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, _ := memPair(t, &Options{}, memnet.WithBuffer(200))
			r := startReader(t, c)
			require.NoError(t, c.Send(batch(strings.Repeat("x", 500)), Disconnect))
			synctest.Wait()
			start := time.Now()
			c.Abort()
			ce := r.closed(t)
			require.Equal(t, start, time.Now())
			require.Equal(t, 1006, ce.Code)
			require.ErrorIs(t, ce, errAborted)
			require.ErrorIs(t, c.Send(batch("x"), Disconnect), ErrClosed)
			c.Ping()
			c.Close(1000, "")
			frames, bytes := c.Queued()
			require.Equal(t, []int{0, 0}, []int{frames, bytes})
		})
	})
}

// gated is a connection whose TryWrite waits until told, and then takes nothing.
type gated struct {
	net.Conn
	entered, release chan struct{}
	on               atomic.Bool
}

func (g *gated) TryWrite(p []byte) (int, error) {
	if g.on.CompareAndSwap(true, false) {
		close(g.entered)
		<-g.release
		return 0, nil
	}
	return g.Conn.(tryWriter).TryWrite(p)
}

// A ping whose write takes nothing, while the connection is cut and finished: nothing of it may run
// after Finish.
func TestPingWhileTheConnectionEnds(t *testing.T) {
	if noFastPath {
		t.Skip("no write without a writer")
	}
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe()
		g := &gated{Conn: a, entered: make(chan struct{}), release: make(chan struct{})}
		c, p := accept(t, g, b, &Options{})
		r := startReader(t, c)
		g.on.Store(true)
		pinged := make(chan struct{})
		go func() { c.Ping(); close(pinged) }()
		<-g.entered
		c.Abort()
		<-r.done // Finish has returned
		close(g.release)
		<-pinged
		c.mu.Lock()
		ping, owned := c.ping, c.owned
		c.mu.Unlock()
		require.False(t, ping || owned, "ping %v, owned %v: a writer was started after Finish", ping, owned)
		p.Close()
	})
}
