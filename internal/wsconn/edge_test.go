package wsconn

import (
	"context"
	"io"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Clients that begin a ping and leave when nhooyr's five seconds for it are over, while their
// room talks: its goroutine closes the reader that is just being taken back.
func TestPingThatIsNeverWhole(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			var readers Readers
			defer readers.Close()
			b := batch("hello")
			for range 50 {
				c, p := memPair(t, &Options{Readers: &readers})
				go func() {
					_, _, err := c.Read(context.Background())
					if err == nil {
						t.Error("half a ping is no message")
					}
					c.Finish()
				}()
				_, err := p.Write([]byte{0x89, 0xFD, 1, 2, 3, 4, 'x'})
				require.NoError(t, err)
				synctest.Wait()
				for range 2 {
					go func() {
						<-time.After(5 * time.Second)
						for range 20 {
							_ = c.Send(b, DropOldest)
						}
					}()
				}
				go func() {
					<-time.After(5 * time.Second)
					p.Close()
				}()
			}
			<-time.After(time.Minute)
		})
	}
}

// A tryHook is a socket that takes 3 bytes at a time, and during the first calls.
type tryHook struct {
	c      *Conn
	during func()
}

func (h *tryHook) TryWrite(p []byte) (int, error) {
	n, err := h.c.conn.Write(p[:min(3, len(p))])
	if f := h.during; f != nil {
		h.during = nil
		f()
	}
	return n, err
}

// A ping that comes while a part of the close frame is written is not answered: nothing
// follows the close frame.
func TestNoPongAfterClose(t *testing.T) {
	c, p := tcpPair(t, &Options{})
	c.try = &tryHook{c, func() { c.sendPong([]byte{0x8A, 0}); c.Ping() }}
	r := startReader(t, c)
	c.Close(1000, "goodbye")
	all, err := p.rest()
	require.Equal(t, io.EOF, err)
	require.Len(t, all, 1)
	require.Equal(t, closing(1000, "goodbye"), all[0])
	p.Close()
	<-r.done
}

// Whoever looked at the descriptor with File().Fd() has made the socket a blocking one; Send
// does not block all the same.
func TestSendToABlockingSocket(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("it takes MSG_DONTWAIT")
	}
	onBothPaths(t, func(t *testing.T) {
		server, client := tcpConns(t)
		f, err := server.File()
		require.NoError(t, err)
		f.Fd()
		require.NoError(t, f.Close())
		c, _ := accept(t, server, client, &Options{})
		b := batch(string(make([]byte, 60_000)))
		for range 400 { // 24 MB, more than the kernel takes
			_ = c.Send(b, DropOldest)
		}
		frames, _ := c.Queued()
		require.NotZero(t, frames, "the socket was never full")
	})
}
