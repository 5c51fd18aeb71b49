package hub_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/internal/leaktest"
	"github.com/chathub-go/hub/internal/memnet"
	"github.com/chathub-go/hub/internal/wsconn"
)

func TestMain(m *testing.M) {
	os.Exit(leaktest.Run(m))
}

// quiet is a logger for hubs that are expected to complain.
var quiet = slog.New(slog.DiscardHandler)

// A world is a hub behind a real net/http server on a network in memory, inside a
// bubble with a clock of its own.
type world struct {
	t   *testing.T
	hub *hub.Hub
	net *memnet.Listener
	srv *http.Server
	dev *http.Client

	mu    sync.Mutex // guards peers
	peers []*peer
}

// inBubble runs a test with a hub on the path /room/{room}; at its end the hub is shut
// down, and the bubble fails the test if a goroutine is left.
func inBubble(t *testing.T, f func(w *world), opts ...hub.HubOption) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, hub.New(opts...), nil)
		t.Cleanup(w.close) // also where the test fails
		f(w)
	})
}

// newWorld serves rooms by handler; nil is the hub itself.
func newWorld(t *testing.T, h *hub.Hub, handler http.Handler) *world {
	if handler == nil {
		handler = h
	}
	mux := http.NewServeMux()
	mux.Handle("/room/{room}", handler)
	l := memnet.Listen()
	w := &world{t: t, hub: h, net: l, srv: &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0)}}
	go func() { _ = w.srv.Serve(l) }()
	w.dev = &http.Client{Transport: &http.Transport{DialContext: w.net.DialContext, DisableKeepAlives: true}}
	return w
}

func (w *world) close() {
	if w.t.Failed() {
		for _, p := range w.peers {
			p.cut() // no reason to wait for them
		}
	}
	if err := w.hub.Shutdown(context.Background()); err != nil {
		w.t.Errorf("shutdown: %v", err)
	}
	_ = w.srv.Close()
	for _, p := range w.peers {
		p.ws.CloseNow()
	}
	w.dev.CloseIdleConnections()
}

// A peer is a client's end.
type peer struct {
	t    *testing.T
	ws   *wsconn.ClientConn
	raw  *memnet.Conn
	json bool
}

// plain connects to a room of the plain door; query is name=alice and so on.
func (w *world) plain(room, query string) *peer {
	w.t.Helper()
	return w.dial(room, query, false)
}

// json connects to a room by hub.v1.json.
func (w *world) json(room, query string) *peer {
	w.t.Helper()
	return w.dial(room, query, true)
}

func (w *world) dial(room, query string, json bool) *peer {
	w.t.Helper()
	p, err := w.tryDial(room, query, json)
	require.NoError(w.t, err)
	return p
}

func (w *world) tryDial(room, query string, json bool) (*peer, error) {
	return w.dialWith(room, query, json, false)
}

func (w *world) dialWith(room, query string, json, compress bool) (*peer, error) {
	p := &peer{t: w.t, json: json}
	o := wsconn.DialOptions{Compress: compress}
	if json {
		o.Subprotocols = []string{"hub.v1.json"}
	}
	o.HTTPClient = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := w.net.Dial(ctx)
			if err == nil {
				p.raw = c.(*memnet.Conn)
			}
			return c, err
		},
	}}
	var err error
	p.ws, _, err = wsconn.Dial(context.Background(), "ws://hub.test/room/"+url.PathEscape(room)+"?"+query, o)
	if err == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.peers = append(w.peers, p)
	}
	return p, err
}

// An event is any event of the JSON door; fields that it lacks are zero.
type event struct {
	Type, Room, ID, Cursor, Recovery, Code, Reason, Message string
	Key                                                     string
	Session, User, Name, Client                             string
	Seq, Prev, After, Before                                uint64
	Missed, Reached                                         *int
	Members                                                 []hub.Member
	MemberCount                                             int `json:"member_count"`
	Count                                                   int
	Member, From                                            hub.Member
	To                                                      struct{ User, Client string }
	Data                                                    json.RawMessage
	DataBase64                                              []byte `json:"data_base64"`
	Duplicate, On, More                                     bool
	RetryAfterMS                                            int64 `json:"retry_after_ms"`
	ReconnectAfterMS                                        int64 `json:"reconnect_after_ms"`
	Messages                                                []event
	Limits                                                  map[string]float64
}

// text is an event's data where that is a string.
func (e event) text() string {
	var s string
	if json.Unmarshal(e.Data, &s) != nil {
		return string(e.Data)
	}
	return s
}

const patience = time.Hour // of the bubble's clock

// elapse lets the bubble's clock go on.
func elapse(d time.Duration) { <-time.After(d) }

func (p *peer) read() (wsconn.Opcode, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	op, b, err := p.ws.Read(ctx)
	return op, string(b), err
}

// line returns the next text frame.
func (p *peer) line() string {
	p.t.Helper()
	op, s, err := p.read()
	require.NoError(p.t, err)
	require.Equal(p.t, wsconn.OpText, op, "a text frame")
	return s
}

// event returns the next event.
func (p *peer) event() event {
	p.t.Helper()
	var e event
	line := p.line()
	require.NoError(p.t, json.Unmarshal([]byte(line), &e), line)
	return e
}

// until returns the next event of that type, and skips others.
func (p *peer) until(typ string) event {
	p.t.Helper()
	for {
		if e := p.event(); e.Type == typ {
			return e
		}
	}
}

func (p *peer) send(s string) {
	p.t.Helper()
	require.NoError(p.t, p.ws.Write(context.Background(), wsconn.OpText, []byte(s)))
}

func (p *peer) sendf(format string, args ...any) { p.t.Helper(); p.send(fmt.Sprintf(format, args...)) }

// leave says goodbye.
func (p *peer) leave() {
	p.t.Helper()
	_ = p.ws.Close(1000, "")
}

// cut loses the connection without a word.
func (p *peer) cut() {
	p.raw.Cut()
	p.ws.CloseNow()
}

// closed reads until the connection ends, and returns the close frame's code, 1006 for none.
func (p *peer) closed() *wsconn.CloseError {
	p.t.Helper()
	for {
		if _, _, err := p.read(); err != nil {
			var ce *wsconn.CloseError
			require.ErrorAs(p.t, err, &ce)
			p.ws.CloseNow()
			return ce
		}
	}
}

func TestPlainDoor(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.plain("lobby", "name=alice")
		require.Equal(t, "* alice joined", alice.line())
		bob := w.plain("lobby", "name=bob")
		require.Equal(t, "* bob joined", bob.line())
		require.Equal(t, "* bob joined", alice.line())

		alice.send("hello")
		require.Equal(t, "alice: hello", alice.line(), "the sender too")
		require.Equal(t, "alice: hello", bob.line())

		bob.send("one\nalice: two")
		require.Equal(t, "bob: one\n    alice: two", alice.line(), "nobody can forge a line")

		require.NoError(t, bob.ws.Write(context.Background(), wsconn.OpBinary, []byte{0xff, 0}))
		op, p, err := alice.read()
		require.NoError(t, err)
		require.Equal(t, wsconn.OpBinary, op)
		require.Equal(t, "\xff\x00", p)

		bob.leave()
		require.Equal(t, "* bob left", alice.line())
		alice.leave()
	})
}

func TestJSONDoor(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.json("lobby", "name=alice")
		hi := alice.event()
		require.Equal(t, "welcome", hi.Type)
		require.Equal(t, "alice", hi.Name)
		require.Equal(t, "lobby", hi.Room)
		require.Equal(t, "new", hi.Recovery)
		require.NotEmpty(t, hi.Session)
		require.Equal(t, "joined", alice.event().Type, "one's own joined follows the welcome")

		alice.send(`{"type":"publish","id":"1","data":{"n":12345678901234567890}}`)
		msg, ack := alice.event(), alice.event()
		if msg.Type == "ack" { // an ack may come before or after one's own copy
			msg, ack = ack, msg
		}
		require.Equal(t, "message", msg.Type)
		require.Equal(t, `{"n":12345678901234567890}`, string(msg.Data))
		require.Equal(t, "ack", ack.Type)
		require.Equal(t, msg.Seq, ack.Seq)
		require.Equal(t, msg.Cursor, ack.Cursor)
		require.Equal(t, hi.Client, msg.From.Client)
		alice.leave()
	})
}

// talk publishes n texts as a client of the JSON door and waits for the acks.
func (p *peer) talk(prefix string, n int) {
	p.t.Helper()
	for i := range n {
		p.sendf(`{"type":"publish","id":"%s%d","data":"%s%d"}`, prefix, i, prefix, i)
		p.until("ack")
	}
}

// publish lets the service publish n texts.
func (w *world) publish(room, prefix string, n int) {
	w.t.Helper()
	r, err := w.hub.Room(room)
	require.NoError(w.t, err)
	for i := range n {
		_, err := r.Publish(context.Background(), hub.Text(fmt.Sprint(prefix, i)))
		require.NoError(w.t, err)
	}
}

// enter is a client of the JSON door that has read its welcome and its own joined.
func (w *world) enter(room, query string) (*peer, event) {
	w.t.Helper()
	p := w.json(room, query)
	hi := p.event()
	require.Equal(w.t, "welcome", hi.Type)
	for !strings.Contains(query, "session=") {
		if e := p.event(); e.Type == "joined" && e.Member.User == hi.User {
			break
		}
	}
	return p, hi
}

// Promise: order.
func TestOrderWhileOthersComeAndGo(t *testing.T) {
	const publishers, each, guests = 4, 500, 200
	inBubble(t, func(w *world) {
		steady, _ := w.enter("lobby", "name=steady")
		var wg sync.WaitGroup
		room, err := w.hub.Room("lobby")
		require.NoError(t, err)
		for i := range publishers {
			wg.Go(func() {
				for n := range each {
					if _, err := room.Publish(context.Background(), hub.Text(fmt.Sprintf("%d %d", i, n))); err != nil {
						t.Errorf("publish: %v", err)
					}
					elapse(time.Millisecond)
				}
			})
		}
		for i := range guests {
			wg.Go(func() {
				elapse(time.Duration(i) * 2 * time.Millisecond)
				p, err := w.tryDial("lobby", fmt.Sprintf("name=g%d", i), i%2 == 0)
				if err != nil {
					t.Errorf("dial: %v", err)
					return
				}
				_, _, _ = p.read()
				if i%3 == 0 {
					p.cut()
				} else {
					p.leave()
				}
			})
		}
		var next [publishers]int
		var seq uint64
		for got := 0; got < publishers*each; {
			e := steady.event()
			if e.Type != "message" {
				continue
			}
			got++
			require.Equal(t, seq, e.Prev, "no hole")
			require.Greater(t, e.Seq, seq)
			seq = e.Seq
			var from, n int
			_, err := fmt.Sscan(e.text(), &from, &n)
			require.NoError(t, err)
			require.Equal(t, next[from], n, "a publisher's messages in its order, each once")
			next[from]++
		}
		wg.Wait()
		steady.leave()
	})
}

// Promise: once.
func TestOnceUnderOneID(t *testing.T) {
	inBubble(t, func(w *world) {
		alice, hi := w.enter("lobby", "name=alice")
		alice.send(`{"type":"publish","id":"a","data":"hello"}`)
		first := alice.until("ack")
		require.False(t, first.Duplicate)

		// The ack was lost, says the client, on another connection of its session.
		alice.cut()
		again, _ := w.enter("lobby", "name=alice&session="+hi.Session)
		again.send(`{"type":"publish","id":"a","data":"hello"}`)
		second := again.until("ack")
		require.True(t, second.Duplicate)
		require.Equal(t, first.Cursor, second.Cursor)

		again.send(`{"type":"publish","id":"a","data":"another"}`)
		require.Equal(t, "id_reused", again.until("error").Code)

		// Another guest can't use up the id, whatever it is called.
		mallory, _ := w.enter("lobby", "name=alice")
		mallory.send(`{"type":"publish","id":"a","data":"mine"}`)
		require.False(t, mallory.until("ack").Duplicate)

		room, _ := w.hub.Room("lobby")
		kept, err := room.History(context.Background(), 0, 100)
		require.NoError(t, err)
		require.Len(t, kept, 2)
		again.leave()
		mallory.leave()
	})
}

// Promise: resume with a verdict.
func TestResume(t *testing.T) {
	tests := map[string]struct {
		missed   int
		away     time.Duration
		verdict  string
		received []string
		gap      [2]uint64
	}{
		"recovered":            {missed: 3, verdict: "recovered", received: []string{"m0", "m1", "m2"}},
		"exactly what is kept": {missed: 5, verdict: "recovered", received: []string{"m0", "m1", "m2", "m3", "m4"}},
		"gap":                  {missed: 7, verdict: "gap", received: []string{"m2", "m3", "m4", "m5", "m6"}, gap: [2]uint64{1, 4}},
		"silent room":          {missed: 0, away: 20 * time.Minute, verdict: "recovered"},
		"idle room":            {missed: 2, away: 5 * time.Minute, verdict: "recovered", received: []string{"m0", "m1"}},
		"all aged out":         {missed: 2, away: 3 * time.Hour, verdict: "gap", gap: [2]uint64{1, 4}},
		"silent, and aged out": {missed: 0, away: 3 * time.Hour, verdict: "recovered"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				alice, hi := w.enter("lobby", "name=alice")
				w.publish("lobby", "before", 1)
				last := alice.until("message")
				alice.cut()
				synctest.Wait()
				w.publish("lobby", "m", tt.missed)
				elapse(tt.away)

				back := w.json("lobby", "name=alice&session="+hi.Session+"&since="+last.Cursor)
				welcome := back.event()
				require.Equal(t, tt.verdict, welcome.Recovery)
				if tt.verdict == "gap" {
					gap := back.event()
					require.Equal(t, "gap", gap.Type)
					require.Equal(t, tt.gap, [2]uint64{gap.After, gap.Before})
					require.Equal(t, int(gap.Before-gap.After-1), *gap.Missed)
				}
				for _, want := range tt.received {
					e := back.until("message")
					require.Equal(t, want, e.text())
				}
				w.publish("lobby", "live", 1)
				require.Equal(t, "live0", back.until("message").text(), "then what is new, once")
				back.leave()
			}, hub.WithHistory(5, time.Hour))
		})
	}
}

func TestResumeOfAnotherHistoryIsReset(t *testing.T) {
	var cursor string
	inBubble(t, func(w *world) {
		alice, _ := w.enter("lobby", "name=alice")
		w.publish("lobby", "old", 3)
		for range 3 {
			cursor = alice.until("message").Cursor
		}
		alice.leave()
	})
	inBubble(t, func(w *world) {
		w.publish("lobby", "new", 2)
		alice := w.json("lobby", "name=alice&since="+cursor)
		require.Equal(t, "reset", alice.event().Recovery)
		require.Equal(t, "new0", alice.until("message").text(), "then like a first join")
		require.Equal(t, "new1", alice.until("message").text())
		alice.leave()
	})
}

// A resume of many pages into a room that is busy all the time.
func TestResumeIntoABusyRoom(t *testing.T) {
	inBubble(t, func(w *world) {
		alice, hi := w.enter("lobby", "name=alice")
		w.publish("lobby", "x", 1)
		at := alice.until("message")
		alice.cut()
		w.publish("lobby", "x", 1000)
		synctest.Wait() // the room is not that far behind when it is back

		stop := make(chan struct{})
		var busy sync.WaitGroup
		room, err := w.hub.Room("lobby")
		require.NoError(t, err)
		busy.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Microsecond):
					if _, err := room.Publish(context.Background(), hub.Text("busy")); err != nil {
						t.Errorf("publish: %v", err)
						return
					}
				}
			}
		})
		back := w.json("lobby", "name=alice&session="+hi.Session+"&since="+at.Cursor)
		welcome := back.event()
		require.Equal(t, "recovered", welcome.Recovery, "%+v", welcome)
		seq := at.Seq
		for range 3000 {
			e := back.until("message")
			require.Equal(t, seq, e.Prev, "each once, in order, without a hole")
			seq = e.Seq
		}
		close(stop)
		busy.Wait()
		back.leave()
	}, hub.WithHistory(100_000, time.Hour))
}

func TestFirstJoinGetsTheLastMessages(t *testing.T) {
	inBubble(t, func(w *world) {
		w.publish("lobby", "m", 30)
		alice := w.json("lobby", "name=alice&history=3")
		hi := alice.event()
		require.Equal(t, uint64(27), hi.Seq, "the stream begins before the first message")
		for _, want := range []string{"m27", "m28", "m29"} {
			require.Equal(t, want, alice.until("message").text())
		}
		// Cut right after its welcome, it loses nothing of that.
		again := w.json("lobby", "since="+hi.Cursor)
		require.Equal(t, "recovered", again.event().Recovery)
		require.Equal(t, "m27", again.until("message").text())

		n := 0
		for bob := w.json("lobby", "name=bob"); ; n++ {
			if e := bob.event(); e.Type == "message" && e.text() == "m29" {
				bob.leave()
				break
			}
		}
		require.Equal(t, 20, n, "welcome, then 20 by default")
		carol := w.plain("lobby", "name=carol&history=1")
		require.Equal(t, "* m29", carol.line())
		for _, p := range []*peer{alice, again, carol} {
			p.leave()
		}
	})
}

