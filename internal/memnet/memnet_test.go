package memnet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/internal/memnet"
)

// Each test runs in a bubble, which fails when a goroutine outlives it or all of them wait for good.

// async runs f and returns what it will return, readable once.
func async[T any](f func() T) <-chan T {
	done := make(chan T, 1)
	go func() { done <- f() }()
	return done
}

func readErr(c net.Conn) <-chan error {
	return async(func() error { _, err := c.Read(make([]byte, 1)); return err })
}

func writeErr(c net.Conn, n int) <-chan error {
	return async(func() error { _, err := c.Write(make([]byte, n)); return err })
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) && errors.As(err, &ne) && ne.Timeout()
}

func TestBytesArriveInOrderBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe(memnet.WithBuffer(100))
		defer a.Close()
		sent := make([]byte, 10_000)
		for i := range sent {
			sent[i] = byte(i * 7)
		}
		for _, ends := range [][2]*memnet.Conn{{a, b}, {b, a}} {
			wrote := async(func() error { _, err := ends[0].Write(sent); return err })
			got := make([]byte, 0, len(sent))
			for k := 1; len(got) < len(sent); k = k%150 + 1 {
				p := make([]byte, k)
				n, err := ends[1].Read(p)
				require.NoError(t, err)
				got = append(got, p[:n]...)
			}
			require.NoError(t, <-wrote)
			require.True(t, bytes.Equal(sent, got))
		}
		require.NoError(t, b.Close())
	})
}

func TestWriteWaitsOnlyWhenFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe(memnet.WithBuffer(10))
		n, err := a.Write(make([]byte, 10))
		require.NoError(t, err)
		require.Equal(t, 10, n)

		more := writeErr(a, 3)
		synctest.Wait()
		require.Empty(t, more, "the buffer is full")
		_, err = io.ReadFull(b, make([]byte, 13))
		require.NoError(t, err)
		require.NoError(t, <-more)
	})
}

func TestConcurrentWritesAreNotMixed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe(memnet.WithBuffer(3))
		const writers, size = 8, 50
		for i := range writers {
			go a.Write(bytes.Repeat([]byte{byte('a' + i)}, size))
		}
		for range writers {
			p := make([]byte, size)
			_, err := io.ReadFull(b, p)
			require.NoError(t, err)
			require.Equal(t, bytes.Repeat(p[:1], size), p)
		}
	})
}

func TestDeadlines(t *testing.T) {
	for _, when := range []string{"before", "while it waits"} {
		t.Run(when, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, _ := memnet.Pipe(memnet.WithBuffer(1))
				_, err := a.Write([]byte("x"))
				require.NoError(t, err)
				start := time.Now()

				if when == "before" {
					require.NoError(t, a.SetDeadline(start.Add(time.Hour)))
				}
				read, wrote := readErr(a), writeErr(a, 1)
				if when != "before" {
					synctest.Wait()
					require.NoError(t, a.SetReadDeadline(start.Add(time.Hour)))
					require.NoError(t, a.SetWriteDeadline(start.Add(time.Hour)))
				}
				require.True(t, isTimeout(<-read))
				require.True(t, isTimeout(<-wrote))
				require.Equal(t, time.Hour, time.Since(start))

				_, err = a.TryWrite([]byte("x"))
				require.True(t, isTimeout(err))
			})
		})
	}
}

func TestDeadlineInThePastEndsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe()
		read := readErr(a)
		synctest.Wait()
		require.NoError(t, a.SetReadDeadline(time.Unix(1, 0)))
		require.True(t, isTimeout(<-read))

		_, err := b.Write([]byte("x"))
		require.NoError(t, err)
		require.True(t, isTimeout(<-readErr(a)), "also with bytes there")
		require.NoError(t, a.SetReadDeadline(time.Time{}))
		require.NoError(t, <-readErr(a))
	})
}

func TestDeadlineThatMovesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := memnet.Pipe()
		start := time.Now()
		require.NoError(t, a.SetReadDeadline(start.Add(time.Second)))
		read := readErr(a)
		synctest.Wait()
		require.NoError(t, a.SetReadDeadline(start.Add(3*time.Second)))
		require.True(t, isTimeout(<-read))
		require.Equal(t, 3*time.Second, time.Since(start))
	})
}

