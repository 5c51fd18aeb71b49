package wsconn

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chathub-go/hub/internal/memnet"
	"github.com/stretchr/testify/require"
)

// After both close frames there is nothing to wait for: the server closes first, also
// where the peer keeps its side open, and where a reset would destroy the close frame.
func TestServerClosesFirst(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		for name, after := range map[string]string{
			"nothing after":      "",
			"bytes after":        strings.Repeat("after the close frame", 150),
			"another close":      string(maskedFrame(0x88, "\x03\xe9")),
			"no frame at all":    "\xff\xff",
			"a ping after it":    string(maskedFrame(0x89, "too late")),
			"a message after it": string(maskedFrame(0x81, "too late")),
		} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, p := memPair(t, &Options{}, memnet.WithResetOnClose())
					r := startReader(t, c)
					start := time.Now()
					_, err := p.Write([]byte(string(maskedFrame(0x88, "\x03\xe8bye")) + after))
					require.NoError(t, err)
					require.Equal(t, &CloseError{Code: 1000, Reason: "bye", Remote: true, Err: r.closed(t).Err}, r.closed(t))
					require.LessOrEqual(t, time.Since(start), drainWait)
					p.expect(t, closing(1000, ""))
					p.expectEOF(t)
				})
			})
		}
	})
}

// The same over TCP, where the test's time limit is below CloseTimeout. Bytes of the peer
// that nobody read would have reset the connection, and its next write would fail.
func TestServerClosesFirstOverTCP(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		for name, pair := range map[string]func(testing.TB, *Options) (*Conn, *peer){"TCP": tcpPair, "TLS": tlsPair} {
			for _, after := range []int{0, 20_000} {
				t.Run(fmt.Sprintf("%s, %d bytes after it", name, after), func(t *testing.T) {
					c, p := pair(t, &Options{CloseTimeout: 24 * time.Hour})
					_, err := p.Write([]byte(string(maskedFrame(0x88, "\x0f\xa0")) + strings.Repeat("x", after)))
					require.NoError(t, err)
					require.Equal(t, 4000, startReader(t, c).closed(t).Code)
					p.expect(t, closing(4000, ""))
					p.expectEOF(t)
					_, err = p.Write([]byte("x"))
					require.NoError(t, err)
				})
			}
		}
	})
}

// The queue goes out before the close frame also where the peer has sent its own, and a
// peer that takes none of it is waited for until WriteTimeout.
func TestServerClosesFirstAfterTheQueue(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := memPair(t, &Options{}, memnet.WithBuffer(200), memnet.WithResetOnClose())
			r := startReader(t, c)
			long := strings.Repeat("x", 2000)
			require.NoError(t, c.Send(batch(long), Disconnect))
			p.send(t, 8, "\x03\xe8")
			<-time.After(5 * time.Second)
			p.send(t, 1, "after it")
			start := time.Now()
			p.expect(t, text(long), closing(1000, ""))
			p.expectEOF(t)
			require.Equal(t, 1000, r.closed(t).Code)
			require.LessOrEqual(t, time.Since(start), drainWait)

			c, p = memPair(t, &Options{}, memnet.WithBuffer(200))
			r = startReader(t, c)
			require.NoError(t, c.Send(batch(long), Disconnect))
			p.send(t, 8, "\x03\xe8")
			start = time.Now()
			require.Equal(t, 1000, r.closed(t).Code)
			require.LessOrEqual(t, time.Since(start), defaultWriteTimeout)
			_, err := p.rest()
			require.Equal(t, io.ErrUnexpectedEOF, err)
		})
	})
}

// A close frame that we refuse is the peer's close frame all the same.
func TestServerClosesFirstOnABadReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := memPair(t, &Options{})
		r := startReader(t, c)
		start := time.Now()
		p.send(t, 8, "\x03\xe8\xff")
		p.expect(t, closing(1007, "close reason is not UTF-8"))
		p.expectEOF(t)
		require.Equal(t, 1007, r.closed(t).Code)
		require.LessOrEqual(t, time.Since(start), drainWait)
	})
}