func TestResumeWindow(t *testing.T) {
	inBubble(t, func(w *world) {
		bob, _ := w.enter("lobby", "name=bob")
		alice, hi := w.enter("lobby", "name=alice")
		require.Equal(t, "alice", bob.until("joined").Member.Name)

		// Back in time: nobody notices.
		alice.cut()
		elapse(9 * time.Second)
		alice, hi = w.enter("lobby", "name=alice&session="+hi.Session)
		require.Equal(t, 2, hi.MemberCount)
		elapse(15 * time.Second)
		w.publish("lobby", "mark", 1)
		require.Equal(t, "message", bob.event().Type, "neither left nor joined")

		// Three tabs are one member.
		tabs := []*peer{alice}
		for range 2 {
			p, _ := w.enter("lobby", "name=alice&session="+hi.Session)
			tabs = append(tabs, p)
		}
		for _, p := range tabs {
			p.leave()
		}
		left := bob.event()
		require.Equal(t, "left", left.Type)
		require.Equal(t, hi.User, left.Member.User)
		require.Empty(t, left.Reason, "it said goodbye")

		// Not back in time.
		carol, _ := w.enter("lobby", "name=carol")
		require.Equal(t, "joined", bob.event().Type)
		carol.cut()
		start := time.Now()
		left = bob.event()
		require.Equal(t, "left", left.Type)
		require.Equal(t, "lost", left.Reason)
		require.GreaterOrEqual(t, time.Since(start), 9*time.Second)

		// A plain client can't resume, so it has left at once.
		dave := w.plain("lobby", "name=dave")
		require.Equal(t, "joined", bob.event().Type)
		dave.cut()
		start = time.Now()
		require.Equal(t, "left", bob.event().Type)
		require.Less(t, time.Since(start), time.Second)
		bob.leave()
	})
}

func TestSilentClientsArePingedThenDropped(t *testing.T) {
	inBubble(t, func(w *world) {
		bob, _ := w.enter("lobby", "name=bob")
		alice, _ := w.enter("lobby", "name=alice")
		require.Equal(t, "joined", bob.until("joined").Type)
		read := make(chan event, 10)
		go func() { // a client that reads answers pings
			for {
				_, s, err := bob.read()
				if err != nil {
					close(read)
					return
				}
				var e event
				_ = json.Unmarshal([]byte(s), &e)
				read <- e
			}
		}()
		alice.raw.Stall(true) // alice is cut off without anyone being told
		start := time.Now()
		left := <-read
		require.Equal(t, "left", left.Type)
		require.Equal(t, "lost", left.Reason)
		require.InDelta(t, 70, time.Since(start).Seconds(), 5, "60 s of silence and the resume window")
		elapse(patience / 2)
		require.Equal(t, 1, w.hub.Stats().Clients, "bob answers pings")
		alice.ws.CloseNow()
		bob.leave()
		<-read
	})
}

// raw is a connection to a room's plain door after the handshake, which does nothing by itself.
func (w *world) raw(room string) (*memnet.Conn, *bufio.Reader) {
	w.t.Helper()
	c, err := w.net.Dial(context.Background())
	require.NoError(w.t, err)
	_, err = fmt.Fprintf(c, "GET /room/%s HTTP/1.1\r\nHost: hub.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", room)
	require.NoError(w.t, err)
	r := bufio.NewReaderSize(c, 256)
	resp, err := http.ReadResponse(r, nil)
	require.NoError(w.t, err)
	require.Equal(w.t, http.StatusSwitchingProtocols, resp.StatusCode)
	return c.(*memnet.Conn), r
}

func TestPingsAreSpread(t *testing.T) {
	const clients = 1000
	inBubble(t, func(w *world) {
		start := time.Now()
		var mu sync.Mutex
		moments := map[time.Duration]int{}
		var pinged sync.WaitGroup
		for range clients {
			c, r := w.raw("lobby")
			pinged.Go(func() {
				defer c.Close()
				var head [2]byte
				if _, err := io.ReadFull(r, head[:]); err != nil || head != [2]byte{0x89, 0} {
					t.Errorf("got %x, %v, want a ping", head, err)
				}
				mu.Lock()
				defer mu.Unlock()
				moments[time.Since(start)]++
			})
		}
		require.Zero(t, time.Since(start), "they came in one moment")
		pinged.Wait()
		for at, n := range moments {
			require.LessOrEqual(t, n, clients/10, "pings at %v", at)
			require.LessOrEqual(t, at, 30*time.Second)
			require.Greater(t, at, 26*time.Second)
		}
	}, hub.WithTextFormat(hub.RawText()))
}

// A client at rest costs one goroutine, its reader. Those of nhooyr's are lent to who is in
// the middle of a message, and few are kept.
func TestClientsAtRestCostOneGoroutineEach(t *testing.T) {
	const clients, kept = 200, 64
	// NumGoroutine takes those for alive that ended long ago and whose stacks a collection is just
	// freeing (runtime.markrootFreeGStacks): so there must be none under way.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	runtime.GC()
	count := func(n int) (goroutines int) {
		inBubble(t, func(w *world) {
			before := runtime.NumGoroutine()
			for i := range n {
				p := w.dial("lobby", "", i%2 == 0)
				p.send(`{"type":"ping"}`) // it has been in the middle of a message
			}
			synctest.Wait()
			goroutines = runtime.NumGoroutine() - before - n // each client's end has one too: nhooyr's
			for _, p := range w.peers {
				p.ws.CloseNow()
			}
		}, hub.WithTextFormat(hub.RawText()))
		return goroutines
	}
	few := count(10)
	require.LessOrEqual(t, count(10+clients)-few, clients+kept)
}

// Promise: order. Who leaves its room and joins it again gets left_room before welcome, and after that
// welcome each message once and in order, also where the room has several workers.
func TestLeaveAndJoinAgainInABusyRoom(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4)) // three workers
	inBubble(t, func(w *world) {
		for i := range 40 { // more than a room keeps on one worker
			p := w.plain("lobby", fmt.Sprintf("name=p%d", i))
			go func() {
				for {
					if _, _, err := p.read(); err != nil {
						return
					}
				}
			}()
		}
		room, err := w.hub.Room("lobby")
		require.NoError(t, err)
		publish := func(n int) {
			for range n {
				_, err := room.Publish(context.Background(), hub.Text("hello"))
				require.NoError(t, err)
			}
		}
		alice := w.json("lobby", "name=alice")
		alice.until("welcome")
		for round := range 30 {
			publish(100)
			alice.send(`{"type":"leave","id":"l","room":"lobby"}`)
			alice.send(`{"type":"join","id":"j","room":"lobby","history":20}`)
			publish(100)
			left, last := false, uint64(0)
			for head := uint64(200 * (round + 1)); last < head; {
				switch e := alice.event(); e.Type {
				case "left_room":
					left = true
				case "welcome":
					require.True(t, left, "round %d: the welcome before left_room", round)
					last = e.Seq
				case "message":
					if left {
						require.Equal(t, last+1, e.Seq, "round %d", round)
						last = e.Seq
					}
				}
			}
		}
	}, hub.WithPublishRate(0, 1), hub.WithQueue(100_000, 64<<20))
}

// Promise: bounded.
func TestSlowClientIsDisconnectedAndResumes(t *testing.T) {
	inBubble(t, func(w *world) {
		slow, hi := w.enter("lobby", "name=slow")
		fast, _ := w.enter("lobby", "name=fast")
		slow.raw.Stall(true)
		big := strings.Repeat("x", 10_000)
		room, err := w.hub.Room("lobby")
		require.NoError(t, err)
		const n = 300
		for i := range n {
			_, err := room.Publish(context.Background(), hub.Text(fmt.Sprint(i, " ", big)))
			require.NoError(t, err)
			require.Equal(t, uint64(i+1), fast.until("message").Seq, "others are not delayed")
		}
		slow.raw.Stall(false)
		var last event
		var ce *wsconn.CloseError
		for ce == nil {
			_, s, err := slow.read()
			if errors.As(err, &ce) {
				break
			}
			var e event
			require.NoError(t, json.Unmarshal([]byte(s), &e))
			if e.Type == "message" {
				last = e
			}
		}
		require.Equal(t, 1013, ce.Code)
		require.Less(t, last.Seq, uint64(n))
		require.Equal(t, uint64(1), w.hub.Stats().Slow)

		back, hi2 := w.enter("lobby", "session="+hi.Session+"&since="+last.Cursor)
		require.Equal(t, "recovered", hi2.Recovery)
		for seq := last.Seq; seq < n; {
			e := back.until("message")
			require.Equal(t, seq, e.Prev)
			seq = e.Seq
		}
		back.leave()
		fast.leave()
	}, hub.WithHistory(1000, time.Hour), hub.WithLogger(quiet))
}

func TestSlowClientMissesTheOldestAndIsTold(t *testing.T) {
	inBubble(t, func(w *world) {
		slow, _ := w.enter("lobby", "name=slow")
		slow.raw.Stall(true)
		room, err := w.hub.Room("lobby")
		require.NoError(t, err)
		big := strings.Repeat("x", 10_000)
		const n = 300
		for i := range n {
			_, err := room.Publish(context.Background(), hub.Text(fmt.Sprint(i, " ", big)))
			require.NoError(t, err)
			synctest.Wait()
		}
		slow.raw.Stall(false)
		var seq uint64
		gaps := 0
		for seq < n {
			switch e := slow.event(); e.Type {
			case "gap":
				require.Equal(t, seq, e.After)
				require.Equal(t, int(e.Before-e.After-1), *e.Missed)
				seq = e.Before - 1
				gaps++
			case "message":
				require.Equal(t, seq, e.Prev, "what is missing was told")
				seq = e.Seq
			}
		}
		require.NotZero(t, gaps)
		slow.leave()
	}, hub.WithSlowPolicy(hub.DropOldest), hub.WithHistory(1000, time.Hour))
}

// A stalled client of a room of cursors and prices gets the last of each key, the end, and is
// told which of the kept messages it misses.
func TestSlowClientGetsTheLatestOfEachKey(t *testing.T) {
	var clients sync.Map
	inBubble(t, func(w *world) {
		slow, hi := w.enter("board", "name=slow")
		alice, a := w.enter("board", "name=alice")
		bob, _ := w.enter("board", "name=bob")
		tab, _ := w.enter("board", "name=alice&session="+a.Session)
		var reading []<-chan struct{}
		for _, p := range []*peer{alice, bob, tab} {
			reading = append(reading, p.listen())
		}
		room, err := w.hub.Room("board")
		require.NoError(t, err)
		synctest.Wait()
		var client *hub.Client // slow's
		clients.Range(func(_, v any) bool {
			if c := v.(*hub.Client); c.ID() == hi.Client {
				client = c
			}
			return true
		})
		slow.raw.Stall(true)
		w.publish("board", strings.Repeat("x", 10_000), 20) // more than the socket takes
		synctest.Wait()
		const rounds = 300
		service := func(key, format string, i int) hub.Message {
			m := hub.Text(fmt.Sprintf(format, i))
			m.Key = key
			return m
		}
		for i := range rounds {
			alice.sendf(`{"type":"publish","data":"alice at %d","key":"cursor"}`, i)
			tab.sendf(`{"type":"publish","data":"alice at %d, in her tab","key":"cursor"}`, i)
			bob.sendf(`{"type":"publish","data":"bob at %d","key":"cursor"}`, i)
			bob.sendf(`{"type":"publish","data":"bob drags %d","key":"cursor","to":{"user":%q}}`, i, hi.User)
			alice.sendf(`{"type":"typing","on":%t}`, i%2 == 0)
			bob.sendf(`{"type":"typing","on":%t}`, i%2 == 1)
			_, err := room.Publish(context.Background(), service("cursor", "cursor of the service %d", i))
			require.NoError(t, err)
			require.NoError(t, room.Broadcast(context.Background(), service("price", "price %d", i)))
			require.NoError(t, client.Send(service("price", "price for you %d", i)))
			synctest.Wait()
		}
		_, err = room.Publish(context.Background(), hub.Text("end"))
		require.NoError(t, err)
		synctest.Wait()
		require.Zero(t, w.hub.Stats().Slow)
		slow.raw.Stall(false)

		seq, gaps, got := hi.Seq, 0, map[string]int{}
		for {
			e := slow.event()
			switch e.Type {
			case "gap":
				require.Equal(t, seq, e.After)
				require.Equal(t, int(e.Before-e.After-1), *e.Missed)
				seq = e.Before - 1
				gaps++
				continue
			case "message":
				require.Equal(t, seq, e.Prev, "what is missing was told")
				seq = e.Seq
			case "typing":
				got[fmt.Sprint(e.Member.Name, " types ", e.On)]++
				continue
			case "joined":
				continue
			}
			text, _, _ := strings.Cut(e.text(), ", in her tab")
			if text == "end" {
				break
			}
			if !strings.HasPrefix(text, "xxx") {
				got[text]++
			}
		}
		require.Equal(t, map[string]int{
			"bob at 299": 1, "bob drags 299": 1, "alice types false": 1, "bob types true": 1,
			"cursor of the service 299": 1, "price 299": 1, "price for you 299": 1, "alice at 299": 1,
		}, got, "each user's keys are its own, and its connections share them")
		require.NotZero(t, gaps)
		require.LessOrEqual(t, gaps, 2, "before the last of each key, and of alice's two where bob's is between them")
		for _, p := range []*peer{slow, alice, bob, tab} {
			p.leave()
		}
		for _, done := range reading {
			<-done
		}
	}, hub.WithSlowPolicy(hub.LatestPerKey), hub.WithPublishRate(0, 0), hub.WithOnJoin(func(c *hub.Client, _ *hub.Room) {
		clients.Store(c, c)
	}))
}

func TestKeys(t *testing.T) {
	inBubble(t, func(w *world) {
		alice, _ := w.enter("lobby", "name=alice")
		alice.send(`{"type":"publish","id":"1","data":"x","key":"k"}`)
		require.Equal(t, "k", alice.until("message").Key)
		alice.send(`{"type":"publish","id":"1","data":"x","key":"k"}`)
		for !alice.until("ack").Duplicate {
		}
		for _, key := range []string{`"l"`, `""`} {
			alice.sendf(`{"type":"publish","id":"1","data":"x","key":%s}`, key)
			require.Equal(t, "id_reused", alice.until("error").Code, "another payload")
		}
		alice.sendf(`{"type":"publish","id":"2","data":"x","key":%q}`, strings.Repeat("k", 65))
		require.Equal(t, "bad_request", alice.until("error").Code)
		alice.send(`{"type":"history","limit":1}`)
		require.Equal(t, "k", alice.until("history").Messages[0].Key)

		room, err := w.hub.Room("lobby")
		require.NoError(t, err)
		for _, key := range []string{strings.Repeat("k", 65), "\xff"} {
			m := hub.Text("x")
			m.Key = key
			_, err := room.Publish(context.Background(), m)
			require.ErrorContains(t, err, "key")
			require.ErrorContains(t, room.Broadcast(context.Background(), m), "key")
		}
		m := hub.Text("x")
		m.Key = "s"
		require.NoError(t, room.Broadcast(context.Background(), m))
		require.Equal(t, "s", alice.until("signal").Key)
		alice.send(`{"type":"publish","data":"handled","key":"mine"}`)
		require.Equal(t, "mine, says the handler", alice.until("message").Key)
		alice.leave()
	}, hub.WithHandler(func(in *hub.Incoming) error {
		if string(in.Message.Data) == "handled" {
			in.Message.Key += ", says the handler"
		}
		return nil
	}))
}

// Promise: bounded. What waits for all clients keeps the hub's bound, who takes what comes
// misses nothing, and the others are told what they miss.
func TestQueueTotal(t *testing.T) {
	for name, policy := range map[string]hub.SlowPolicy{
		"disconnect": hub.Disconnect, "drop oldest": hub.DropOldest, "latest per key": hub.LatestPerKey,
	} {
		t.Run(name, func(t *testing.T) { queueTotal(t, policy) })
	}
}

func queueTotal(t *testing.T, policy hub.SlowPolicy) {
	const total, rooms, stalled, messages = 1 << 20, 10, 6, 60
	inBubble(t, func(w *world) {
		var healthy sync.WaitGroup
		var slow []*peer
		for r := range rooms {
			name := fmt.Sprint("room ", r)
			p, _ := w.enter(name, "name=healthy")
			healthy.Go(func() {
				for seq := uint64(0); seq < messages; {
					_, line, err := p.read()
					var e event
					if err == nil {
						err = json.Unmarshal([]byte(line), &e)
					}
					if err != nil || e.Type == "gap" || e.Type == "message" && e.Prev != seq {
						t.Errorf("%s, after seq %d: %v, %.100s", name, seq, err, line)
						return
					}
					seq = max(seq, e.Seq)
				}
			})
			for range stalled {
				p, _ := w.enter(name, "name=slow")
				p.raw.Stall(true)
				slow = append(slow, p)
			}
		}
		most := 0
		for i := range messages {
			for r := range rooms {
				room, err := w.hub.Room(fmt.Sprint("room ", r))
				require.NoError(t, err)
				m := hub.Text(fmt.Sprint(i, strings.Repeat("x", 10_000)))
				m.Key = fmt.Sprint("key ", i%40) // so many fit no bound
				_, err = room.Publish(context.Background(), m)
				require.NoError(t, err)
				synctest.Wait()
				most = max(most, w.hub.Stats().Queued)
			}
		}
		require.Greater(t, most, total/2, "else it says little")
		require.Less(t, most, total+rooms*stalled*192+11_000)
		healthy.Wait()

		told := 0
		for _, p := range slow {
			p.raw.Stall(false)
			for seq := uint64(0); seq < messages; {
				_, line, err := p.read()
				var ce *wsconn.CloseError
				if errors.As(err, &ce) {
					require.Equal(t, 1013, ce.Code)
					told++
					break
				}
				var e event
				require.NoError(t, json.Unmarshal([]byte(line), &e))
				switch e.Type {
				case "gap":
					require.Equal(t, seq, e.After)
					require.Equal(t, int(e.Before-e.After-1), *e.Missed)
					seq = e.Before - 1
					told++
				case "message":
					require.Equal(t, seq, e.Prev, "what is missing was told")
					seq = e.Seq
				}
			}
		}
		require.GreaterOrEqual(t, told, len(slow)/2)
		if policy == hub.Disconnect {
			require.Equal(t, uint64(told), w.hub.Stats().Slow)
		} else {
			require.Zero(t, w.hub.Stats().Slow, "whom its policy lets stay, stays")
		}
		for _, p := range slow {
			p.ws.CloseNow()
		}
		synctest.Wait()
		require.Zero(t, w.hub.Stats().Queued)
	}, hub.WithQueueTotal(total), hub.WithSlowPolicy(policy), hub.WithHistory(1000, time.Hour), hub.WithLogger(quiet),
		hub.WithWriteTimeout(time.Hour))
}