func TestWriteTellsHowMuchItTookBeforeTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := memnet.Pipe(memnet.WithBuffer(4))
		require.NoError(t, a.SetWriteDeadline(time.Now().Add(time.Second)))
		n, err := a.Write(make([]byte, 9))
		require.Equal(t, 4, n)
		require.True(t, isTimeout(err))
	})
}

func TestCloseWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe()
		_, err := a.Write([]byte("last"))
		require.NoError(t, err)
		require.NoError(t, a.CloseWrite())
		_, err = a.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.EPIPE)

		got, err := io.ReadAll(b)
		require.NoError(t, err)
		require.Equal(t, "last", string(got))

		_, err = b.Write([]byte("answer"))
		require.NoError(t, err, "the other direction lives")
		require.NoError(t, b.Close())
		got, err = io.ReadAll(a)
		require.NoError(t, err)
		require.Equal(t, "answer", string(got))
		require.NoError(t, a.Close())
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe()
		_, err := a.Write([]byte("rest"))
		require.NoError(t, err)
		own := readErr(a)
		synctest.Wait()
		require.NoError(t, a.SetDeadline(time.Now().Add(time.Hour)))
		require.NoError(t, a.Close())
		require.ErrorIs(t, <-own, net.ErrClosed)
		_, err = a.Write([]byte("x"))
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = a.TryWrite([]byte("x"))
		require.ErrorIs(t, err, net.ErrClosed)
		require.ErrorIs(t, a.Close(), net.ErrClosed)
		require.ErrorIs(t, a.SetDeadline(time.Time{}), net.ErrClosed)

		_, err = b.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.EPIPE)
		got, err := io.ReadAll(b)
		require.NoError(t, err)
		require.Equal(t, "rest", string(got))
	})
}

func TestCloseReleasesThePeersWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe(memnet.WithBuffer(1))
		wrote := writeErr(b, 2)
		synctest.Wait()
		require.NoError(t, a.Close())
		require.ErrorIs(t, <-wrote, syscall.EPIPE)
	})
}

func TestResetOnClose(t *testing.T) {
	t.Run("bytes unread", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := memnet.Pipe(memnet.WithResetOnClose())
			_, err := b.Write([]byte("unread"))
			require.NoError(t, err)
			_, err = a.Write([]byte("lost"))
			require.NoError(t, err)
			require.NoError(t, a.Close())
			require.ErrorIs(t, <-readErr(b), syscall.ECONNRESET)
		})
	})
	t.Run("bytes later", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := memnet.Pipe(memnet.WithResetOnClose())
			require.NoError(t, a.Close())
			require.NoError(t, <-writeErr(b, 1), "the reset is still on its way")
			require.ErrorIs(t, <-writeErr(b, 1), syscall.ECONNRESET)
			require.ErrorIs(t, <-readErr(b), syscall.ECONNRESET)
		})
	})
	t.Run("nothing unread", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := memnet.Pipe(memnet.WithResetOnClose())
			_, err := a.Write([]byte("x"))
			require.NoError(t, err)
			require.NoError(t, a.Close())
			got, err := io.ReadAll(b)
			require.NoError(t, err)
			require.Equal(t, "x", string(got))
		})
	})
}

func TestTryWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe(memnet.WithBuffer(10), memnet.WithShortWrites(4))
		var took []int
		for range 5 {
			n, err := a.TryWrite([]byte("01234567"))
			require.NoError(t, err)
			took = append(took, n)
		}
		require.Equal(t, []int{4, 4, 2, 0, 0}, took)

		wrote := writeErr(a, 1)
		synctest.Wait()
		_, err := io.ReadFull(b, make([]byte, 1))
		require.NoError(t, err)
		require.NoError(t, <-wrote)
		require.NoError(t, b.Close())
		_, err = a.TryWrite([]byte("x"))
		require.ErrorIs(t, err, syscall.EPIPE)
	})
}

func TestCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe(memnet.WithBuffer(4))
		_, err := a.Write([]byte("lost"))
		require.NoError(t, err)
		wrote, read := writeErr(a, 1), readErr(a)
		synctest.Wait()
		a.Cut()
		for _, err := range []<-chan error{wrote, read, readErr(b), writeErr(b, 1), writeErr(a, 1)} {
			require.ErrorIs(t, <-err, syscall.ECONNRESET)
		}
		require.NoError(t, a.Close())
		require.ErrorIs(t, <-readErr(a), net.ErrClosed)
	})
}

func TestCutAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe()
		_, err := a.Write([]byte("abc"))
		require.NoError(t, err)
		a.CutAfter(5)
		_, err = a.Write([]byte("defg"))
		require.NoError(t, err)
		got, err := io.ReadAll(b)
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.Equal(t, "abcde", string(got))
		require.ErrorIs(t, <-writeErr(a, 1), syscall.ECONNRESET)
	})
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe()
		_, err := b.Write([]byte("abc"))
		require.NoError(t, err)
		a.CutAfterRead(2)
		got, err := io.ReadAll(a)
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.Equal(t, "ab", string(got))
		require.ErrorIs(t, <-writeErr(b, 1), syscall.ECONNRESET)
	})
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe()
		a.CutAfter(1)
		a.CutAfter(-1)
		require.NoError(t, <-writeErr(a, 2))
		_, err := io.ReadFull(b, make([]byte, 2))
		require.NoError(t, err)
		a.CutAfter(0)
		require.ErrorIs(t, <-readErr(b), syscall.ECONNRESET)
	})
}

func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe(memnet.WithBuffer(4))
		b.Stall(true)
		n, err := a.TryWrite([]byte("12345"))
		require.NoError(t, err)
		require.Equal(t, 4, n, "the buffer takes bytes")
		require.NoError(t, a.Close())

		read := async(func() string { p, err := io.ReadAll(b); return fmt.Sprint(string(p), err) })
		require.NoError(t, b.SetWriteDeadline(time.Now().Add(time.Second)))
		require.True(t, isTimeout(<-writeErr(b, 5)), "b has not heard of the close")
		require.Empty(t, read)

		b.Stall(false)
		require.Equal(t, "1234<nil>", <-read)
		require.NoError(t, b.SetWriteDeadline(time.Time{}))
		require.ErrorIs(t, <-writeErr(b, 1), syscall.EPIPE)
	})
}

func TestListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		l := memnet.Listen()
		accept := func() <-chan net.Conn {
			return async(func() net.Conn { c, _ := l.Accept(); return c })
		}
		seen := map[net.Addr]bool{l.Addr(): true, memnet.Listen().Addr(): true}
		require.Len(t, seen, 2, "listeners have addresses of their own")
		for i := range 3 {
			accepted := accept()
			c, err := l.Dial(ctx)
			require.NoError(t, err)
			s := <-accepted
			require.Equal(t, c.LocalAddr(), s.RemoteAddr())
			require.Equal(t, l.Addr(), c.RemoteAddr())
			require.Equal(t, l.Addr(), s.LocalAddr())
			host, port, err := net.SplitHostPort(c.LocalAddr().String())
			require.NoError(t, err)
			require.Equal(t, "198.18.0.0", host)
			require.Equal(t, fmt.Sprint(1025+i), port)
			seen[c.LocalAddr()] = true
			require.Len(t, seen, 3+i)
		}

		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := l.Dial(short)
		require.ErrorIs(t, err, context.DeadlineExceeded, "nobody accepts")

		waiting := async(func() error { _, err := l.Dial(ctx); return err })
		synctest.Wait()
		require.NoError(t, l.Close())
		require.ErrorIs(t, <-waiting, syscall.ECONNREFUSED)
		_, err = l.Dial(ctx)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		_, err = l.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
		require.NoError(t, l.Close())
	})
}

// An http.Server and an http.Client, keep-alives and all, with an hour that passes at once.
func TestHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := memnet.Listen()
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p, _ := io.ReadAll(r.Body)
			fmt.Fprint(w, r.RemoteAddr, " ", len(p))
		})}
		served := async(func() error { return srv.Serve(l) })
		client := &http.Client{Transport: &http.Transport{DialContext: l.DialContext}}

		for range 3 {
			resp, err := client.Post("http://hub/", "", bytes.NewReader(make([]byte, 100_000)))
			require.NoError(t, err)
			p, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, "198.18.0.0:1025 100000", string(p), "one connection for all")
			<-time.After(time.Hour)
		}
		client.CloseIdleConnections()
		require.NoError(t, srv.Shutdown(context.Background()))
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
}
