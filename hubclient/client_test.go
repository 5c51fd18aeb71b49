package hubclient_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/hubclient"
	"github.com/chathub-go/hub/internal/leaktest"
	"github.com/chathub-go/hub/internal/memnet"
)

func TestMain(m *testing.M) {
	os.Exit(leaktest.Run(m))
}

var background = context.Background()

// A world is a hub behind a real net/http server on a network in memory, in a bubble.
type world struct {
	t    *testing.T
	hub  *hub.Hub
	net  *memnet.Listener
	srv  *http.Server
	http *http.Client

	dials atomic.Int32
	mu    sync.Mutex     // guards conns
	conns []*memnet.Conn // the clients' ends
}

func inBubble(t *testing.T, f func(w *world), opts ...hub.HubOption) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(newWorld(t, opts...))
	})
}

// newWorld is called in a bubble.
func newWorld(t *testing.T, opts ...hub.HubOption) *world {
	w := &world{t: t}
	w.http = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: w.dialContext}}
	w.start(opts...)
	t.Cleanup(w.stop)
	return w
}

func (w *world) dialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	w.dials.Add(1)
	w.mu.Lock()
	l := w.net
	w.mu.Unlock()
	c, err := l.Dial(ctx)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = append(w.conns, c.(*memnet.Conn))
	return c, nil
}

// start serves a new hub in place of the one before, which is shut down.
func (w *world) start(opts ...hub.HubOption) {
	if w.hub != nil {
		w.stop()
	}
	opts = append([]hub.HubOption{hub.WithLogger(slog.New(slog.DiscardHandler))}, opts...)
	w.hub = hub.New(opts...)
	w.serve(w.hub)
}

func (w *world) serve(h http.Handler) {
	mux := http.NewServeMux()
	mux.Handle("/room/{room}", h)
	l := memnet.Listen()
	w.mu.Lock()
	w.net = l
	w.mu.Unlock()
	srv := &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0)}
	w.srv = srv
	go func() { _ = srv.Serve(l) }()
}

func (w *world) stop() {
	require.NoError(w.t, w.hub.Shutdown(background))
	_ = w.srv.Close()
}

// cut breaks every connection.
func (w *world) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		c.Cut()
	}
	w.conns = nil
}

// last is the client's end of the newest connection.
func (w *world) last() *memnet.Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.conns[len(w.conns)-1]
}

func (w *world) dial(opts ...hubclient.Option) *hubclient.Client {
	w.t.Helper()
	c, err := w.tryDial("ws://hub.test/room/lobby", opts...)
	require.NoError(w.t, err)
	return c
}

func (w *world) tryDial(url string, opts ...hubclient.Option) (*hubclient.Client, error) {
	ctx, cancel := context.WithTimeout(background, time.Minute)
	defer cancel()
	c, err := hubclient.Dial(ctx, url, append([]hubclient.Option{hubclient.WithHTTPClient(w.http)}, opts...)...)
	if err == nil {
		w.t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

// until returns the next event of that type.
func until(t *testing.T, c *hubclient.Client, typ hubclient.EventType) hubclient.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(background, 2*time.Hour)
	defer cancel()
	for {
		e, err := c.Next(ctx)
		require.NoError(t, err, "no %v came", typ)
		if e.Type == typ {
			return e
		}
	}
}

// texts returns the next n messages.
func texts(t *testing.T, c *hubclient.Client, n int) (list []string) {
	t.Helper()
	for range n {
		list = append(list, until(t, c, hubclient.EventMessage).Message.Text())
	}
	return list
}

// numbers are the texts from first to last.
func numbers(first, last int) (list []string) {
	for i := first; i <= last; i++ {
		list = append(list, fmt.Sprint(i))
	}
	return list
}

func publish(t *testing.T, c *hubclient.Client, text string) hubclient.Receipt {
	t.Helper()
	ctx, cancel := context.WithTimeout(background, time.Hour)
	defer cancel()
	r, err := c.Publish(ctx, hubclient.Text(text))
	require.NoError(t, err)
	return r
}

func TestPublish(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.dial(hubclient.WithName("alice"))
		require.Equal(t, "alice", until(t, alice, hubclient.EventJoined).Member.Name, "one's own")
		bob := w.dial(hubclient.WithName("bob"))
		require.Equal(t, "alice", alice.Name())
		require.Equal(t, "lobby", alice.Room())
		require.Equal(t, []string{"lobby"}, alice.Rooms())
		hi := until(t, bob, hubclient.EventWelcome)
		require.Equal(t, "lobby", hi.Room)
		require.Equal(t, hubclient.RecoveryNew, hi.Welcome.Recovery)
		require.Equal(t, "alice", hi.Welcome.Members[0].Name)
		require.Equal(t, bob.User(), hi.Welcome.User)
		require.Equal(t, bob.Session(), hi.Welcome.Session)
		require.Equal(t, "bob", until(t, alice, hubclient.EventJoined).Member.Name)

		for _, m := range []hubclient.Message{
			hubclient.Text("hello \u2028 \"you\""), hubclient.Text(""), hubclient.JSON([]byte(`{"n": 12345678901234567890}`)),
			hubclient.JSON([]byte("null")), hubclient.Binary([]byte{0, 255}), hubclient.Binary([]byte{}),
		} {
			m.Key = "k"
			r, err := alice.Publish(background, m)
			require.NoError(t, err)
			got := until(t, bob, hubclient.EventMessage).Message
			require.Equal(t, m.Kind, got.Kind)
			if m.Kind == broker.KindJSON {
				m.Data = bytes.ReplaceAll(m.Data, []byte(" "), nil)
			}
			require.Equal(t, string(m.Data), string(got.Data))
			require.Equal(t, "k", got.Key)
			require.Equal(t, broker.Member{Client: hi.Welcome.Members[0].Client, User: alice.User(), Name: "alice"},
				broker.Member{User: got.From.User, Name: got.From.Name})
			require.Equal(t, hubclient.Receipt{ID: got.ID, Room: "lobby", Seq: got.Seq, Cursor: got.Cursor, Reached: -1}, r)
		}
	})
}

// TestErrorsTellNoSecret: what a bot logs does not let others be it.
func TestErrorsTellNoSecret(t *testing.T) {
	inBubble(t, func(w *world) {
		c := w.dial(hubclient.WithBackoff(every(time.Second)))
		w.stop()
		w.mu.Lock()
		require.NoError(t, w.net.Close())
		w.mu.Unlock()
		until(t, c, hubclient.EventDisconnected) // of the connection
		e := until(t, c, hubclient.EventDisconnected)
		require.ErrorContains(t, e.Err, "hubclient: dial: ")
		require.NotContains(t, e.Err.Error(), c.Session())
		require.NotContains(t, e.Err.Error(), "since=")
		w.start()
	})
}