// A client that is stalled in a room where nothing more is said makes room too, and until there
// is some nobody is let in.
func TestQueueTotalOfSilentRooms(t *testing.T) {
	inBubble(t, func(w *world) {
		slow, _ := w.enter("lobby", "name=slow")
		bob, _ := w.enter("lobby", "name=bob")
		bob.leave()
		slow.raw.Stall(true)
		w.publish("lobby", strings.Repeat("x", 2<<20), 1) // is begun: nobody can drop it
		synctest.Wait()
		if os.Getenv("HUB_NO_FASTPATH") != "1" { // there it may be dropped before it is begun
			require.Greater(t, w.hub.Stats().Queued, 2<<20)
			resp := w.get("/room/other", upgrade())
			require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
			require.NotEmpty(t, resp.Header.Get("Retry-After"))
		}
		require.Equal(t, uint64(1), w.hub.Stats().Slow, "closed, though no message came for it")
		elapse(15 * time.Second)
		require.Zero(t, w.hub.Stats().Queued)
		alice, _ := w.enter("other", "name=alice")
		alice.leave()
		slow.ws.CloseNow()
	}, hub.WithQueueTotal(1<<20), hub.WithLogger(quiet))
}

// Promise: nobody's input hurts others.
func TestInputHurtsNobodyElse(t *testing.T) {
	inBubble(t, func(w *world) {
		bob, _ := w.enter("lobby", "name=bob")
		tests := map[string]struct {
			op   wsconn.Opcode
			data string
			code int
		}{
			"not UTF-8":   {wsconn.OpText, "ab\xff", 1007},
			"too large":   {wsconn.OpText, strings.Repeat("x", 64<<10+1), 1009},
			"a panic":     {wsconn.OpText, "panic", 1011},
			"half a rune": {wsconn.OpText, "\xe3\x81", 1007},
		}
		for name, tt := range tests {
			alice := w.plain("lobby", "name=alice")
			require.Equal(t, "joined", bob.event().Type, name)
			go func() { _ = alice.ws.Write(context.Background(), tt.op, []byte(tt.data)) }()
			require.Equal(t, tt.code, alice.closed().Code, name)
			left := bob.event()
			require.Equal(t, "left", left.Type, "%s: not a byte of it", name)
			require.Equal(t, "error", left.Reason, name)
		}
		// What made a handler panic is refused for good before the close frame.
		carol := w.json("lobby", "name=carol")
		require.Equal(t, "joined", bob.event().Type)
		carol.send(`{"type":"publish","id":"p","data":"panic"}`)
		e := carol.until("error")
		require.Equal(t, "internal", e.Code)
		require.Equal(t, "p", e.ID)
		require.Equal(t, 1011, carol.closed().Code)
		require.Equal(t, "left", bob.event().Type)
		// What is no command is answered, and the connection lives.
		for _, s := range []string{"", "{", "[]", `"x"`, `{"type":"nonsense"}`, `{"type":"publish"}`,
			`{"type":"publish","data":1,"id":7}`, `{"type":"join","room":"a/b"}`, `{"type":"publish","room":"elsewhere","data":1}`} {
			bob.send(s)
			require.Equal(t, "error", bob.event().Type, s)
		}
		bob.send(`{"type":"ping","id":"p"}`)
		require.Equal(t, event{Type: "pong", ID: "p"}, bob.event())
		bob.leave()
	}, hub.WithLogger(quiet), hub.WithHandler(func(in *hub.Incoming) error {
		if string(in.Message.Data) == "panic" {
			panic("as asked")
		}
		return nil
	}))
}

// Promise: nothing is left behind. The bubble fails if a goroutine is.
func TestShutdownLeavesNothing(t *testing.T) {
	inBubble(t, func(w *world) {
		var peers []*peer
		for i := range 200 {
			p := w.dial("lobby", fmt.Sprintf("name=g%d", i), i%2 == 0)
			p.line() // it is in
			peers = append(peers, p)
		}
		room, err := w.hub.Room("lobby")
		require.NoError(t, err)
		_, err = room.Publish(context.Background(), hub.Text("the last"))
		require.NoError(t, err)

		var got sync.WaitGroup
		for _, p := range peers {
			got.Go(func() {
				last, drained := false, false
				for {
					_, s, err := p.read()
					if err != nil {
						var ce *wsconn.CloseError
						if !errors.As(err, &ce) || ce.Code != 1012 || !last || !drained {
							t.Errorf("end: %v, last message: %v, drain: %v", err, last, drained)
						}
						p.ws.CloseNow()
						return
					}
					last = last || strings.Contains(s, "the last")
					drained = drained || strings.Contains(s, "drain") || strings.Contains(s, "restarts")
				}
			})
		}
		require.NoError(t, w.hub.Shutdown(context.Background()))
		got.Wait()
		require.Zero(t, w.hub.Stats().Clients)
		require.Zero(t, w.hub.Stats().Rooms)

		_, err = w.tryDial("lobby", "", true)
		require.ErrorContains(t, err, "503")
		_, err = room.Publish(context.Background(), hub.Text("x"))
		require.ErrorIs(t, err, hub.ErrClosed)
		_, err = w.hub.Room("lobby")
		require.ErrorIs(t, err, hub.ErrClosed)
	})
}

// shutdownBroker has the hub shut down as soon as a message is kept.
type shutdownBroker struct {
	broker.Broker
	kept chan struct{}
}

func (b *shutdownBroker) Publish(ctx context.Context, m *broker.Message) (broker.Receipt, error) {
	r, err := b.Broker.Publish(ctx, m)
	close(b.kept)
	runtime.Gosched()
	return r, err
}

// TestShutdownAcksWhatWasKept: who published just before the end hears of it.
func TestShutdownAcksWhatWasKept(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			memory := broker.NewMemory()
			b := &shutdownBroker{memory, make(chan struct{})}
			w := newWorld(t, hub.New(hub.WithBroker(b)), nil)
			t.Cleanup(func() { w.close(); _ = memory.Close() })
			p := w.json("lobby", "")
			p.until("welcome")
			go func() {
				<-b.kept
				_ = w.hub.Shutdown(context.Background())
			}()
			p.sendf(`{"type":"publish","id":"1","data":"x"}`)
			p.until("ack")
			p.ws.CloseNow()
		})
	}
}

func TestShutdownCutsWhoDoesNotGo(t *testing.T) {
	inBubble(t, func(w *world) {
		p, _ := w.enter("lobby", "name=stuck")
		p.raw.Stall(true)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start := time.Now()
		require.ErrorIs(t, w.hub.Shutdown(ctx), context.DeadlineExceeded)
		require.Less(t, time.Since(start), 5*time.Second)
		p.ws.CloseNow()
	})
}

func TestOrdered(t *testing.T) {
	inBubble(t, func(w *world) {
		alice, hi := w.enter("lobby", "name=alice&ordered=1")
		require.Equal(t, 2.0, hi.Limits["rate"])
		for i := range 6 {
			alice.sendf(`{"type":"publish","id":"%d","data":%d}`, i, i)
		}
		acked, codes := 0, []string{}
		for acked+len(codes) < 6 {
			switch e := alice.event(); e.Type {
			case "ack":
				acked++
			case "error":
				codes = append(codes, e.Code)
			}
		}
		require.Equal(t, 3, acked, "the burst")
		require.Equal(t, []string{"rate", "out_of_order", "out_of_order"}, codes)
		elapse(10 * time.Second)
		alice.send(`{"type":"publish","id":"4","data":4}`)
		require.Equal(t, "out_of_order", alice.until("error").Code, "3 was refused and must come first")
		for i := 3; i < 6; i++ {
			alice.sendf(`{"type":"publish","id":"%d","data":%d}`, i, i)
			alice.until("ack")
		}
		alice.send(`{"type":"publish","data":1}`)
		require.Equal(t, "bad_request", alice.until("error").Code, "an id is needed")

		room, _ := w.hub.Room("lobby")
		kept, err := room.History(context.Background(), 0, 10)
		require.NoError(t, err)
		for i, m := range kept {
			require.Equal(t, fmt.Sprint(i), string(m.Data))
		}
		alice.leave()
	}, hub.WithPublishRate(2, 3))
}

func TestRate(t *testing.T) {
	inBubble(t, func(w *world) {
		alice, _ := w.enter("lobby", "name=alice")
		for i := range 41 {
			alice.sendf(`{"type":"publish","id":"%d","data":1}`, i)
		}
		e := alice.until("error")
		require.Equal(t, "rate", e.Code)
		require.Equal(t, "40", e.ID)
		require.Positive(t, e.RetryAfterMS)
		elapse(time.Duration(e.RetryAfterMS) * time.Millisecond)
		alice.send(`{"type":"publish","id":"40","data":1}`)
		require.Equal(t, "40", alice.until("ack").ID)

		// A plain client has no way to be told which: it is slowed down, and nothing is lost.
		bob := w.plain("other", "name=bob")
		bob.line()
		start := time.Now()
		go func() {
			for i := range 100 {
				_ = bob.ws.Write(context.Background(), wsconn.OpText, fmt.Append(nil, i))
			}
		}()
		for i := range 100 {
			require.Equal(t, fmt.Sprint("bob: ", i), bob.line())
		}
		require.InDelta(t, 3, time.Since(start).Seconds(), 0.1, "60 past the burst at 20 a second")
		alice.leave()
		bob.leave()
	})
}

func TestDirectTypingPresenceHistory(t *testing.T) {
	inBubble(t, func(w *world) {
		alice, a := w.enter("lobby", "name=alice")
		bob, b := w.enter("lobby", "name=bob")
		tab, _ := w.enter("lobby", "name=bob&session="+b.Session)
		alice.until("joined")

		alice.sendf(`{"type":"publish","id":"d","data":"psst","to":{"user":%q}}`, b.User)
		ack := alice.until("ack")
		require.Equal(t, 2, *ack.Reached, "both of bob's connections")
		require.Zero(t, ack.Seq)
		for _, p := range []*peer{bob, tab} {
			e := p.until("direct")
			require.Equal(t, "psst", e.text())
			require.Equal(t, a.User, e.From.User)
		}
		alice.sendf(`{"type":"publish","id":"e","data":"psst","to":{"client":%q}}`, b.Client)
		require.Equal(t, 1, *alice.until("ack").Reached)
		require.Equal(t, "direct", bob.event().Type)
		alice.send(`{"type":"publish","id":"f","data":"psst","to":{"user":"nobody"}}`)
		require.Equal(t, 0, *alice.until("ack").Reached)

		bob.send(`{"type":"typing","on":true}`)
		typing := alice.event()
		require.Equal(t, "typing", typing.Type)
		require.True(t, typing.On)
		require.Equal(t, "bob", typing.Member.Name)

		bob.send(`{"type":"presence","id":"p"}`)
		list := bob.event()
		require.Equal(t, "presence", list.Type, "one's own typing does not come back")
		require.Equal(t, 2, list.Count)
		require.Len(t, list.Members, 2)

		w.publish("lobby", "m", 10)
		for range 10 {
			alice.until("message")
		}
		alice.send(`{"type":"history","id":"h","limit":3,"before":9}`)
		page := alice.until("history")
		require.True(t, page.More)
		require.Equal(t, "m5", page.Messages[0].text())
		require.Len(t, page.Messages, 3)
		for _, p := range []*peer{alice, bob, tab} {
			p.leave()
		}
	})
}

func TestSeveralRoomsOnOneConnection(t *testing.T) {
	allow := hub.WithAuthorize(func(c *hub.Client, room string) error {
		switch {
		case room == "secret":
			return errors.New("no")
		case room == "void":
			return hub.ErrNoRoom
		}
		return nil
	})
	inBubble(t, func(w *world) {
		alice, _ := w.enter("lobby", "name=alice")
		alice.send(`{"type":"join","id":"s","room":"secret"}`)
		require.Equal(t, "forbidden", alice.event().Code)
		alice.send(`{"type":"join","id":"j","room":"kitchen"}`)
		hi := alice.event()
		require.Equal(t, "welcome", hi.Type)
		require.Equal(t, "kitchen", hi.Room)
		require.Equal(t, "joined", alice.event().Type)
		alice.send(`{"type":"publish","id":"1","room":"kitchen","data":"tea"}`)
		require.Equal(t, "kitchen", alice.until("message").Room)
		for cmd, code := range map[string]string{
			`{"type":"join","room":"kitchen"}`:          "already_in_room",
			`{"type":"publish","room":"hall","data":1}`: "not_in_room",
			`{"type":"join","room":"third"}`:            "room_limit",
		} {
			alice.send(cmd)
			require.Equal(t, code, alice.until("error").Code, cmd)
		}
		alice.send(`{"type":"leave","id":"l","room":"kitchen"}`)
		require.Equal(t, "kitchen", alice.until("left_room").Room)
		w.publish("kitchen", "m", 3)
		alice.sendf(`{"type":"join","room":"kitchen","since":%q}`, hi.Cursor)
		require.Equal(t, "recovered", alice.until("welcome").Recovery)
		require.Equal(t, "tea", alice.until("message").text())
		require.Equal(t, "m0", alice.until("message").text())

		_, err := w.tryDial("secret", "", true)
		require.ErrorContains(t, err, "403")
		_, err = w.tryDial("void", "", true)
		require.ErrorContains(t, err, "404")
		alice.leave()
	}, allow, hub.WithRoomsPerClient(2))

	inBubble(t, func(w *world) { // without the option: the URL's room only
		alice, _ := w.enter("lobby", "name=alice")
		alice.send(`{"type":"join","room":"kitchen"}`)
		require.Equal(t, "forbidden", alice.until("error").Code)
		alice.send(`{"type":"leave","room":"lobby"}`)
		require.Equal(t, "left_room", alice.until("left_room").Type)
		alice.send(`{"type":"join","room":"lobby"}`)
		require.Equal(t, "welcome", alice.until("welcome").Type)
		alice.leave()
	})
}

// Members that are cut, stall, read slowly, leave and come back while others publish: each
// one's stream is the room's from where it began, in order, each message once, or an event
// says exactly what is missing. The faults are the seed's.
func TestStreamsUnderFaults(t *testing.T) {
	for seed := range uint64(8) {
		for _, policy := range []hub.SlowPolicy{hub.Disconnect, hub.DropOldest, hub.LatestPerKey} {
			t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
				streamsUnderFaults(t, seed, policy)
			})
		}
	}
}

func streamsUnderFaults(t *testing.T, seed uint64, policy hub.SlowPolicy) {
	const members, publishers, each = 8, 3, 200
	inBubble(t, func(w *world) {
		var kept sync.Map // seq to text, as the receipts say
		var publishing, reading sync.WaitGroup
		lobby, err := w.hub.Room("lobby")
		require.NoError(t, err)
		over := make(chan struct{})
		for i := range publishers {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			publishing.Go(func() {
				for n := range each {
					m := hub.Text(fmt.Sprintf("%d/%d %s", i, n, strings.Repeat("x", r.IntN(2000))))
					m.ID = fmt.Sprintf("%d/%d", i, n)
					if key := r.IntN(12); key < 8 { // others have none
						m.Key = fmt.Sprint("key ", key)
					}
					receipt, err := lobby.Publish(context.Background(), m)
					if err != nil {
						t.Errorf("publish: %v", err)
						return
					}
					if r.IntN(5) == 0 { // the ack was lost, it thinks
						again, err := lobby.Publish(context.Background(), m)
						if err != nil || again.Cursor != receipt.Cursor {
							t.Errorf("repeated: %v, %v", again, err)
						}
					}
					kept.Store(receipt.Cursor.Seq, string(m.Data))
					elapse(time.Duration(r.IntN(20)) * time.Millisecond)
				}
			})
		}
		for i := range members {
			r := rand.New(rand.NewPCG(seed, uint64(100+i)))
			reading.Go(func() {
				m := &follower{w: w, r: r, kept: &kept}
				for !m.follow(over, publishers*each) {
				}
			})
		}
		publishing.Wait()
		close(over)
		reading.Wait()
	}, hub.WithHistory(150, time.Hour), hub.WithQueue(32, 32<<10), hub.WithSlowPolicy(policy), hub.WithLogger(quiet),
		hub.WithIdle(50*time.Millisecond), hub.WithResumeWindow(100*time.Millisecond))
}

// A follower is a member that keeps its place in the room's stream over connections.
type follower struct {
	w       *world
	r       *rand.Rand
	kept    *sync.Map
	session string
	cursor  string
	seq     uint64
}

