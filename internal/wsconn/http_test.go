package wsconn

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// echo answers each message with itself, as a hub would: the handler returns after the
// upgrade. "close" closes.
type echo struct {
	o     Options
	wg    sync.WaitGroup
	ended chan error
}

func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, err := Accept(w, r, &e.o)
	if err != nil {
		return
	}
	e.wg.Go(func() {
		for {
			op, p, err := c.Read(context.Background())
			if err != nil {
				c.Finish()
				e.ended <- err
				return
			}
			if string(p) == "close" {
				c.Close(4001, "as you wish")
				continue
			}
			c.Send(NewBatch(NewFrame(op, p)), Disconnect)
		}
	})
}

func TestOverHTTP(t *testing.T) {
	for name, start := range map[string]func(s *httptest.Server){
		"plain": (*httptest.Server).Start,
		"TLS":   (*httptest.Server).StartTLS,
		"plain, net/http with timeouts": func(s *httptest.Server) {
			s.Config.ReadTimeout, s.Config.WriteTimeout = 100*time.Millisecond, 100*time.Millisecond
			s.Start()
		},
		"TLS with HTTP/2 on": func(s *httptest.Server) { s.EnableHTTP2 = true; s.StartTLS() },
	} {
		t.Run(name, func(t *testing.T) {
			onBothPaths(t, func(t *testing.T) {
				e := &echo{ended: make(chan error, 10)}
				e.o.Subprotocols = []string{"chat"}
				s := httptest.NewUnstartedServer(e)
				start(s)
				defer s.Close()
				testEcho(t, e, s.URL, s.Client())
			})
		})
	}
}

func TestBehindAReverseProxy(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		e := &echo{ended: make(chan error, 10)}
		e.o.Origins = []string{"*"}
		e.o.Subprotocols = []string{"chat"}
		s := httptest.NewServer(e)
		defer s.Close()
		u, err := url.Parse(s.URL)
		require.NoError(t, err)
		proxy := httptest.NewServer(httputil.NewSingleHostReverseProxy(u))
		defer proxy.Close()
		testEcho(t, e, proxy.URL, proxy.Client())
	})
}

func testEcho(t *testing.T, e *echo, url string, client *http.Client) {
	dial := func() *ClientConn {
		c, resp, err := Dial(t.Context(), url, DialOptions{HTTPClient: client, Subprotocols: []string{"CHAT"}, ReadLimit: -1})
		require.NoError(t, err)
		require.Equal(t, 101, resp.StatusCode)
		require.Equal(t, "CHAT", c.Subprotocol())
		return c
	}
	c := dial()
	for _, n := range []int{0, 125, 126, 65535, 65536} {
		want := strings.Repeat("x", n)
		require.NoError(t, c.Write(t.Context(), OpText, []byte(want)))
		op, got, err := c.Read(t.Context())
		require.NoError(t, err)
		require.Equal(t, OpText, op)
		require.True(t, want == string(got))
	}
	require.NoError(t, c.Close(1000, "bye"))
	var ce *CloseError
	require.ErrorAs(t, <-e.ended, &ce)
	require.Equal(t, 1000, ce.Code)
	require.Equal(t, "bye", ce.Reason)

	c = dial()
	require.NoError(t, c.Write(t.Context(), OpText, []byte("close")))
	_, _, err := c.Read(t.Context())
	require.ErrorAs(t, err, &ce)
	require.True(t, ce.Remote)
	require.Equal(t, 4001, ce.Code)
	require.Equal(t, "as you wish", ce.Reason)
	c.CloseNow()
	require.ErrorAs(t, <-e.ended, &ce)
	require.Equal(t, 4001, ce.Code)

	c = dial()
	c.CloseNow()
	require.ErrorAs(t, <-e.ended, &ce)
	require.Equal(t, 1006, ce.Code)
	e.wg.Wait()
	client.CloseIdleConnections()
}

func TestPlainRequestOverHTTP(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		s := httptest.NewUnstartedServer(&echo{})
		s.EnableHTTP2 = h2
		s.StartTLS()
		resp, err := s.Client().Get(s.URL + "/room?name=bob")
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, 426, resp.StatusCode)
		require.Equal(t, h2, resp.ProtoMajor == 2)
		require.Contains(t, string(body), "wss://"+s.Listener.Addr().String()+"/room?name=bob")
		s.Close()
	}
}

func TestDialRefused(t *testing.T) {
	s := httptest.NewServer(&echo{})
	defer s.Close()
	_, resp, err := Dial(t.Context(), s.URL, DialOptions{HTTPClient: s.Client(), Header: http.Header{"Origin": {"null"}}})
	require.Error(t, err)
	require.Equal(t, 403, resp.StatusCode)
	_, resp, err = Dial(t.Context(), "ftp://x", DialOptions{})
	require.Error(t, err)
	require.Nil(t, resp)
}

// The request and the first frame in one segment, through net/http itself.
func TestOneSegmentOverHTTP(t *testing.T) {
	e := &echo{ended: make(chan error, 1)}
	s := httptest.NewServer(e)
	defer s.Close()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n%s%s",
		maskedFrame(0x81, "hello"), maskedFrame(0x88, ""))
	p := &peer{conn, bufio.NewReader(conn)}
	_, err = http.ReadResponse(p.r, nil)
	require.NoError(t, err)
	p.expect(t, text("hello"), frame{8, ""})
	p.expectEOF(t)
	conn.Close()
	<-e.ended
	e.wg.Wait()
}

// Connections outlive the server's Shutdown: they are not net/http's any more.
func TestShutdownOfTheHTTPServer(t *testing.T) {
	e := &echo{ended: make(chan error, 1)}
	s := httptest.NewServer(e)
	c, _, err := Dial(t.Context(), s.URL, DialOptions{})
	require.NoError(t, err)
	require.NoError(t, s.Config.Shutdown(t.Context()))
	s.Close()
	require.NoError(t, c.Write(t.Context(), OpText, []byte("still here")))
	_, p, err := c.Read(t.Context())
	require.NoError(t, err)
	require.Equal(t, "still here", string(p))
	require.NoError(t, c.Close(1000, ""))
	<-e.ended
	e.wg.Wait()
}

// Over TLS nothing waits for a peer that does not read, Abort least of all.
func TestStalledPeerOverTLS(t *testing.T) {
	c, p := tlsPair(t, &Options{QueueBytes: 64 << 20})
	r := startReader(t, c)
	b := batch(strings.Repeat("x", 1<<20))
	for range 32 { // more than the kernel's buffers hold
		require.NoError(t, c.Send(b, Disconnect))
	}
	p.expect(t, text(strings.Repeat("x", 1<<20)))
	c.Ping()
	c.Abort()
	require.Equal(t, 1006, r.closed(t).Code)
	_, err := p.rest()
	require.Error(t, err)
	p.Close()
}