// follow is one connection, with a fault at some moment; true when the end was reached.
func (f *follower) follow(over chan struct{}, total uint64) bool {
	p, err := f.w.tryDial("lobby", "name=m&session="+f.session+"&since="+f.cursor, true)
	if err != nil {
		f.w.t.Errorf("dial: %v", err)
		return true
	}
	defer p.ws.CloseNow()
	fault := f.r.IntN(4)
	events := 1 + f.r.IntN(60)
	bytes := int64(f.r.IntN(20000))
	after := time.AfterFunc(time.Duration(f.r.IntN(1500))*time.Millisecond, func() {
		select {
		case <-over: // the last connection is a good one
			return
		default:
		}
		switch fault {
		case 0:
			p.raw.Cut()
		case 1:
			p.raw.CutAfter(bytes)
		case 2:
			p.raw.Stall(true)
			time.AfterFunc(time.Second, func() { p.raw.Stall(false) })
		}
	})
	defer after.Stop()
	for {
		_, line, err := p.read()
		if err != nil {
			return false
		}
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			f.w.t.Errorf("%v: %s", err, line)
			return true
		}
		if !f.note(e) {
			f.w.t.Errorf("after seq %d: %s", f.seq, line)
			return true
		}
		if f.seq == total {
			return true
		}
		if events--; events == 0 && fault == 3 {
			select {
			case <-over:
			default:
				p.leave()
				return false
			}
		}
		if f.r.IntN(20) == 0 {
			elapse(time.Duration(f.r.IntN(100)) * time.Millisecond) // a slow reader
		}
	}
}

// note holds an event against the stream so far.
func (f *follower) note(e event) bool {
	switch e.Type {
	case "welcome":
		ok := e.Recovery == "recovered" || e.Recovery == "gap"
		if f.cursor == "" {
			ok = e.Recovery == "new"
			f.seq = e.Seq
		}
		f.session, f.cursor = e.Session, e.Cursor
		return ok && e.Seq == f.seq
	case "gap":
		if e.After != f.seq || e.Before <= e.After+1 || e.Missed == nil || *e.Missed != int(e.Before-e.After-1) {
			return false
		}
		f.seq, f.cursor = e.Before-1, e.Cursor
	case "message":
		text, known := f.kept.Load(e.Seq)
		if e.Prev != f.seq || known && text != e.text() {
			return false
		}
		f.seq, f.cursor = e.Seq, e.Cursor
	}
	return true
}

// goesOn does what people do, in a room and in another, and wants it done at once.
func (w *world) goesOn(room string) {
	w.t.Helper()
	start := time.Now()
	for _, name := range []string{room, "elsewhere"} {
		anna, _ := w.enter(name, "name=anna&history=0")
		ben, _ := w.enter(name, "name=ben&history=0")
		for e := anna.until("joined"); e.Member.Name != "ben"; {
			e = anna.until("joined")
		}
		anna.talk("anna", 3)
		w.publish(name, "service", 1)
		for _, p := range []*peer{anna, ben} {
			for p.until("message").text() != "service0" {
			}
		}
		require.Subset(w.t, w.there(name), []string{"anna", "ben"})
		require.NoError(w.t, ben.ws.Close(1000, ""))
		require.Equal(w.t, "ben", anna.until("left").Member.Name)
		require.Positive(w.t, w.hub.Stats().Clients)
		anna.leave()
	}
	require.Less(w.t, time.Since(start), 100*time.Millisecond, "nothing waits for what has stopped")
}

// endsBy shuts the hub down with a deadline and wants it kept, but for what a callback takes longer.
func (w *world) endsBy(d time.Duration, longer ...time.Duration) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	start := time.Now()
	require.ErrorIs(w.t, w.hub.Shutdown(ctx), context.DeadlineExceeded)
	for _, more := range longer {
		d += more
	}
	require.Equal(w.t, d, time.Since(start))
}

// Whatever stops holds up nobody else: a client.
func TestStoppedClient(t *testing.T) {
	for _, policy := range []hub.SlowPolicy{hub.Disconnect, hub.DropOldest, hub.LatestPerKey} {
		inBubble(t, func(w *world) {
			stuck, _ := w.enter("lobby", "name=stuck")
			stuck.raw.Stall(true)
			for range 10 {
				w.goesOn("lobby")
				w.publish("lobby", strings.Repeat("x", 30_000), 10) // more than fits: 1 MiB
			}
			again := w.json("lobby", "name=stuck") // it stops while it joins
			again.raw.Stall(true)
			w.goesOn("lobby")
			w.endsBy(3 * time.Second)
		}, hub.WithSlowPolicy(policy), hub.WithLogger(quiet))
	}
}

// A stopping broker does nothing for one room, once it has stopped, until the context ends.
type stopping struct {
	broker.Broker
	room    string
	stopped atomic.Bool
}

func (b *stopping) wait(ctx context.Context, room string) error {
	if room == b.room && b.stopped.Load() {
		return hang(ctx)
	}
	return nil
}

func (b *stopping) Publish(ctx context.Context, m *broker.Message) (broker.Receipt, error) {
	if err := b.wait(ctx, m.Room); err != nil {
		return broker.Receipt{}, err
	}
	return b.Broker.Publish(ctx, m)
}

func (b *stopping) Signal(ctx context.Context, s *broker.Signal) (int, error) {
	if err := b.wait(ctx, s.Room); err != nil {
		return 0, err
	}
	return b.Broker.Signal(ctx, s)
}

func (b *stopping) Subscribe(ctx context.Context, room string) (broker.Subscription, error) {
	if err := b.wait(ctx, room); err != nil {
		return nil, err
	}
	return b.Broker.Subscribe(ctx, room)
}

func (b *stopping) Since(ctx context.Context, room string, after broker.Cursor, limit int) (broker.Page, error) {
	if err := b.wait(ctx, room); err != nil {
		return broker.Page{}, err
	}
	return b.Broker.Since(ctx, room, after, limit)
}

func (b *stopping) Before(ctx context.Context, room string, before uint64, limit int) (broker.Page, error) {
	if err := b.wait(ctx, room); err != nil {
		return broker.Page{}, err
	}
	return b.Broker.Before(ctx, room, before, limit)
}

func (b *stopping) Head(ctx context.Context, room string) (broker.Cursor, error) {
	if err := b.wait(ctx, room); err != nil {
		return broker.Cursor{}, err
	}
	return b.Broker.Head(ctx, room)
}

func (b *stopping) Lease(ctx context.Context, node string) (broker.Lease, error) {
	l, err := b.Broker.Lease(ctx, node)
	return stoppingLease{l, b}, err
}

type stoppingLease struct {
	broker.Lease
	b *stopping
}

func (l stoppingLease) Update(ctx context.Context, room string, joined, left []broker.Member) error {
	if err := l.b.wait(ctx, room); err != nil {
		return err
	}
	return l.Lease.Update(ctx, room, joined, left)
}

// Whatever stops holds up nobody else: the broker, for one room, whatever it is asked there.
func TestStoppedBroker(t *testing.T) {
	b := &stopping{Broker: broker.NewMemory(), room: "stuck"}
	defer func() { require.NoError(t, b.Broker.Close()) }()
	inBubble(t, func(w *world) {
		in := map[string]*peer{}
		for _, name := range []string{"publishes", "types", "reads", "asks", "leaves", "is cut off"} {
			in[name], _ = w.enter("stuck", "name="+url.QueryEscape(name))
			in[name].listen()
		}
		b.stopped.Store(true)
		in["publishes"].send(`{"type":"publish","id":"1","data":"x"}`)
		in["types"].send(`{"type":"typing","on":true}`)
		in["reads"].send(`{"type":"history","limit":10}`)
		in["leaves"].leave()
		in["is cut off"].cut()
		for _, query := range []string{"name=late", "name=late&history=0"} {
			go func() { _, _ = w.tryDial("stuck", query, true) }()
		}
		synctest.Wait()
		w.goesOn("lobby")
		in["asks"].send(`{"type":"presence"}`)
		require.NotEmpty(t, w.there("stuck"), "what the loop knows itself")
		room, err := w.hub.Room("stuck")
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err = room.Publish(ctx, hub.Text("x"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		w.goesOn("lobby")
		w.endsBy(3 * time.Second)
	}, hub.WithBroker(b), hub.WithLogger(quiet))
}

// Whatever stops holds up nobody else: a callback, for as long as its client is there.
func TestStoppedCallback(t *testing.T) {
	stop := func(c *hub.Client) {
		if strings.HasPrefix(c.Name(), "stuck") {
			<-c.Context().Done()
		}
	}
	leave := make(chan struct{})
	tests := map[string]hub.HubOption{
		"handler":   hub.WithHandler(func(in *hub.Incoming) error { stop(in.Client); return nil }),
		"OnJoin":    hub.WithOnJoin(func(c *hub.Client, _ *hub.Room) { stop(c) }),
		"authorize": hub.WithAuthorize(func(c *hub.Client, _ string) error { stop(c); return nil }),
		"OnLeave": hub.WithOnLeave(func(c *hub.Client, _ *hub.Room, _ error) { // its client's context has ended
			if strings.HasPrefix(c.Name(), "stuck") {
				<-leave
			}
		}),
	}
	for name, option := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				leave = make(chan struct{})
				end := sync.OnceFunc(func() { close(leave) })
				w.t.Cleanup(end) // also where the test fails
				var stuck [2]*peer
				for i, door := range []string{"plain", "json"} {
					go func() {
						p, err := w.tryDial("lobby", "name=stuck-"+door, door == "json")
						if err != nil {
							return // refused, in the end
						}
						p.listen()
						_ = p.ws.Write(context.Background(), wsconn.OpText, []byte(`{"type":"publish","id":"1","data":"x"}`))
						stuck[i] = p
					}()
				}
				synctest.Wait()
				if name == "OnLeave" { // who goes before it has joined does not leave
					for _, p := range stuck {
						go func() { _ = p.ws.Close(1000, "") }()
					}
					synctest.Wait()
				}
				require.Equal(t, 2, w.hub.Stats().Clients)
				w.goesOn("lobby")
				if name != "OnLeave" {
					require.NoError(t, w.hub.Shutdown(context.Background()), "which ends the client's context")
					return
				}
				time.AfterFunc(4*time.Second, end)
				w.endsBy(3*time.Second, time.Second)
			}, option, hub.WithLogger(quiet))
		})
	}
}

// A stuckListener's connections stop whoever writes to them, as no connection should.
type stuckListener struct {
	net.Listener
	stopped *atomic.Bool
}

type stuckConn struct {
	*memnet.Conn
	stopped *atomic.Bool
	once    sync.Once
	closed  chan struct{}
}

func (l stuckListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &stuckConn{Conn: c.(*memnet.Conn), stopped: l.stopped, closed: make(chan struct{})}, nil
}

func (c *stuckConn) TryWrite(p []byte) (int, error) {
	if c.stopped.Load() {
		<-c.closed
	}
	return c.Conn.TryWrite(p)
}

func (c *stuckConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// Whatever stops holds up nobody else: a worker of the fan-out, and with it the clients that
// are its own.
func TestStoppedWorker(t *testing.T) {
	if os.Getenv("HUB_NO_FASTPATH") == "1" {
		t.Skip("workers don't write then")
	}
	const workers, small, more = 4, 20, 64
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(workers + 1)) // one is not for fan-out
	inBubble(t, func(w *world) {
		var stopped atomic.Bool
		l := memnet.Listen()
		srv := &http.Server{Handler: w.srv.Handler}
		go func() { _ = srv.Serve(stuckListener{l, &stopped}) }()
		defer srv.Close()

		type member struct {
			*peer
			got   atomic.Int64
			ended chan struct{}
		}
		enter := func(room string) *member {
			m := &member{peer: w.dial(room, "", false), ended: make(chan struct{})}
			go func() {
				defer close(m.ended)
				for {
					if _, _, err := m.read(); err != nil {
						m.ws.CloseNow()
						return
					}
					m.got.Add(1)
				}
			}()
			synctest.Wait()
			return m
		}
		got := func(members []*member, messages int) (n int) {
			synctest.Wait()
			for _, m := range members {
				if m.got.Load() == int64(messages) {
					n++
				}
			}
			return n
		}
		// The first of a room have one worker, the others any, and so has each small room. The
		// bounds below are missed by chance less than once in 100,000 runs.
		var lobby, others []*member
		other := w.net
		w.net = l
		stuck := enter("lobby")
		w.net = other
		for range 31 + more {
			lobby = append(lobby, enter("lobby"))
		}
		for i := range small {
			others = append(others, enter(fmt.Sprint("small ", i)))
		}
		start := time.Now()
		stopped.Store(true)
		for i := 1; i <= 100; i++ {
			w.publish("lobby", "message", 1)
			require.GreaterOrEqual(t, got(lobby, i), more/2, "message %d in the room", i)
			for n := range others {
				w.publish(fmt.Sprint("small ", n), "message", 1)
			}
			require.GreaterOrEqual(t, got(others, i), small/5, "message %d elsewhere", i)
		}
		require.Less(t, got(lobby, 100), len(lobby), "the worker has stopped")

		var late []*member // some wait for the worker, to get what they are given on joining
		for range more {
			late = append(late, enter("lobby"))
		}
		w.publish("lobby", "message", 1)
		require.GreaterOrEqual(t, got(late, 1), more/2, "joins go on")
		require.NotEmpty(t, w.there("lobby"))
		require.Equal(t, 1+len(lobby)+len(late)+len(others), w.hub.Stats().Clients)
		require.Zero(t, time.Since(start))

		for _, m := range lobby {
			require.NoError(t, m.raw.Close())
			<-m.ended
		}
		synctest.Wait()
		require.Equal(t, 1+len(late)+len(others), w.hub.Stats().Clients, "leaves go on")

		// Past its bound the room takes no more, and its publishers wait; others go on.
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		room, err := w.hub.Room("lobby")
		require.NoError(t, err)
		published := make(chan error, 1)
		go func() {
			for {
				if _, err := room.Publish(ctx, hub.Text("more")); err != nil {
					published <- err
					return
				}
			}
		}()
		for n := range others {
			w.publish(fmt.Sprint("small ", n), "message", 1)
		}
		require.GreaterOrEqual(t, got(others, 101), small/5)
		require.Zero(t, time.Since(start))
		cancel()
		require.ErrorIs(t, <-published, context.Canceled, "the publisher waited")

		w.endsBy(3 * time.Second)
		<-stuck.ended
	}, hub.WithTextFormat(hub.RawText()), hub.WithLogger(quiet))
}

// get is a plain request for a room.
func (w *world) get(path string, header http.Header) *http.Response {
	w.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://hub.test"+path, nil)
	require.NoError(w.t, err)
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := w.dev.Do(req)
	require.NoError(w.t, err)
	require.NoError(w.t, resp.Body.Close())
	return resp
}

// upgrade is a valid handshake, with changes: pairs of header and value, "" removes.
func upgrade(changes ...string) http.Header {
	h := http.Header{}
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", "websocket")
	h.Set("Sec-WebSocket-Version", "13")
	h.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	for i := 0; i < len(changes); i += 2 {
		if h.Del(changes[i]); changes[i+1] != "" {
			h.Set(changes[i], changes[i+1])
		}
	}
	return h
}

func TestRequestsThatAreRefused(t *testing.T) {
	tests := map[string]struct {
		path   string
		header http.Header
		status int
	}{
		"plain GET":               {"/room/lobby", nil, 426},
		"no key":                  {"/room/lobby", upgrade("Sec-WebSocket-Key", ""), 400},
		"bad key":                 {"/room/lobby", upgrade("Sec-WebSocket-Key", "x"), 400},
		"bad version":             {"/room/lobby", upgrade("Sec-WebSocket-Version", "8"), 400},
		"no version":              {"/room/lobby", upgrade("Sec-WebSocket-Version", ""), 400},
		"unknown subprotocol":     {"/room/lobby", upgrade("Sec-WebSocket-Protocol", "mqtt"), 400},
		"foreign origin":          {"/room/lobby", upgrade("Origin", "https://evil.test"), 403},
		"null origin":             {"/room/lobby", upgrade("Origin", "null"), 403},
		"name with a colon":       {"/room/lobby?name=a:b", upgrade(), 400},
		"name with a star":        {"/room/lobby?name=*a", upgrade(), 400},
		"name with a newline":     {"/room/lobby?name=a%0Ab", upgrade(), 400},
		"name too long":           {"/room/lobby?name=" + strings.Repeat("x", 65), upgrade(), 400},
		"name given twice":        {"/room/lobby?name=a&name=b", upgrade(), 400},
		"room with a space":       {"/room/%20lobby", upgrade(), 400},
		"room too long":           {"/room/" + strings.Repeat("x", 65), upgrade(), 400},
		"cursor that is garbage":  {"/room/lobby?since=garbage", upgrade(), 400},
		"session that is garbage": {"/room/lobby?session=garbage", upgrade(), 400},
		"history too long":        {"/room/lobby?history=1001", upgrade(), 400},
	}
	inBubble(t, func(w *world) {
		for name, tt := range tests {
			resp := w.get(tt.path, tt.header)
			require.Equal(t, tt.status, resp.StatusCode, name)
		}
		require.Zero(t, w.hub.Stats().Clients)
		require.Zero(t, w.hub.Stats().Rooms)
	})
}

func TestBounds(t *testing.T) {
	inBubble(t, func(w *world) {
		room, err := w.hub.Room("small", hub.WithMaxMembers(1))
		require.NoError(t, err)
		a := w.json(room.Name(), "name=a")
		resp := w.get("/room/small", upgrade())
		require.Equal(t, 503, resp.StatusCode)
		require.NotEmpty(t, resp.Header.Get("Retry-After"))
		w.json("other", "name=b")
		require.Equal(t, 503, w.get("/room/third", upgrade()).StatusCode, "two rooms are open")
		w.json("other", "name=c")
		resp = w.get("/room/other", upgrade())
		require.Equal(t, 429, resp.StatusCode)
		require.NotEmpty(t, resp.Header.Get("Retry-After"))
		a.leave()
		synctest.Wait()
		w.json("small", "name=d")
	}, hub.WithMaxClients(3), hub.WithMaxRooms(2))
}

func TestHandler(t *testing.T) {
	handler := func(in *hub.Incoming) error {
		switch text := string(in.Message.Data); text {
		case "publish":
			in.Message.Data = []byte("changed")
		case "twice":
			if err := in.Publish(in.Client.Context()); err != nil {
				return err
			}
		case "answer":
			if err := in.Client.Send(hub.Text("answered")); err != nil {
				return err
			}
			return hub.ErrHandled
		case "signal":
			if err := in.Room.Broadcast(in.Client.Context(), hub.Binary([]byte{1, 2})); err != nil {
				return err
			}
			return hub.ErrHandled
		case "refuse":
			return &hub.Refusal{Message: "mind your language"}
		case "fail":
			return errors.New("secret detail")
		}
		return nil
	}
	inBubble(t, func(w *world) {
		alice, _ := w.enter("lobby", "name=alice")
		say := func(text string) { alice.sendf(`{"type":"publish","id":%q,"data":%q}`, text, text) }
		say("publish")
		require.Equal(t, "changed", alice.until("message").text())
		say("twice")
		require.Equal(t, "twice", alice.until("message").text())
		say("answer")
		require.Equal(t, "answered", alice.until("signal").text())
		require.Zero(t, alice.until("ack").Seq, "it was not published")
		say("signal")
		require.Equal(t, []byte{1, 2}, alice.until("signal").DataBase64)
		say("refuse")
		e := alice.until("error")
		require.Equal(t, "refused", e.Code)
		require.Equal(t, "mind your language", e.Message)
		say("fail")
		e = alice.until("error")
		require.Equal(t, "refused", e.Code)
		require.NotContains(t, e.Message, "secret")

		room, _ := w.hub.Room("lobby")
		kept, err := room.History(context.Background(), 0, 10)
		require.NoError(t, err)
		require.Len(t, kept, 2)
		alice.leave()
		synctest.Wait()

		bob := w.plain("lobby", "name=bob")
		bob.line()
		bob.send("answer")
		require.Equal(t, "answered", bob.line())
		bob.send("refuse")
		require.Equal(t, "* your message was not sent: mind your language", bob.line())
	}, hub.WithHandler(handler), hub.WithLogger(quiet))
}

// A room's own handler, OnJoin and authorization hold for whoever comes from another room.
func TestOptionsOfTheRoomInQuestion(t *testing.T) {
	var log sync.Map
	inBubble(t, func(w *world) {
		_, err := w.hub.Room("news",
			hub.WithHandler(func(*hub.Incoming) error { return &hub.Refusal{Message: "read only"} }),
			hub.WithOnJoin(func(c *hub.Client, r *hub.Room) { log.Store(r.Name(), c.Name()) }),
			hub.WithAuthorize(func(c *hub.Client, _ string) error {
				if c.Name() != "alice" {
					return errors.New("no")
				}
				return nil
			}))
		require.NoError(t, err)
		alice, _ := w.enter("lobby", "name=alice")
		alice.send(`{"type":"join","room":"news"}`)
		alice.until("welcome")
		alice.send(`{"type":"publish","room":"news","id":"1","data":"x"}`)
		require.Equal(t, "read only", alice.until("error").Message)
		alice.send(`{"type":"publish","id":"1","data":"x"}`)
		alice.until("ack")
		name, _ := log.Load("news")
		require.Equal(t, "alice", name)
		_, ok := log.Load("lobby")
		require.False(t, ok)
		alice.send(`{"type":"join","room":"other"}`)
		require.Equal(t, "forbidden", alice.until("error").Code, "other has no WithAuthorize")

		bob, _ := w.enter("lobby", "name=bob")
		bob.send(`{"type":"join","room":"news"}`)
		require.Equal(t, "forbidden", bob.until("error").Code)
	})
}

// A lame broker keeps nothing of those called slow until their context ends.
type lame struct{ broker.Broker }

func (b lame) Publish(ctx context.Context, m *broker.Message) (broker.Receipt, error) {
	if m.From.Name == "slow" {
		<-ctx.Done()
		return broker.Receipt{}, ctx.Err()
	}
	return b.Broker.Publish(ctx, m)
}

func TestSlowBrokerSlowsThatPublisherAlone(t *testing.T) {
	b := broker.NewMemory()
	inBubble(t, func(w *world) {
		slow, _ := w.enter("lobby", "name=slow")
		fast, _ := w.enter("lobby", "name=fast")
		start := time.Now()
		slow.send(`{"type":"publish","id":"1","data":1}`)
		synctest.Wait()
		fast.talk("m", 3)
		require.Zero(t, time.Since(start))
		e := slow.until("error")
		require.Equal(t, "unavailable", e.Code)
		require.Equal(t, "1", e.ID)
		require.Positive(t, e.RetryAfterMS)
		require.Equal(t, 10*time.Second, time.Since(start))
	}, hub.WithBroker(lame{b}))
	require.NoError(t, b.Close())
}

func TestClosedBrokerSendsClientsToComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := broker.NewMemory()
		w := newWorld(t, hub.New(hub.WithBroker(b), hub.WithLogger(quiet)), nil)
		t.Cleanup(w.close)
		p, _ := w.enter("lobby", "name=alice")
		require.NoError(t, b.Close())
		require.Equal(t, 1012, p.closed().Code)
		synctest.Wait()
		require.Zero(t, w.hub.Stats().Rooms)
		require.Equal(t, 503, w.get("/room/lobby", upgrade()).StatusCode)
	})
}

func TestBlocking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hub.New(hub.WithBlocking())
		returned := make(chan struct{})
		w := newWorld(t, h, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(rw, r)
			close(returned)
		}))
		t.Cleanup(w.close)
		p := w.plain("lobby", "")
		p.line()
		synctest.Wait()
		select {
		case <-returned:
			require.Fail(t, "returned with the client connected")
		default:
		}
		p.leave()
		<-returned
	})
}

// A service with a wire format of its own: opaque bytes in and out.
func TestRawFormat(t *testing.T) {
	inBubble(t, func(w *world) {
		a, b := w.plain("lobby", ""), w.plain("lobby", "")
		synctest.Wait()
		a.send("\x02{opaque}\n")
		for _, p := range []*peer{a, b} {
			require.Equal(t, "\x02{opaque}\n", p.line())
		}
		room, _ := w.hub.Room("lobby")
		require.NoError(t, room.Broadcast(context.Background(), hub.Text("signal")))
		require.Equal(t, "signal", b.line())
	}, hub.WithTextFormat(hub.RawText()))
}

func TestTemplates(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.plain("lobby", "name=alice")
		require.Equal(t, "+alice@lobby", a.line())
		a.send("x\n{name}")
		require.Equal(t, "<alice> x\n    {name}", a.line())
	}, hub.WithTextFormat(hub.TextFrom(hub.TextTemplates{Message: "<{name}> {text}", Joined: "+{name}@{room}"})))
}

func TestOnJoinAndOnLeave(t *testing.T) {
	var mu sync.Mutex // guards log
	var log []string
	note := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		log = append(log, fmt.Sprintf(format, args...))
	}
	took := func() []string {
		mu.Lock()
		defer mu.Unlock()
		was := log
		log = nil
		return was
	}
	var h *hub.Hub
	inBubble(t, func(w *world) {
		h = w.hub
		alice := w.plain("lobby", "name=alice")
		require.Equal(t, "welcome alice, 1 here", alice.line(), "callbacks may call the hub")
		alice.leave()
		synctest.Wait()
		require.Equal(t, []string{"join alice lobby", "leave alice lobby <nil>"}, took())

		bob := w.plain("lobby", "name=bob")
		bob.line()
		bob.cut()
		synctest.Wait()
		got := took()
		require.Equal(t, "join bob lobby", got[0])
		require.Contains(t, got[1], "leave bob lobby hub: connection closed with 1006")

		carol := w.plain("lobby", "name=kick")
		require.Equal(t, 1008, carol.closed().Code)
		synctest.Wait()
		require.Equal(t, []string{"join kick lobby", "leave kick lobby hub: connection closed with 1008: begone"}, took())
	}, hub.WithTextFormat(hub.RawText()), hub.WithOnJoin(func(c *hub.Client, r *hub.Room) {
		note("join %s %s", c.Name(), r.Name())
		if c.Name() == "kick" {
			c.Close(hub.CodePolicy, "begone")
			return
		}
		n := 0
		for range c.Rooms() {
			n++
		}
		if err := c.Send(hub.Text(fmt.Sprintf("welcome %s, %d here", c.Name(), h.Stats().Clients))); err != nil || n != 1 {
			note("send: %v, rooms: %d", err, n)
		}
	}), hub.WithOnLeave(func(c *hub.Client, r *hub.Room, reason error) {
		note("leave %s %s %v", c.Name(), r.Name(), reason)
	}))
}

func TestRoomCloseAndHandle(t *testing.T) {
	inBubble(t, func(w *world) {
		room, err := w.hub.Room("lobby")
		require.NoError(t, err)
		same, err := w.hub.Room("lobby")
		require.NoError(t, err)
		require.Same(t, room, same)

		// The handle is good however often the loop idles away.
		for range 3 {
			p := w.plain("lobby", "name=alice")
			p.line()
			require.Equal(t, 1, w.hub.Stats().Rooms)
			n := 0
			for m := range room.Members() {
				require.Equal(t, "alice", m.Name)
				n++
			}
			require.Equal(t, 1, n)
			p.leave()
			elapse(time.Minute)
			require.Zero(t, w.hub.Stats().Rooms, "idle")
			_, err = room.Publish(context.Background(), hub.Text("to nobody"))
			require.NoError(t, err)
		}

		home, _ := w.enter("lobby", "name=home")
		guest, _ := w.enter("kitchen", "name=guest")
		guest.send(`{"type":"join","room":"lobby"}`)
		guest.until("joined")
		require.NoError(t, room.Close(context.Background()))
		require.Equal(t, 1001, home.closed().Code)
		require.Equal(t, "lobby", guest.until("left_room").Room, "it keeps its other room")
		guest.send(`{"type":"ping"}`)
		guest.until("pong")
		_, err = room.Publish(context.Background(), hub.Text("x"))
		require.ErrorIs(t, err, hub.ErrRoomClosed)
		require.NoError(t, room.Close(context.Background()), "once is enough")

		again, err := w.hub.Room("lobby")
		require.NoError(t, err)
		require.NotSame(t, room, again)
		kept, err := again.History(context.Background(), 0, 10)
		require.NoError(t, err)
		require.Len(t, kept, 3, "what is kept stays")
		p := w.plain("lobby", "name=new")
		require.Equal(t, "* new joined", p.line())
	}, hub.WithAuthorize(func(*hub.Client, string) error { return nil }))
}

func TestOptionsOfARoom(t *testing.T) {
	inBubble(t, func(w *world) {
		r, err := w.hub.Room("vip")
		require.NoError(t, err)
		same, err := w.hub.Room("vip", hub.WithMaxMembers(1))
		require.NoError(t, err, "it is not open")
		require.Same(t, r, same)
		require.Equal(t, 426, w.get("/room/other", nil).StatusCode)
		_, err = w.hub.Room("other", hub.WithMaxMembers(1))
		require.NoError(t, err, "a stranger's request does not make a room")

		p := w.json("vip", "")
		require.Equal(t, 503, w.get("/room/vip", upgrade()).StatusCode, "the option holds")
		_, err = w.hub.Room("vip", hub.WithMaxMembers(2))
		require.ErrorContains(t, err, "open")
		p.leave()
		elapse(time.Minute)
		_, err = w.hub.Room("vip", hub.WithMaxMembers(2))
		require.NoError(t, err)
		w.json("vip", "")
		w.json("vip", "")
	})
}

func TestOneLineRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		room := hub.NewRoom("lobby")
		l := memnet.Listen()
		srv := &http.Server{Handler: room}
		go func() { _ = srv.Serve(l) }()
		client := &http.Client{Transport: &http.Transport{DialContext: l.DialContext}}
		ws, _, err := wsconn.Dial(t.Context(), "ws://hub.test/", wsconn.DialOptions{HTTPClient: client})
		require.NoError(t, err)
		_, p, err := ws.Read(t.Context())
		require.NoError(t, err)
		require.Regexp(t, `^\* guest-\w+ joined$`, string(p), "a guest without a name")
		ws.CloseNow()
		require.NoError(t, room.Close(context.Background()))
		require.NoError(t, srv.Close())
	})
	require.Panics(t, func() { hub.NewRoom("a/b") })
}

func TestUsersOfTheService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hub.New()
		room, err := h.Room("lobby", hub.WithLogger(quiet))
		require.NoError(t, err)
		type key struct{}
		var client *hub.Client
		w := newWorld(t, h, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			r = r.WithContext(context.WithValue(r.Context(), key{}, "value"))
			client = room.NewClient(hub.WithUser("u1"), hub.WithName("Alice"))
			client.ServeHTTP(rw, r)
			client.ServeHTTP(rw, r) // logs, and writes to a hijacked connection: no effect
		}))
		t.Cleanup(w.close)
		p := w.json("lobby", "name=mallory&session=AAAAAAAAAAAAAAAAAAAAAA")
		hi := p.event()
		require.Equal(t, "u1", hi.User)
		require.Equal(t, "Alice", hi.Name, "the query is ignored")
		require.Empty(t, hi.Session)
		require.Equal(t, "value", client.Context().Value(key{}), "the request's values outlive it")
		require.NoError(t, client.Context().Err(), "its end does not reach the client")
		require.NoError(t, client.Err())
		client.Close(4000, "enough")
		require.Equal(t, 4000, p.closed().Code)
		<-client.Done()
		require.ErrorIs(t, client.Context().Err(), context.Canceled)
		var ce *hub.CloseError
		require.ErrorAs(t, client.Err(), &ce)
		require.Equal(t, hub.CloseError{Code: 4000, Reason: "enough"}, *ce)
		require.ErrorIs(t, client.Send(hub.Text("x")), hub.ErrClosed)
	})
}

func TestNonsensePanicsInTheConstructor(t *testing.T) {
	for name, f := range map[string]func(){
		"message limit": func() { hub.WithMessageLimit(0) },
		"rate":          func() { hub.WithPublishRate(-1, 1) },
		"burst":         func() { hub.WithPublishRate(1, 0) },
		"queue":         func() { hub.WithQueue(1, 1) },
		"queue total":   func() { hub.WithQueueTotal(1 << 10) },
		"ping":          func() { hub.WithPing(time.Minute, time.Second) },
		"logger":        func() { hub.WithLogger(nil) },
		"handler":       func() { hub.WithHandler(nil) },
		"history":       func() { hub.WithHistory(-1, time.Hour) },
		"origins":       func() { hub.WithOrigins("[") },
		"broker":        func() { hub.WithBroker(nil) },
	} {
		require.Panics(t, f, name)
	}
}

// A faulty broker is the one in memory with what a test puts in its way. The hooks are set
// before the hub is used.
type faulty struct {
	broker.Broker
	subscribe func(context.Context) error // goes before Subscribe
	since     func(context.Context) error // goes before Since
	before    func()                      // comes between Before and its answer
	lease     func()                      // goes before Lease
	update    func(joined, left []broker.Member, apply func() error) error

	mu     sync.Mutex // guards what follows
	subs   []broker.Subscription
	leases int // open
}

func newFaulty(t *testing.T) *faulty {
	b := &faulty{Broker: broker.NewMemory()}
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

func (b *faulty) Subscribe(ctx context.Context, room string) (broker.Subscription, error) {
	if b.subscribe != nil {
		if err := b.subscribe(ctx); err != nil {
			return nil, err
		}
	}
	s, err := b.Broker.Subscribe(ctx, room)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs = append(b.subs, s)
	return s, nil
}

func (b *faulty) Since(ctx context.Context, room string, after broker.Cursor, limit int) (broker.Page, error) {
	if b.since != nil {
		if err := b.since(ctx); err != nil {
			return broker.Page{}, err
		}
	}
	return b.Broker.Since(ctx, room, after, limit)
}

func (b *faulty) Before(ctx context.Context, room string, before uint64, limit int) (broker.Page, error) {
	page, err := b.Broker.Before(ctx, room, before, limit)
	if b.before != nil {
		b.before()
	}
	return page, err
}

func (b *faulty) Lease(ctx context.Context, node string) (broker.Lease, error) {
	if b.lease != nil {
		b.lease()
	}
	l, err := b.Broker.Lease(ctx, node)
	if err != nil {
		return nil, err
	}
	b.count(1)
	return faultyLease{l, b}, nil
}

// count counts leases, and returns how many are open.
func (b *faulty) count(more int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.leases += more
	return b.leases
}

type faultyLease struct {
	broker.Lease
	b *faulty
}

func (l faultyLease) Update(ctx context.Context, room string, joined, left []broker.Member) error {
	apply := func() error { return l.Lease.Update(ctx, room, joined, left) }
	if l.b.update != nil {
		return l.b.update(joined, left, apply)
	}
	return apply()
}

func (l faultyLease) Close(ctx context.Context) error {
	l.b.count(-1)
	return l.Lease.Close(ctx)
}

var errAway = errors.New("the broker is away")

func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// listen reads whatever comes, as a client does that answers pings; the channel is closed
// when the connection has ended.
func (p *peer) listen() <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, _, err := p.read(); err != nil {
				p.ws.CloseNow()
				return
			}
		}
	}()
	return ended
}

// there is who is in a room, by name, in order.
func (w *world) there(room string) []string {
	w.t.Helper()
	r, err := w.hub.Room(room)
	require.NoError(w.t, err)
	names := []string{}
	for m := range r.Members() {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	return names
}

// anyRoom lets everyone in everywhere.
var anyRoom = hub.WithAuthorize(func(*hub.Client, string) error { return nil })

func TestShutdownRefusesWhoWaitsForTheBroker(t *testing.T) {
	b := newFaulty(t)
	b.subscribe = hang
	inBubble(t, func(w *world) {
		refused := make(chan error, 1)
		go func() {
			_, err := w.tryDial("lobby", "", true)
			refused <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start := time.Now()
		_ = w.hub.Shutdown(ctx)
		require.LessOrEqual(t, time.Since(start), time.Second)
		require.ErrorContains(t, <-refused, "503")
	}, hub.WithBroker(b), hub.WithLogger(quiet))
}

// The answer to presence is no older than the joins and leaves that come before it, however long it waits for a
// client that reads slowly.
func TestPresenceIsNotOlderThanWhatCameBefore(t *testing.T) {
	inBubble(t, func(w *world) {
		p, _ := w.enter("lobby", "name=p")
		other, hi := w.enter("lobby", "name=other")
		require.Equal(t, "other", p.until("joined").Member.Name)
		r, err := w.hub.Room("lobby")
		require.NoError(t, err)
		for range 6 { // the network takes two of them
			_, err := r.Publish(context.Background(), hub.Text(strings.Repeat("x", 40_000)))
			require.NoError(t, err)
			synctest.Wait()
		}
		p.send(`{"type":"presence","id":"who"}`)
		synctest.Wait()
		other.leave()
		synctest.Wait()
		there := map[string]bool{}
		for left, answered := false, false; !left || !answered; {
			switch e := p.event(); e.Type {
			case "left":
				left = true
				require.Equal(t, hi.User, e.Member.User)
				delete(there, e.Member.Name)
			case "presence":
				answered = true
				clear(there)
				for _, m := range e.Members {
					there[m.Name] = true
				}
			}
		}
		require.Equal(t, map[string]bool{"p": true}, there)
		p.leave()
	}, hub.WithQueue(8, 1<<20))
}

// A client leaves a room, and the broker does not hear of it before it ends the room's subscription: the client is not
// taken for gone once it is back, on the same connection.
func TestBackAfterTheSubscriptionEnded(t *testing.T) {
	b := newFaulty(t)
	var away atomic.Bool
	b.update = func(_, left []broker.Member, apply func() error) error {
		if len(left) > 0 && away.Load() {
			return errAway
		}
		return apply()
	}
	inBubble(t, func(w *world) {
		p, _ := w.enter("lobby", "name=alice")
		p.send(`{"type":"join","room":"games"}`)
		p.until("joined")
		away.Store(true)
		p.send(`{"type":"leave","room":"games"}`)
		p.until("left_room")
		synctest.Wait()
		b.mu.Lock()
		games := b.subs[1]
		b.mu.Unlock()
		games.Close()
		synctest.Wait()
		away.Store(false)
		p.send(`{"type":"join","room":"games"}`)
		p.until("welcome")
		elapse(time.Minute)
		require.Equal(t, []string{"alice"}, w.there("games"))
		p.leave()
		elapse(time.Minute)
		require.Empty(t, w.there("games"))
	}, anyRoom, hub.WithBroker(b), hub.WithLogger(quiet))
}

// A client that is still on its way in when the hub goes away hears nothing before the welcome that it
// does not get.
func TestDrainBeforeTheWelcome(t *testing.T) {
	b := newFaulty(t)
	b.since = hang
	inBubble(t, func(w *world) {
		w.publish("lobby", "m", 1)
		page, err := b.Broker.Since(context.Background(), "lobby", broker.Cursor{}, 1)
		require.NoError(t, err)
		p := w.json("lobby", "since="+page.Next.String())
		synctest.Wait()
		var got []string
		done := make(chan error, 1)
		go func() {
			for {
				_, s, err := p.read()
				if err != nil {
					p.ws.CloseNow()
					done <- err
					return
				}
				got = append(got, s)
			}
		}()
		require.NoError(t, w.hub.Shutdown(context.Background()))
		var ce *wsconn.CloseError
		require.ErrorAs(t, <-done, &ce)
		require.Equal(t, hub.CodeRestart, ce.Code)
		require.Empty(t, got)
	}, hub.WithBroker(b), hub.WithLogger(quiet))
}

// A client gets the first page of what it missed, and the next one never comes: that holds
// neither the client nor the hub.
func TestSlowHistoryHoldsNobody(t *testing.T) {
	tests := map[string]func(w *world, p *peer){
		"the client leaves": func(_ *world, p *peer) { p.leave() },
		"the client is cut": func(_ *world, p *peer) { p.cut() },
		"the hub is shut down": func(w *world, _ *peer) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = w.hub.Shutdown(ctx)
		},
	}
	for name, end := range tests {
		t.Run(name, func(t *testing.T) {
			b := newFaulty(t)
			var pages atomic.Int32
			b.since = func(ctx context.Context) error {
				if pages.Add(1) > 1 {
					return hang(ctx)
				}
				return nil
			}
			inBubble(t, func(w *world) {
				w.publish("lobby", "m", 200)
				page, err := b.Broker.Since(context.Background(), "lobby", broker.Cursor{}, 1)
				require.NoError(t, err)
				p := w.json("lobby", "since="+page.Next.String())
				p.until("message")
				gone := p.listen()
				synctest.Wait()
				require.EqualValues(t, 2, pages.Load())
				start := time.Now()
				end(w, p)
				<-gone
				synctest.Wait()
				require.LessOrEqual(t, time.Since(start), time.Second)
				require.Zero(t, w.hub.Stats().Clients)
			}, hub.WithBroker(b), hub.WithLogger(quiet))
		})
	}
}

// What a client is owed does not count against it, whatever others do meanwhile.
func TestHistoryMakesNobodySlow(t *testing.T) {
	tests := map[string]struct {
		message hub.Message
		kept    int
		query   string // after the first message, where it has none
		opt     hub.HubOption
	}{
		"resume of large messages":     {hub.Binary(make([]byte, 20_000)), 100, "", hub.WithQueue(256, 1<<20)},
		"first join of large messages": {hub.Text(strings.Repeat("\n", 20_000)), 100, "history=100", hub.WithQueue(256, 1<<20)},
		"more than fits a small queue": {hub.Text(strings.Repeat("x", 2000)), 60, "history=60", hub.WithQueue(16, 1<<20)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				room, err := w.hub.Room("lobby")
				require.NoError(t, err)
				first, err := room.Publish(context.Background(), hub.Text("first"))
				require.NoError(t, err)
				for range tt.kept {
					_, err := room.Publish(context.Background(), tt.message)
					require.NoError(t, err)
				}
				query := tt.query
				if query == "" {
					query = "since=" + first.Cursor.String()
				}
				for range 3 {
					p := w.json("lobby", "name=p&"+query)
					p.raw.Stall(true)
					for range 3 {
						elapse(50 * time.Millisecond)
						other, _ := w.enter("lobby", "name=other&history=0")
						other.leave()
					}
					p.raw.Stall(false)
					seq := p.until("welcome").Seq
					for seq < first.Cursor.Seq+uint64(tt.kept) {
						e := p.until("message")
						require.Equal(t, seq, e.Prev, "each once, in order, without a hole")
						seq = e.Seq
					}
					p.send(`{"type":"ping"}`)
					p.until("pong")
					p.leave()
					synctest.Wait()
				}
				require.Zero(t, w.hub.Stats().Slow)
			}, tt.opt)
		})
	}
}

// Who does not read can't have itself sent the history again and again.
func TestJoinsWaitForWhoDoesNotRead(t *testing.T) {
	var joins atomic.Int32
	inBubble(t, func(w *world) {
		w.publish("lobby", strings.Repeat("x", 16_000), 60)
		p, _ := w.enter("lobby", "history=0")
		go func() {
			for range 19 {
				_ = p.ws.Write(context.Background(), wsconn.OpText, []byte(`{"type":"leave","room":"lobby"}`))
				_ = p.ws.Write(context.Background(), wsconn.OpText, []byte(`{"type":"join","room":"lobby","history":1000}`))
			}
		}()
		elapse(20 * time.Second)
		require.LessOrEqual(t, joins.Load(), int32(5), "of 20: what the queue and the network hold")
		p.cut()
	}, hub.WithAuthorize(func(*hub.Client, string) error { joins.Add(1); return nil }))
}

func TestSlowClientThatMissesTheOldestStays(t *testing.T) {
	for name, size := range map[string]int{"full by its bytes": 10_000, "full by its messages": 1} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				slow, _ := w.enter("lobby", "name=slow")
				slow.raw.Stall(true)
				w.publish("lobby", strings.Repeat("x", size), 2000)
				for range 300 {
					other, _ := w.enter("lobby", "name=other&history=0")
					other.leave()
				}
				synctest.Wait()
				require.Zero(t, w.hub.Stats().Slow, "joins and leaves close nobody")
				slow.raw.Stall(false)
				var seq uint64
				for seq < 2000 {
					switch e := slow.event(); e.Type {
					case "gap":
						require.Equal(t, seq, e.After)
						seq = e.Before - 1
					case "message":
						require.Equal(t, seq, e.Prev, "what is missing was told")
						seq = e.Seq
					}
				}
				slow.talk("still here", 1)
				slow.leave()
			}, hub.WithSlowPolicy(hub.DropOldest))
		})
	}
}

// A process with thousands of members comes, and dies.
func TestManyChangesAtOnceAreOneList(t *testing.T) {
	b := broker.NewMemory()
	inBubble(t, func(w *world) {
		p, _ := w.enter("lobby", "name=p")
		other, err := b.Lease(context.Background(), "another process")
		require.NoError(t, err)
		many := make([]hub.Member, 3064)
		for i := range many {
			many[i] = hub.Member{Client: fmt.Sprint("c", i), User: fmt.Sprint("u", i), Name: fmt.Sprint("name", i)}
		}
		p.raw.Stall(true)
		require.NoError(t, other.Update(context.Background(), "lobby", many, nil))
		require.NoError(t, other.Update(context.Background(), "lobby", nil, many[:64]))
		synctest.Wait()
		require.NoError(t, other.Close(context.Background()))
		synctest.Wait()
		p.raw.Stall(false)

		list := p.event()
		require.Equal(t, "presence", list.Type)
		require.Equal(t, 3065, list.Count)
		for i := range 64 { // so many are told one by one
			e := p.event()
			require.Equal(t, "left", e.Type)
			require.Equal(t, many[i].User, e.Member.User)
		}
		list = p.event()
		require.Equal(t, "presence", list.Type)
		require.Equal(t, 1, list.Count)
		require.Equal(t, "p", list.Members[0].Name)
		p.talk("still here", 1)
		p.leave()
	}, hub.WithBroker(b))
	require.NoError(t, b.Close())
}

func TestNoGhostsOfAnInterruptedRoom(t *testing.T) {
	b := newFaulty(t)
	inBubble(t, func(w *world) {
		back, hi := w.enter("lobby", "name=back")
		gone, _ := w.enter("lobby", "name=gone")
		b.mu.Lock()
		b.subs[0].Close()
		b.mu.Unlock()
		require.Equal(t, 1012, back.closed().Code)
		require.Equal(t, 1012, gone.closed().Code)
		w.json("lobby", "name=back&session="+hi.Session)
		elapse(30 * time.Second)
		require.Equal(t, []string{"back"}, w.there("lobby"))
	}, hub.WithBroker(b), hub.WithLogger(quiet))
}

// An announcement that was applied and whose answer was lost.
func TestPresenceAfterALostAnswer(t *testing.T) {
	t.Run("of a join", func(t *testing.T) {
		b := newFaulty(t)
		lost := false
		b.update = func(joined, _ []broker.Member, apply func() error) error {
			err := apply()
			if len(joined) > 0 && joined[0].Name == "p" && !lost {
				lost = true
				return context.DeadlineExceeded
			}
			return err
		}
		inBubble(t, func(w *world) {
			other, _ := w.enter("lobby", "name=other")
			p := w.json("lobby", "name=p")
			require.Equal(t, "p", other.until("joined").Member.Name)
			p.until("joined")
			p.leave()
			elapse(30 * time.Second)
			require.True(t, lost)
			require.Equal(t, []string{"other"}, w.there("lobby"), "no ghost")
		}, hub.WithBroker(b), hub.WithLogger(quiet))
	})
	t.Run("of a leave", func(t *testing.T) {
		b := newFaulty(t)
		lost := false
		b.update = func(_, left []broker.Member, apply func() error) error {
			err := apply()
			if len(left) > 0 && !lost {
				lost = true
				return context.DeadlineExceeded
			}
			return err
		}
		inBubble(t, func(w *world) {
			p, _ := w.enter("lobby", "name=p")
			synctest.Wait() // the join is announced: a leave behind it would wait, and be undone by the next join
			p.send(`{"type":"leave","room":"lobby"}`)
			p.until("left_room")
			p.send(`{"type":"join","room":"lobby"}`)
			p.until("welcome")
			elapse(30 * time.Second)
			require.True(t, lost)
			require.Equal(t, []string{"p"}, w.there("lobby"), "nobody absent")
		}, hub.WithBroker(b), hub.WithLogger(quiet))
	})
}

// Announcements that fail or take long, among members that come, are cut and come back:
// nobody is told a join or a leave twice, and in the end nobody is there who has gone.
func TestPresenceOverABrokerThatFails(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { presenceOverABrokerThatFails(t, seed) })
	}
}

func presenceOverABrokerThatFails(t *testing.T, seed uint64) {
	b := newFaulty(t)
	var mu sync.Mutex // guards r
	r := rand.New(rand.NewPCG(seed, 0))
	random := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return r.IntN(n)
	}
	some := func(ms int) { elapse(time.Duration(random(ms)) * time.Millisecond) }
	b.update = func(_, _ []broker.Member, apply func() error) error {
		some(300)
		switch random(8) {
		case 0:
			return errAway
		case 1:
			_ = apply()
			return errAway
		}
		return apply()
	}
	inBubble(t, func(w *world) {
		steady, hi := w.enter("lobby", "name=steady")
		told := make(chan struct{})
		go func() {
			defer close(told)
			there := map[string]bool{hi.User: true}
			for {
				_, line, err := steady.read()
				if err != nil {
					return
				}
				var e event
				if err := json.Unmarshal([]byte(line), &e); err != nil {
					t.Errorf("%v: %s", err, line)
				}
				if e.Type != "joined" && e.Type != "left" {
					continue
				}
				if there[e.Member.User] == (e.Type == "joined") {
					t.Errorf("twice: %s", line)
				}
				there[e.Member.User] = e.Type == "joined"
			}
		}()
		var guests sync.WaitGroup
		for i := range 6 {
			session := fmt.Sprintf("AAAAAAAAAAAAAAAAAAAA%dA", i%3) // two connections each
			guests.Go(func() {
				for range 8 {
					p, err := w.tryDial("lobby", "history=0&session="+session, true)
					if err != nil {
						t.Errorf("dial: %v", err)
						return
					}
					ended := p.listen()
					if random(3) == 0 {
						_ = p.ws.Write(context.Background(), wsconn.OpText, []byte(`{"type":"leave","room":"lobby"}`))
						_ = p.ws.Write(context.Background(), wsconn.OpText, []byte(`{"type":"join","room":"lobby"}`))
					}
					some(2000)
					if random(3) == 0 {
						p.cut()
					} else {
						p.leave()
					}
					<-ended
					some(12_000)
				}
			})
		}
		guests.Wait()
		elapse(5 * time.Minute)
		require.Equal(t, []string{"steady"}, w.there("lobby"))
		steady.leave()
		<-told
		elapse(time.Minute)
		require.Zero(t, w.hub.Stats().Rooms)
	}, hub.WithBroker(b), hub.WithLogger(quiet))
}

func TestLingerersAreBounded(t *testing.T) {
	inBubble(t, func(w *world) {
		w.enter("lobby", "name=steady")
		for range 30 {
			p, _ := w.enter("lobby", "")
			p.cut()
			synctest.Wait()
		}
		require.LessOrEqual(t, len(w.there("lobby")), 1+5, "as many as members")
		elapse(30 * time.Second)
		require.Equal(t, []string{"steady"}, w.there("lobby"))
	}, hub.WithMaxMembers(5))
}

func TestRoomCloseEndsWithItsContext(t *testing.T) {
	t.Run("presence is away", func(t *testing.T) {
		b := newFaulty(t)
		var away atomic.Bool
		b.update = func(_, _ []broker.Member, apply func() error) error {
			if away.Load() {
				return errAway
			}
			return apply()
		}
		inBubble(t, func(w *world) {
			p, _ := w.enter("lobby", "")
			p.listen()
			away.Store(true)
			room, err := w.hub.Room("lobby")
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			start := time.Now()
			require.ErrorIs(t, room.Close(ctx), context.DeadlineExceeded)
			require.Equal(t, time.Second, time.Since(start))
		}, hub.WithBroker(b), hub.WithLogger(quiet))
	})
	t.Run("it has ended", func(t *testing.T) {
		for range 20 { // whether the loop or the context is heard first is chance
			inBubble(t, func(w *world) {
				p, _ := w.enter("lobby", "")
				gone := p.listen()
				room, err := w.hub.Room("lobby")
				require.NoError(t, err)
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				start := time.Now()
				_ = room.Close(ctx)
				<-gone
				require.Less(t, time.Since(start), time.Minute)
				synctest.Wait()
				require.Zero(t, w.hub.Stats().Clients, "everyone is sent out all the same")
				require.Zero(t, w.hub.Stats().Rooms)
			})
		}
	})
}

func TestSecondRoomCloseWaitsForTheFirst(t *testing.T) {
	b := newFaulty(t)
	b.update = func(_, left []broker.Member, apply func() error) error {
		if len(left) > 0 {
			elapse(2 * time.Second)
		}
		return apply()
	}
	inBubble(t, func(w *world) {
		p, _ := w.enter("lobby", "")
		p.listen()
		room, err := w.hub.Room("lobby")
		require.NoError(t, err)
		closed := make(chan error, 2)
		for range 2 {
			go func() { closed <- room.Close(context.Background()) }()
			synctest.Wait()
		}
		require.Empty(t, closed, "that it left is not announced yet")
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		require.ErrorIs(t, room.Close(ctx), context.DeadlineExceeded)
		require.NoError(t, <-closed)
		require.NoError(t, <-closed)
		require.Zero(t, w.hub.Stats().Rooms)
	}, hub.WithBroker(b))
}

func TestRoomClosedWhileItOpens(t *testing.T) {
	b := newFaulty(t)
	b.subscribe = func(context.Context) error { elapse(2 * time.Second); return nil }
	inBubble(t, func(w *world) {
		refused := make(chan error, 1)
		go func() {
			_, err := w.tryDial("lobby", "", true)
			refused <- err
		}()
		synctest.Wait()
		room, err := w.hub.Room("lobby")
		require.NoError(t, err)
		require.NoError(t, room.Close(context.Background()))
		require.ErrorContains(t, <-refused, "503")
		synctest.Wait()
		require.Zero(t, w.hub.Stats().Rooms)
		w.enter("lobby", "") // by a new handle
	}, hub.WithBroker(b))
}

func TestHomeRoomIsJoinedAgainAfterItsClose(t *testing.T) {
	inBubble(t, func(w *world) {
		p, _ := w.enter("lobby", "")
		p.send(`{"type":"join","room":"other"}`)
		p.until("joined")
		p.send(`{"type":"leave","room":"lobby"}`)
		p.until("left_room")
		room, err := w.hub.Room("lobby")
		require.NoError(t, err)
		require.NoError(t, room.Close(context.Background()))
		p.send(`{"type":"join","room":"lobby"}`)
		hi := p.event()
		require.Equal(t, "welcome", hi.Type, "%+v", hi)
		require.Equal(t, "lobby", hi.Room)
		p.leave()
	}, anyRoom)
}

func TestHistoryOfARoomEndsWithIt(t *testing.T) {
	h := hub.New()
	for _, tt := range []struct {
		opts []hub.RoomOption
		kept int
	}{{[]hub.RoomOption{hub.WithHistory(1, time.Hour)}, 1}, {nil, 3}} {
		room, err := h.Room("lobby", tt.opts...)
		require.NoError(t, err)
		for i := range 3 {
			_, err := room.Publish(context.Background(), hub.Text(fmt.Sprint(i)))
			require.NoError(t, err)
		}
		kept, err := room.History(context.Background(), 0, 3)
		require.NoError(t, err)
		require.Len(t, kept, tt.kept)
		require.NoError(t, room.Close(context.Background()))
	}
	require.NoError(t, h.Shutdown(context.Background()))
}

func TestCallbacksOfAClientRunOneAtATime(t *testing.T) {
	var mu sync.Mutex // guards what follows
	running := false
	var log []string
	callback := func(what string, r *hub.Room) {
		mu.Lock()
		if running {
			t.Errorf("%s %s: while another one runs", what, r.Name())
		}
		running = true
		log = append(log, what+" "+r.Name())
		mu.Unlock()
		elapse(time.Second)
		mu.Lock()
		running = false
		mu.Unlock()
	}
	inBubble(t, func(w *world) {
		w.publish("many", "m", 200)
		room, err := w.hub.Room("many")
		require.NoError(t, err)
		kept, err := room.History(context.Background(), 0, 200)
		require.NoError(t, err)
		p, _ := w.enter("lobby", "")
		p.sendf(`{"type":"join","room":"many","since":%q}`, kept[0].Cursor.String())
		p.send(`{"type":"join","room":"other"}`)
		p.send(`{"type":"leave","room":"lobby"}`)
		elapse(10 * time.Second)
		p.listen()
		p.leave()
		elapse(10 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		require.ElementsMatch(t, []string{"join lobby", "join many", "join other", "leave lobby", "leave many", "leave other"}, log)
	}, anyRoom,
		hub.WithOnJoin(func(_ *hub.Client, r *hub.Room) { callback("join", r) }),
		hub.WithOnLeave(func(_ *hub.Client, r *hub.Room, _ error) { callback("leave", r) }))
}

func TestLongOnJoinCutsNobody(t *testing.T) {
	inBubble(t, func(w *world) {
		p := w.json("lobby", "")
		p.listen()
		elapse(10 * time.Minute)
		require.Equal(t, 1, w.hub.Stats().Clients)
		p.leave()
	}, hub.WithOnJoin(func(*hub.Client, *hub.Room) { elapse(5 * time.Minute) }))
}

func TestOnLeaveSaysWhy(t *testing.T) {
	tests := map[int]error{
		1000: nil,
		1001: nil,
		1005: nil, // none
		4001: &hub.CloseError{Code: 4001, Reason: "why", Remote: true},
		1011: &hub.CloseError{Code: 1011, Reason: "why", Remote: true},
	}
	for code, want := range tests {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			got := make(chan error, 1)
			inBubble(t, func(w *world) {
				p, _ := w.enter("lobby", "")
				reason := "why"
				if code == 1005 {
					reason = ""
				}
				_ = p.ws.Close(code, reason)
				synctest.Wait()
				require.Len(t, got, 1)
				require.Equal(t, want, <-got)
			}, hub.WithOnLeave(func(_ *hub.Client, _ *hub.Room, err error) { got <- err }))
		})
	}
}

func TestShutdownLeavesNoLease(t *testing.T) {
	b := newFaulty(t)
	b.lease = func() { elapse(time.Second) }
	inBubble(t, func(w *world) {
		room, err := w.hub.Room("lobby")
		require.NoError(t, err)
		go func() {
			for range room.Members() { // opens the room, and the lease
			}
		}()
		synctest.Wait()
		require.NoError(t, w.hub.Shutdown(context.Background()))
		synctest.Wait()
		require.Zero(t, b.count(0))
	}, hub.WithBroker(b))
}

func TestHubIsCollectedAfterShutdown(t *testing.T) {
	made := func(opts ...hub.RoomOption) weak.Pointer[hub.Hub] {
		h := hub.New()
		_, err := h.Room("lobby", opts...)
		require.NoError(t, err)
		require.NoError(t, h.Shutdown(context.Background()))
		return weak.Make(h)
	}
	hubs := []weak.Pointer[hub.Hub]{made(), made(hub.WithMaxMembers(5)), made(hub.WithHistory(1, time.Hour))}
	for range 1000 { // one is not enough: a room's cleanup holds its hub until it has run
		runtime.GC()
		if hubs[0].Value() == nil && hubs[1].Value() == nil && hubs[2].Value() == nil {
			return
		}
	}
	for i, h := range hubs {
		require.Nil(t, h.Value(), "%d", i)
	}
}

// A room's first message comes while a first join reads the history, which is empty.
func TestFirstMessageReachesAFirstJoin(t *testing.T) {
	b := newFaulty(t)
	var once sync.Once
	b.before = func() {
		once.Do(func() {
			m := &broker.Message{Room: "lobby", Kind: broker.KindText, Data: []byte("first")}
			if _, err := b.Publish(context.Background(), m); err != nil {
				t.Errorf("publish: %v", err)
			}
			synctest.Wait() // the room's loop has it
		})
	}
	inBubble(t, func(w *world) {
		p := w.json("lobby", "")
		hi := p.event()
		require.Equal(t, "welcome", hi.Type)
		require.Zero(t, hi.Seq)
		require.Equal(t, "first", p.until("message").text())
		w.publish("lobby", "second", 1)
		require.Equal(t, uint64(1), p.until("message").Prev)
		p.leave()
	}, hub.WithBroker(b))
}

func TestIdentityMayBeAskedForAtAnyTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hub.New()
		room, err := h.Room("lobby")
		require.NoError(t, err)
		c := room.NewClient()
		w := newWorld(t, h, c)
		t.Cleanup(w.close)
		known := make(chan string)
		go func() {
			for c.ID() == "" || c.User() == "" || c.Name() == "" {
				runtime.Gosched()
			}
			known <- c.Name()
		}()
		w.enter("lobby", "name=alice")
		require.Equal(t, "alice", <-known)
	})
}

func TestQueryDoesNotSayWhoAUserIs(t *testing.T) {
	for name, opts := range map[string][]hub.ClientOption{
		"user":          {hub.WithUser("alice")},
		"user and name": {hub.WithUser("u1"), hub.WithName("alice")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := hub.New()
				room, err := h.Room("lobby")
				require.NoError(t, err)
				w := newWorld(t, h, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					room.NewClient(opts...).ServeHTTP(rw, r)
				}))
				t.Cleanup(w.close)
				for _, query := range []string{"name=mallory", "name=*admin*", "name=a&name=b", "session=a-token-of-the-service"} {
					p := w.json("lobby", query)
					require.Equal(t, "alice", p.event().Name, query)
					p.leave()
				}
			})
		})
	}
}

// Who sends what is no command is told so, at five times its rate; then the hub reads no
// faster than it tells.
func TestFloodOfNonsenseIsSlowedDown(t *testing.T) {
	inBubble(t, func(w *world) {
		p, _ := w.enter("lobby", "")
		other, _ := w.enter("lobby", "name=other")
		start := time.Now()
		const n = 1200
		go func() {
			for range n {
				_ = p.ws.Write(context.Background(), wsconn.OpText, []byte(`{"type":"nonsense"}`))
			}
		}()
		synctest.Wait()
		other.talk("not slowed down", 1)
		require.Zero(t, time.Since(start))
		for range n {
			p.until("error")
		}
		require.InDelta(t, 10, time.Since(start).Seconds(), 0.1, "1,000 past the burst at 100 a second")
		p.leave()
		other.leave()
	})
}

func TestHandlerThatFailsAfterItPublished(t *testing.T) {
	inBubble(t, func(w *world) {
		p, _ := w.enter("lobby", "")
		p.send(`{"type":"publish","id":"1","data":"x"}`)
		p.send(`{"type":"ping"}`)
		var got []string
		for len(got) < 3 {
			got = append(got, p.event().Type)
		}
		require.ElementsMatch(t, []string{"message", "ack", "pong"}, got, "it was published, and is acked")
		p.leave()
	}, hub.WithLogger(quiet), hub.WithHandler(func(in *hub.Incoming) error {
		return errors.Join(in.Publish(in.Client.Context()), errors.New("failed"))
	}))
}

func TestClosedBrokerIsErrClosed(t *testing.T) {
	b := broker.NewMemory()
	h := hub.New(hub.WithBroker(b))
	room, err := h.Room("lobby")
	require.NoError(t, err)
	require.NoError(t, b.Close())
	_, err = room.Publish(context.Background(), hub.Text("x"))
	require.ErrorIs(t, err, hub.ErrClosed)
	_, err = room.History(context.Background(), 0, 1)
	require.ErrorIs(t, err, hub.ErrClosed)
	require.ErrorIs(t, room.Broadcast(context.Background(), hub.Text("x")), hub.ErrClosed)
	require.NoError(t, h.Shutdown(context.Background()))

	h = hub.New() // whose broker is its own
	room, err = h.Room("lobby")
	require.NoError(t, err)
	require.NoError(t, h.Shutdown(context.Background()))
	_, err = room.History(context.Background(), 0, 1)
	require.ErrorIs(t, err, hub.ErrClosed)
}

// docs/protocol.md is what the server does: each event that it really sends has the fields
// that the page lists, all of those that are not optional, and no other; and every event
// of the page is sent.
func TestProtocolDocument(t *testing.T) {
	fields, optional := documentedEvents(t)
	seen := map[string]bool{}
	check := func(line string) string {
		var e map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(line), &e), line)
		var typ string
		require.NoError(t, json.Unmarshal(e["type"], &typ), line)
		require.Contains(t, fields, typ, "an event that docs/protocol.md lacks")
		seen[typ] = true
		delete(e, "type")
		for name := range e {
			require.Contains(t, fields[typ], name, "%s has a field that docs/protocol.md lacks: %s", typ, line)
		}
		for name := range fields[typ] {
			if _, ok := e[name]; !ok && !optional[typ][name] {
				require.Fail(t, "a field is missing", "%s: %s: %s", typ, name, line)
			}
		}
		return typ
	}
	inBubble(t, func(w *world) {
		until := func(p *peer, typ string) {
			for check(p.line()) != typ {
			}
		}
		alice := w.json("lobby", "name=alice")
		until(alice, "joined")
		bob := w.json("lobby", "name=bob")
		until(bob, "joined")
		for _, step := range [][2]string{
			{`{"type":"publish","id":"1","data":"x"}`, "ack"},
			{`{"type":"publish","id":"1","data":"x"}`, "ack"},
			{`{"type":"publish","id":"1","data":"y"}`, "error"},
			{`{"type":"publish","data_base64":"AAE=","key":"k"}`, "message"},
			{`{"type":"presence","id":"p"}`, "presence"},
			{`{"type":"history","id":"h","limit":5}`, "history"},
			{`{"type":"ping","id":"p"}`, "pong"},
			{`{"type":"join","id":"j","room":"other"}`, "welcome"},
			{`{"type":"leave","id":"l","room":"other"}`, "left_room"},
			{`{"type":"nonsense","id":"n"}`, "error"},
		} {
			alice.send(step[0])
			until(alice, step[1])
		}
		bob.send(`{"type":"typing","on":true}`)
		until(alice, "typing")
		bob.sendf(`{"type":"publish","id":"d","data":1,"to":{"user":"u"}}`)
		until(bob, "ack")
		room, err := w.hub.Room("lobby")
		require.NoError(t, err)
		require.NoError(t, room.Broadcast(context.Background(), hub.Text("to all")))
		until(alice, "signal")
		self, hi := w.enter("lobby", "name=self")
		self.sendf(`{"type":"publish","id":"d","data":1,"to":{"client":%q}}`, hi.Client)
		until(self, "direct")
		bob.leave()
		until(alice, "left")
		old := w.json("lobby", "since="+hi.Cursor)
		w.publish("lobby", "m", 10)
		old.cut()
		again := w.json("lobby", "since="+hi.Cursor)
		until(again, "gap")
		go func() { _ = w.hub.Shutdown(context.Background()) }()
		until(alice, "drain")
		for _, p := range []*peer{alice, again, self} {
			go p.closed()
		}
	}, hub.WithHistory(5, time.Hour), hub.WithAuthorize(func(*hub.Client, string) error { return nil }))
	for typ := range fields {
		require.True(t, seen[typ], "docs/protocol.md has an event that was never sent: %s", typ)
	}
}

// documentedEvents reads the tables of fields of section 4.
func documentedEvents(t *testing.T) (fields, optional map[string]map[string]bool) {
	page, err := os.ReadFile("docs/protocol.md")
	require.NoError(t, err)
	fields, optional = map[string]map[string]bool{}, map[string]map[string]bool{}
	heading := regexp.MustCompile("^### Event `(\\w+)`")
	name := regexp.MustCompile("`(\\w+)`")
	event, table := "", ""
	for line := range strings.Lines(string(page)) {
		if m := heading.FindStringSubmatch(line); m != nil {
			event, table = m[1], ""
			fields[event], optional[event] = map[string]bool{}, map[string]bool{}
			continue
		}
		if strings.HasPrefix(line, "#") {
			event = ""
		}
		cells := strings.Split(line, "|")
		if event == "" || len(cells) < 4 {
			table = ""
			continue
		}
		if table == "" {
			table = strings.TrimSpace(cells[1])
			continue
		}
		names := name.FindAllStringSubmatch(cells[1], -1)
		for _, m := range names {
			if table == "field" {
				fields[event][m[1]] = true
				// one of data and data_base64 is there
				optional[event][m[1]] = strings.Contains(cells[2], "optional") || strings.HasPrefix(m[1], "data")
			}
		}
	}
	require.Len(t, fields, 15, "events")
	return fields, optional
}

// exampleServer serves a handler on the loopback network, and exampleClient is the plain
// door's simplest client: it returns the lines that it gets.
func exampleServer(h http.Handler) (url string, stop func()) {
	srv := httptest.NewServer(h)
	return "ws" + strings.TrimPrefix(srv.URL, "http"), srv.Close
}

func exampleClient(url string) *wsconn.ClientConn {
	ws, _, err := wsconn.Dial(context.Background(), url, wsconn.DialOptions{})
	if err != nil {
		panic(err)
	}
	return ws
}

func printLines(ws *wsconn.ClientConn, n int) {
	for range n {
		_, line, err := ws.Read(context.Background())
		if err != nil {
			panic(err)
		}
		fmt.Println(string(line))
	}
}

// A hub in a service's own mux.
func ExampleHub() {
	h := hub.New()
	mux := http.NewServeMux()
	mux.Handle("/room/{room}", h)
	url, stop := exampleServer(mux)
	defer stop()
	defer func() { _ = h.Shutdown(context.Background()) }() // before the server stops

	alice := exampleClient(url + "/room/lobby?name=alice")
	printLines(alice, 1)
	if err := alice.Write(context.Background(), wsconn.OpText, []byte("hello")); err != nil {
		panic(err)
	}
	printLines(alice, 1)
	alice.CloseNow()
	// Output:
	// * alice joined
	// alice: hello
}

// A service that knows its users, and speaks in the room itself.
func ExampleRoom_NewClient() {
	room := hub.NewRoom("lobby")
	url, stop := exampleServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user := "u-17" // from the service's own login
		room.NewClient(hub.WithUser(user), hub.WithName("Alice")).ServeHTTP(w, r)
	}))
	defer stop()
	defer func() { _ = room.Close(context.Background()) }()

	alice := exampleClient(url)
	printLines(alice, 1)
	receipt, err := room.Publish(context.Background(), hub.Text("the meeting starts"))
	if err != nil {
		panic(err)
	}
	printLines(alice, 1)
	fmt.Println("kept as", receipt.Cursor.Seq)
	for m := range room.Members() {
		fmt.Println("here:", m.User, m.Name)
	}
	alice.CloseNow()
	// Output:
	// * Alice joined
	// * the meeting starts
	// kept as 1
	// here: u-17 Alice
}

// A handler sees each message before it is published.
func ExampleWithHandler() {
	h := hub.New(hub.WithHandler(func(in *hub.Incoming) error {
		switch text := string(in.Message.Data); {
		case text == "/time":
			if err := in.Client.Send(hub.Text("it is late")); err != nil {
				return err
			}
			return hub.ErrHandled // answered, not published
		case strings.Contains(text, "spam"):
			return &hub.Refusal{Message: "no spam, please"}
		}
		return nil // published
	}))
	url, stop := exampleServer(h)
	defer stop()
	defer func() { _ = h.Shutdown(context.Background()) }()

	alice := exampleClient(url + "/lobby?name=alice")
	printLines(alice, 1)
	for _, line := range []string{"/time", "spam", "hello"} {
		if err := alice.Write(context.Background(), wsconn.OpText, []byte(line)); err != nil {
			panic(err)
		}
		printLines(alice, 1)
	}
	alice.CloseNow()
	// Output:
	// * alice joined
	// it is late
	// * your message was not sent: no spam, please
	// alice: hello
}

// A plain door with words of the service's own.
func ExampleTextFrom() {
	format := hub.TextFrom(hub.TextTemplates{Message: "<{name}> {text}", Joined: "→ {name}"})
	h := hub.New(hub.WithTextFormat(format))
	url, stop := exampleServer(h)
	defer stop()
	defer func() { _ = h.Shutdown(context.Background()) }()

	alice := exampleClient(url + "/lobby?name=alice")
	printLines(alice, 1)
	if err := alice.Write(context.Background(), wsconn.OpText, []byte("hello")); err != nil {
		panic(err)
	}
	printLines(alice, 1)
	alice.CloseNow()
	// Output:
	// → alice
	// <alice> hello
}

// A message is encoded once for each door in use, and deflated once for each, however many
// members there are; everyone reads the same, live and from the history.
func TestCompression(t *testing.T) {
	inBubble(t, func(w *world) {
		long := strings.Repeat("the same words again, ", 40)
		say := func(n int) {
			for i := range n {
				r, err := w.hub.Room("lobby")
				require.NoError(t, err)
				_, err = r.Publish(t.Context(), hub.Text(fmt.Sprint(long, i)))
				require.NoError(t, err)
				_, err = r.Publish(t.Context(), hub.Text(fmt.Sprint("short ", i)))
				require.NoError(t, err)
			}
		}
		expect := func(p *peer, n int) {
			for i := range n {
				for _, want := range []string{fmt.Sprint(long, i), fmt.Sprint("short ", i)} {
					if p.json {
						require.Equal(t, want, p.until("message").text())
						continue
					}
					line := p.line()
					for strings.HasSuffix(line, " joined") {
						line = p.line()
					}
					require.Equal(t, "* "+want, line)
				}
			}
		}
		var peers []*peer
		for i := range 5 {
			for _, json := range []bool{true, false} {
				for _, compress := range []bool{true, false} {
					p, err := w.dialWith("lobby", fmt.Sprintf("name=m%d%v%v", i, json, compress), json, compress)
					require.NoError(t, err)
					peers = append(peers, p)
				}
			}
		}
		synctest.Wait()
		before := w.hub.Stats()
		const n = 20
		say(n)
		for _, p := range peers {
			expect(p, n)
		}
		after := w.hub.Stats()
		require.EqualValues(t, 2*2*n, after.Encoded-before.Encoded, "two doors")
		require.EqualValues(t, 2*n, after.Deflated-before.Deflated, "the long ones, for two doors")

		for range 10 { // a page of history is shared as well
			for _, json := range []bool{true, false} {
				p, err := w.dialWith("lobby", "history=100&name=late", json, true)
				require.NoError(t, err)
				expect(p, n)
			}
		}

		p, err := w.dialWith("lobby", "name=asks", true, true)
		require.NoError(t, err)
		p.send(`{"type":"history","limit":100}`)
		require.Len(t, p.until("history").Messages, 2*n)
		p.sendf(`{"type":"publish","id":"1","data":%q}`, long) // nhooyr deflates it
		require.Equal(t, long, p.until("message").text())
	}, hub.WithCompression(256))
}

// Where it is off, or the client does not offer it, nothing is deflated.
func TestCompressionIsOffByDefault(t *testing.T) {
	inBubble(t, func(w *world) {
		p, err := w.dialWith("lobby", "name=alice", true, true)
		require.NoError(t, err)
		long := strings.Repeat("the same words again, ", 40)
		p.sendf(`{"type":"publish","id":"1","data":%q}`, long)
		require.Equal(t, long, p.until("message").text())
		require.Zero(t, w.hub.Stats().Deflated)
	})
}

// A crowd is the members of rooms whose sockets take whatever they are given: what is measured
// is the hub's own.
type crowd struct {
	tb     testing.TB
	hub    *hub.Hub
	joined chan *hub.Client
	short  bool // now and then a socket takes half of a write

	mu      sync.Mutex // guards members
	members []*hub.Client

	got  atomic.Int64 // bytes
	want atomic.Int64 // where got makes all ready
	all  chan struct{}
}

func newCrowd(tb testing.TB, opts ...hub.HubOption) *crowd {
	c := &crowd{tb: tb, joined: make(chan *hub.Client, 1), all: make(chan struct{}, 1)}
	c.hub = hub.New(append([]hub.HubOption{
		hub.WithTextFormat(hub.RawText()),
		hub.WithOnJoin(func(m *hub.Client, _ *hub.Room) { c.joined <- m }),
		hub.WithHistory(16, time.Hour),
		hub.WithIdle(time.Hour),
	}, opts...)...)
	tb.Cleanup(func() {
		for _, m := range c.members { // nobody answers a close frame
			m.Close(hub.CodeGoingAway, "")
		}
		require.NoError(tb, c.hub.Shutdown(context.Background()))
	})
	return c
}

// A void is a socket from which nothing comes.
type void struct {
	c     *crowd
	n     int // of TryWrite
	live  atomic.Bool
	once  sync.Once
	ended chan struct{}
}

func (v *void) Read([]byte) (int, error) {
	<-v.ended
	return 0, os.ErrDeadlineExceeded
}

func (v *void) Write(p []byte) (int, error) {
	if v.live.Load() {
		v.c.count(len(p))
	}
	return len(p), nil
}

func (v *void) TryWrite(p []byte) (int, error) {
	if v.n++; v.c.short && v.n%61 == 0 {
		p = p[:len(p)/2]
	}
	return v.Write(p)
}

func (c *crowd) count(n int) {
	if c.got.Add(int64(n)) == c.want.Load() {
		c.all <- struct{}{}
	}
}

func (v *void) SetReadDeadline(t time.Time) error {
	if !t.IsZero() && !t.After(time.Now()) {
		v.once.Do(func() { close(v.ended) })
	}
	return nil
}

func (v *void) Close() error                     { return v.SetReadDeadline(time.Unix(1, 0)) }
func (v *void) CloseWrite() error                { return v.Close() }
func (v *void) SetDeadline(t time.Time) error    { return v.SetReadDeadline(t) }
func (v *void) SetWriteDeadline(time.Time) error { return nil }
func (v *void) LocalAddr() net.Addr              { return memnet.Addr("192.0.2.1:1") }
func (v *void) RemoteAddr() net.Addr             { return memnet.Addr("192.0.2.1:2") }

// A voidWriter is the ResponseWriter of a void's handshake.
type voidWriter struct {
	http.ResponseWriter
	conn *void
}

func (w voidWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.conn, bufio.NewReadWriter(bufio.NewReaderSize(w.conn, 16), bufio.NewWriterSize(w.conn, 16)), nil
}

// enter lets a client into a room.
func (c *crowd) enter(room string) *hub.Client {
	r := httptest.NewRequest("GET", "/room/"+room, nil)
	r.Header = upgrade()
	v := &void{c: c, ended: make(chan struct{})}
	c.hub.ServeHTTP(voidWriter{httptest.NewRecorder(), v}, r)
	m := <-c.joined
	v.live.Store(true)
	return m
}

func (c *crowd) fill(room string, members int) *hub.Room {
	c.tb.Helper()
	for range members {
		m := c.enter(room)
		c.mu.Lock()
		c.members = append(c.members, m)
		c.mu.Unlock()
	}
	r, err := c.hub.Room(room)
	require.NoError(c.tb, err)
	return r
}

// said is a message whose frame has 128 bytes.
var said = hub.Text(strings.Repeat("x", 126-2))

// deliver publishes a message in a room of that many and waits until all have it.
func (c *crowd) deliver(r *hub.Room, members int) {
	c.want.Add(int64(members * (2 + len(said.Data))))
	if _, err := r.Publish(context.Background(), said); err != nil {
		c.tb.Fatal(err)
	}
	<-c.all
}

// mallocs is how many allocations f makes, everyone else's included.
func mallocs(f func()) float64 {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs - before.Mallocs)
}

// A message allocates, a delivery does not: what a message costs does not grow with the room.
func TestDeliveriesAllocateNothing(t *testing.T) {
	if os.Getenv("HUB_NO_FASTPATH") == "1" {
		t.Skip("it is about the fast path")
	}
	const messages, few, many = 200, 10, 2000
	perMessage := func(members int) float64 {
		c := newCrowd(t)
		r := c.fill("lobby", members)
		for range messages {
			c.deliver(r, members)
		}
		return mallocs(func() {
			for range messages {
				c.deliver(r, members)
			}
		}) / messages
	}
	small, large := perMessage(few), perMessage(many)
	t.Logf("allocations for a message: %.1f with %d members, %.1f with %d", small, few, large, many)
	require.Less(t, (large-small)/(many-few), 0.005, "allocations for a delivery")
	require.Less(t, large, 60.0, "allocations for a message")
}

// What a message costs, and each delivery of it.
func BenchmarkDeliver(b *testing.B) {
	for _, members := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprintf("members=%d", members), func(b *testing.B) {
			c := newCrowd(b)
			r := c.fill("lobby", members)
			c.deliver(r, members)
			b.ReportAllocs()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for b.Loop() {
				c.deliver(r, members)
			}
			runtime.ReadMemStats(&after)
			deliveries := float64(b.N) * float64(members)
			b.ReportMetric(float64(after.Mallocs-before.Mallocs)/deliveries, "allocs/delivery")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/deliveries, "ns/delivery")
		})
	}
}

// What it costs to come into a room of that many, handshake and all, and to leave it.
func BenchmarkJoinLeave(b *testing.B) {
	for _, members := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprintf("members=%d", members), func(b *testing.B) {
			c := newCrowd(b)
			c.fill("lobby", members)
			b.ReportAllocs()
			for b.Loop() {
				m := c.enter("lobby")
				m.Close(hub.CodeNormal, "")
				<-m.Done()
			}
		})
	}
}

// Messages in any of 10,000 rooms of two.
func BenchmarkRooms(b *testing.B) {
	const rooms, members = 10_000, 2
	c := newCrowd(b)
	all := make([]*hub.Room, rooms)
	for i := range all {
		all[i] = c.fill(fmt.Sprint("room-", i), members)
	}
	r := rand.New(rand.NewPCG(1, 2))
	b.ReportAllocs()
	for b.Loop() {
		c.deliver(all[r.IntN(rooms)], members)
	}
}

// inUse is the memory in use, heap and stacks.
func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// idleRooms opens rooms in which nobody is, and returns what each holds.
func idleRooms(tb testing.TB, rooms int) float64 {
	h := hub.New(hub.WithIdle(time.Hour), hub.WithMaxRooms(rooms))
	before := inUse()
	for i := range rooms {
		r, err := h.Room(fmt.Sprint("room ", i))
		require.NoError(tb, err)
		for range r.Members() { // opens it
		}
	}
	require.Equal(tb, rooms, h.Stats().Rooms)
	each := float64(inUse()-before) / float64(rooms)
	require.NoError(tb, h.Shutdown(context.Background()))
	return each
}

// Bounded: an idle room holds its loop, its stack, and no buffer. The bound leaves room for the larger
// stacks of the race detector; BenchmarkIdleRooms tells the figure.
func TestIdleRoomIsSmall(t *testing.T) {
	each := idleRooms(t, 2000)
	t.Logf("an idle room holds %.0f bytes", each)
	require.LessOrEqual(t, each, 10.0*1024)
}

func BenchmarkIdleRooms(b *testing.B) {
	var each float64
	for b.Loop() {
		each = idleRooms(b, 10_000)
	}
	b.ReportMetric(each, "B/room")
}

// A site is where memory was allocated.
type site [32]uintptr

// A record is what is in use that was allocated at one site.
type record struct{ runtime.MemProfileRecord }

func (r *record) where() string {
	var s strings.Builder
	for frames, more := runtime.CallersFrames(r.Stack()), true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		fmt.Fprintf(&s, "\n\t%s:%d", f.Function, f.Line)
	}
	return s.String()
}

// heap notes what is in use now, which is exact with a MemProfileRate of 1. The slice is large
// enough: what it allocated itself would be in the next profile.
func heap(tb testing.TB, records []runtime.MemProfileRecord) []runtime.MemProfileRecord {
	for range 3 { // the profile is that of the GC before the last; and pools empty in two
		runtime.GC()
	}
	n, ok := runtime.MemProfile(records, false)
	require.True(tb, ok, "%d places", n)
	return records[:n]
}

// bySite adds up records of one place.
func bySite(records []runtime.MemProfileRecord) map[site]record {
	sites := map[site]record{}
	for _, r := range records {
		was := sites[r.Stack0]
		r.AllocBytes += was.AllocBytes
		r.FreeBytes += was.FreeBytes
		r.AllocObjects += was.AllocObjects
		r.FreeObjects += was.FreeObjects
		sites[r.Stack0] = record{r}
	}
	return sites
}

// Leaves nothing: after 1,000,000 deliveries the heap is as it was before, at each place that
// allocates, but for what the runtime keeps of its own. The slack is for what is on its way.
func TestHeapAfterAMillionDeliveries(t *testing.T) {
	const members, slack, slackBytes = 1000, 16, 16 << 10
	messages := 1000
	if os.Getenv("HUB_NO_FASTPATH") == "1" {
		messages = 100 // a goroutine for each delivery
	}
	defer func(rate int) { runtime.MemProfileRate = rate }(runtime.MemProfileRate)
	runtime.MemProfileRate = 1
	c := newCrowd(t, hub.WithPing(1000*time.Hour, 2000*time.Hour)) // the sweeper has nothing in hand
	c.short = true
	r := c.fill("lobby", members)
	profiles := [2][]runtime.MemProfileRecord{make([]runtime.MemProfileRecord, 20_000), make([]runtime.MemProfileRecord, 20_000)}
	for i, messages := range [...]int{200, messages} {
		// First each connection comes to have queued, and the history to be full.
		for range messages {
			c.deliver(r, members)
		}
		profiles[i] = heap(t, profiles[i])
	}
	require.EqualValues(t, (200+messages)*members*(2+len(said.Data)), c.got.Load())
	before, after := bySite(profiles[0]), bySite(profiles[1])
	var bytes, objects int64
	for at, r := range after {
		was := before[at]
		moreBytes, more := r.InUseBytes()-was.InUseBytes(), r.InUseObjects()-was.InUseObjects()
		where := r.where()
		if strings.Contains(where, "runtime.malg:") || strings.Contains(where, "runtime.acquireSudog:") {
			continue // goroutines that have ended, and what waiting takes: used again, never freed
		}
		bytes, objects = bytes+moreBytes, objects+more
		if more > slack {
			t.Errorf("%d objects more, %d bytes, of%s", more, moreBytes, where)
		}
	}
	t.Logf("%d objects, %d bytes more", objects, bytes)
	require.LessOrEqual(t, bytes, int64(slackBytes))
}

// An empty message has its place like any other, and reaches everyone.
func TestEmptyMessage(t *testing.T) {
	inBubble(t, func(w *world) {
		alice, bob := w.plain("lobby", ""), w.json("lobby", "")
		bob.until("welcome")
		synctest.Wait()
		r, err := w.hub.Room("lobby")
		require.NoError(t, err)
		for _, s := range []string{"one", "", "two"} {
			_, err := r.Publish(t.Context(), hub.Text(s))
			require.NoError(t, err)
			require.Equal(t, s, alice.line())
			require.Equal(t, s, bob.until("message").text())
		}
	}, hub.WithTextFormat(hub.RawText()))
}
