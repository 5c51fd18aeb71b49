// Package soak puts a hub under load over real sockets for as long as one likes, with clients that
// stall, vanish, come back and send nonsense, and wants every stream whole and nothing left behind:
//
//	go test -race -run TestSoak ./internal/soak -soak 60s
package soak

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/internal/wsconn"
)

var (
	duration = flag.Duration("soak", time.Second, "how long the load of TestSoak lasts")
	seed     = flag.Uint64("seed", 1, "of TestSoak's random choices; which happens when is the system's")
)

// patience is how long whatever must come may take.
const patience = 30 * time.Second

// What a room's clients do. The load is bounded by the publishers' pace.
const (
	followers  = 4
	plain      = 3
	talkers    = 2
	stalled    = 2
	passers    = 2
	pace       = time.Millisecond
	maxText    = 3000
	queue      = 64
	queueBytes = 64 << 10
)

type soak struct {
	t    *testing.T
	hub  *hub.Hub
	addr string

	load  context.Context // while it lasts, things go wrong
	end   context.Context // by when all must be done
	rooms []*room

	messages, gaps, reconnects, refused atomic.Int64
}

type room struct {
	name    string
	options []hub.RoomOption
	head    atomic.Uint64 // once all is said

	mu   sync.Mutex // guards said
	said []int      // by seq: which of the service's messages it is; 0: not known
}

func TestSoak(t *testing.T) {
	before, files := runtime.NumGoroutine(), openFiles()
	t.Cleanup(func() { require.Empty(t, left(before, files)) })

	s := &soak{t: t}
	var stop, giveUp context.CancelFunc
	s.load, stop = context.WithTimeout(t.Context(), *duration)
	defer stop()
	s.end, giveUp = context.WithTimeout(t.Context(), *duration+patience)
	defer giveUp()
	s.hub = hub.New(
		hub.WithAuthorize(func(*hub.Client, string) error { return nil }),
		hub.WithPublishRate(0, 0),
		hub.WithQueue(queue, queueBytes),
		hub.WithHistory(512, time.Hour),
		hub.WithWriteTimeout(2*time.Second),
		hub.WithCloseTimeout(time.Second),
		hub.WithIdle(50*time.Millisecond),
		hub.WithResumeWindow(200*time.Millisecond),
		hub.WithPing(time.Second, 3*time.Second),
		hub.WithLogger(slog.New(slog.DiscardHandler)),
	)
	for name, options := range map[string][]hub.RoomOption{
		"disconnect": {hub.WithSlowPolicy(hub.Disconnect)},
		"drop":       {hub.WithSlowPolicy(hub.DropOldest)},
		"latest":     {hub.WithSlowPolicy(hub.LatestPerKey)},
		"deflated":   {hub.WithSlowPolicy(hub.DropOldest), hub.WithCompression(500)},
	} {
		_, err := s.hub.Room(name, options...)
		require.NoError(t, err)
		s.rooms = append(s.rooms, &room{name: name, options: options})
	}
	served := s.serve()

	var publishing, closing, bad, members sync.WaitGroup
	for i, r := range s.rooms {
		rnd := func(role, n int) *rand.Rand { return rand.New(rand.NewPCG(*seed, uint64(i*10_000+role*100+n))) }
		publishing.Go(func() { s.publish(r, rnd(0, 0)) })
		closing.Go(func() { s.closeAgain(r, rnd(1, 0)) })
		for n := range talkers {
			publishing.Go(func() { s.talk(r, rnd(2, n)) })
		}
		for n := range followers {
			members.Go(func() { s.follow(r, rnd(3, n)) })
		}
		for n := range plain {
			members.Go(func() { s.listen(r, rnd(4, n)) })
		}
		for n := range stalled {
			bad.Go(func() { s.stall(r, rnd(5, n)) })
		}
		for n := range passers {
			bad.Go(func() { s.pass(r, rnd(6, n)) })
		}
	}
	publishing.Wait()
	closing.Wait()
	for _, r := range s.rooms {
		h, err := s.hub.Room(r.name)
		require.NoError(t, err)
		last, err := h.History(s.end, 0, 1)
		require.NoError(t, err)
		require.NotEmpty(t, last, r.name)
		r.head.Store(last[0].Cursor.Seq)
		// One more, so that all hear that it is over.
		receipt, err := h.Publish(s.end, hub.Text("over"))
		require.NoError(t, err)
		r.head.Store(receipt.Cursor.Seq)
	}
	bad.Wait()
	members.Wait()

	start := time.Now()
	require.NoError(t, s.hub.Shutdown(s.end))
	stats := s.hub.Stats()
	require.Zero(t, stats.Clients)
	require.Zero(t, stats.Rooms)
	require.NoError(t, served())
	t.Logf("published %d, delivered %d, read %d, gaps %d, reconnects %d, refused %d, slow %d; shutdown took %v", stats.Published,
		stats.Batches, s.messages.Load(), s.gaps.Load(), s.reconnects.Load(), s.refused.Load(), stats.Slow, time.Since(start).Round(time.Millisecond))
	require.Positive(t, s.messages.Load())
	require.Positive(t, s.reconnects.Load())
	require.NoError(t, s.end.Err(), "all was done in time")
}

// left waits for the last goroutines and descriptors to go, and tells what stays.
func left(goroutines, files int) string {
	for deadline := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		if runtime.NumGoroutine() <= goroutines && openFiles() <= files {
			return ""
		}
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			return fmt.Sprintf("%d goroutines, were %d; %d descriptors, were %d\n%s", runtime.NumGoroutine(), goroutines,
				openFiles(), files, buf[:runtime.Stack(buf, true)])
		}
	}
}

// openFiles counts this process's descriptors, where the system tells.
func openFiles() int {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(all)
}

// A smallListener's sockets hold little, so that who does not read is noticed soon.
type smallListener struct{ net.Listener }

func (l smallListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(16 << 10)
	}
	return c, err
}

func (s *soak) serve() (stop func() error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(s.t, err)
	s.addr = l.Addr().String()
	mux := http.NewServeMux()
	mux.Handle("/room/{room}", s.hub)
	srv := &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(smallListener{l}) }()
	return func() error {
		if err := srv.Close(); err != nil {
			return err
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}

func (s *soak) pause(r *rand.Rand, most time.Duration) {
	select {
	case <-time.After(time.Duration(r.Int64N(int64(most)))):
	case <-s.end.Done():
	}
}

// publish is the service: numbered messages, now and then one again under its id. Half of them have one
// of a few keys.
func (s *soak) publish(r *room, rnd *rand.Rand) {
	pad := strings.Repeat("pad ", maxText/4)
	for n := 1; s.load.Err() == nil; {
		m := hub.Text(fmt.Sprintf("%d %s", n, pad[:rnd.IntN(maxText)]))
		m.ID, m.From = fmt.Sprint(n), hub.Member{User: "service", Name: "service"}
		if rnd.IntN(2) == 0 {
			m.Key = fmt.Sprint("key", rnd.IntN(3))
		}
		h, err := s.hub.Room(r.name)
		if err != nil {
			s.t.Errorf("room: %v", err)
			return
		}
		receipt, err := h.Publish(s.end, m)
		if errors.Is(err, hub.ErrRoomClosed) {
			s.pause(rnd, pace)
			continue
		}
		if err != nil {
			s.t.Errorf("publish: %v", err)
			return
		}
		if rnd.IntN(10) == 0 {
			if again, err := h.Publish(s.end, m); err == nil && (again.Cursor != receipt.Cursor || !again.Duplicate) {
				s.t.Errorf("%s: published twice: %+v, then %+v", r.name, receipt, again)
			}
		}
		r.note(receipt.Cursor.Seq, n)
		n++
		s.pause(rnd, 2*pace)
	}
}

func (r *room) note(seq uint64, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for uint64(len(r.said)) <= seq {
		r.said = append(r.said, 0)
	}
	r.said[seq] = n
}

func (r *room) known(seq uint64) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if seq >= uint64(len(r.said)) {
		return 0
	}
	return r.said[seq]
}

// closeAgain closes the room now and then; whoever was in it comes back.
func (s *soak) closeAgain(r *room, rnd *rand.Rand) {
	for {
		select {
		case <-time.After(200*time.Millisecond + time.Duration(rnd.Int64N(int64(time.Second)))):
		case <-s.load.Done():
			return
		}
		h, err := s.hub.Room(r.name)
		if err != nil {
			s.t.Errorf("room: %v", err)
			return
		}
		ctx, cancel := context.WithTimeout(s.end, 500*time.Millisecond)
		_ = h.Close(ctx) // its error says that it had to cut some
		cancel()
		_, _ = s.hub.Room(r.name, r.options...) // who came first has it open
	}
}

// dial opens a socket; nil where it was refused, as it may be while a room closes.
func (s *soak) dial(r *room, query url.Values, json bool, compress bool) (*wsconn.ClientConn, *net.TCPConn) {
	var tcp *net.TCPConn
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err == nil {
			tcp = c.(*net.TCPConn)
			_ = tcp.SetReadBuffer(16 << 10)
		}
		return c, err
	}}
	defer transport.CloseIdleConnections()
	o := wsconn.DialOptions{HTTPClient: &http.Client{Transport: transport}, Compress: compress}
	if json {
		o.Subprotocols = []string{"hub.v1.json"}
	}
	ws, resp, err := wsconn.Dial(s.end, "ws://"+s.addr+"/room/"+r.name+"?"+query.Encode(), o)
	if err == nil {
		return ws, tcp
	}
	if resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
		if s.end.Err() == nil {
			s.t.Errorf("%s: dial: %v", r.name, err)
		}
	}
	s.refused.Add(1)
	return nil, nil
}

// An event is what a follower looks at of any event.
type event struct {
	Type, Recovery, Cursor, Session, ID, Code string
	Seq, Prev, After, Before                  uint64
	Missed                                    *int
	Reset                                     bool
	Data                                      json.RawMessage
	From                                      hub.Member
}

// A follower has a place in its room's stream, over connections.
type follower struct {
	cursor, session string
	seq             uint64
	service         int // the last of the service's messages
}

// follow keeps its place until the room's end, with a fault now and then.
func (s *soak) follow(r *room, rnd *rand.Rand) {
	f := &follower{}
	for s.end.Err() == nil {
		q := url.Values{"name": {"follower"}}
		if f.cursor != "" {
			q.Set("since", f.cursor)
			q.Set("session", f.session)
			s.reconnects.Add(1)
		}
		if ws, tcp := s.dial(r, q, true, rnd.IntN(2) == 0); ws != nil {
			over := s.followOne(r, rnd, f, ws, tcp)
			ws.CloseNow()
			if over {
				return
			}
		}
		s.pause(rnd, 20*time.Millisecond)
	}
	s.t.Errorf("%s: a follower is at %d of %d", r.name, f.seq, r.head.Load())
}

func (s *soak) followOne(r *room, rnd *rand.Rand, f *follower, ws *wsconn.ClientConn, tcp *net.TCPConn) (over bool) {
	fault := 50 + rnd.IntN(2000) // events until it
	for n := 0; ; n++ {
		_, p, err := ws.Read(s.end)
		if err != nil {
			return false
		}
		var e event
		if err := json.Unmarshal(p, &e); err != nil {
			s.t.Errorf("%v: %q", err, p)
			return true
		}
		if why := f.note(s, r, &e); why != "" {
			s.t.Errorf("%s: a follower at %d: %s: %.300s", r.name, f.seq, why, p)
			return true
		}
		if head := r.head.Load(); head > 0 && f.seq >= head {
			_ = ws.Close(1000, "")
			return true
		}
		if s.load.Err() != nil {
			continue // what went wrong before is to be mended
		}
		if n == fault {
			switch rnd.IntN(3) {
			case 0:
				_ = tcp.SetLinger(0)
				_ = tcp.Close()
			case 1:
				_ = ws.Close(1000, "")
			case 2:
				s.pause(rnd, 3*time.Second) // long enough to be too slow
			}
		} else if rnd.IntN(200) == 0 {
			s.pause(rnd, 30*time.Millisecond)
		}
	}
}

// note holds an event against the stream so far; "" is right.
func (f *follower) note(s *soak, r *room, e *event) (wrong string) {
	switch e.Type {
	case "welcome":
		switch {
		case f.cursor == "" && e.Recovery != "new":
			return "a first join"
		case f.cursor != "" && e.Recovery != "recovered" && e.Recovery != "gap":
			return "a verdict that can't be"
		case f.cursor != "" && e.Seq != f.seq:
			return "it goes on elsewhere"
		}
		f.seq, f.cursor, f.session = e.Seq, e.Cursor, e.Session
	case "gap":
		if e.Reset || e.After != f.seq || e.Before <= e.After+1 || e.Missed == nil || *e.Missed != int(e.Before-e.After-1) {
			return "a gap that can't be"
		}
		f.seq, f.cursor = e.Before-1, e.Cursor
		s.gaps.Add(1)
	case "message":
		if e.Prev != f.seq || e.Seq <= e.Prev {
			return "a hole"
		}
		f.seq, f.cursor = e.Seq, e.Cursor
		s.messages.Add(1)
		var text string
		_ = json.Unmarshal(e.Data, &text)
		n := number(text)
		if e.From.User != "service" || n == 0 {
			return ""
		}
		if known := r.known(e.Seq); known != 0 && known != n {
			return fmt.Sprintf("message %d, published as %d", n, known)
		}
		if n <= f.service {
			return fmt.Sprintf("message %d after %d", n, f.service)
		}
		f.service = n
	}
	return ""
}

// number is the number of one of the service's messages, 0 of others.
func number(text string) (n int) {
	if _, err := fmt.Sscanf(text, "%d ", &n); err != nil {
		return 0
	}
	return n
}

// listen is a plain client: what it misses of the service's messages within a connection, it was told.
func (s *soak) listen(r *room, rnd *rand.Rand) {
	for s.end.Err() == nil {
		ws, tcp := s.dial(r, url.Values{"name": {"listener"}}, false, rnd.IntN(2) == 0)
		if ws == nil {
			s.pause(rnd, 20*time.Millisecond)
			continue
		}
		over := s.listenOne(r, rnd, ws, tcp)
		ws.CloseNow()
		if over || r.head.Load() > 0 { // it may have come after the end
			return
		}
	}
}

func (s *soak) listenOne(r *room, rnd *rand.Rand, ws *wsconn.ClientConn, tcp *net.TCPConn) (over bool) {
	last, skipped, told := 0, 0, 0
	fault := 50 + rnd.IntN(2000)
	for n := 0; ; n++ {
		if r.head.Load() > 0 && last == 0 {
			return true
		}
		_, p, err := ws.Read(s.end)
		if err != nil {
			return false
		}
		line := string(p)
		var missed int
		if _, err := fmt.Sscanf(line, "* %d message", &missed); err == nil && strings.Contains(line, "missed") {
			told += missed
			s.gaps.Add(1)
		}
		if line == "* over" {
			_ = ws.Close(1000, "")
			return true
		}
		if rest, ok := strings.CutPrefix(line, "service: "); ok {
			n := number(rest)
			if last > 0 && n <= last {
				s.t.Errorf("%s: a listener: message %d after %d", r.name, n, last)
				return true
			}
			if last > 0 {
				skipped += n - last - 1
			}
			if last = n; skipped > told {
				s.t.Errorf("%s: a listener: %d messages missing, %d told", r.name, skipped, told)
				return true
			}
			s.messages.Add(1)
		}
		if s.load.Err() != nil {
			continue
		}
		if n == fault {
			_ = tcp.SetLinger(0)
			_ = tcp.Close()
		} else if rnd.IntN(100) == 0 {
			s.pause(rnd, 100*time.Millisecond)
		}
	}
}

// talk publishes by the JSON door and waits for each ack, over connections; it repeats what was not
// acked under the same id.
func (s *soak) talk(r *room, rnd *rand.Rand) {
	session := ""
	for id := 1; s.load.Err() == nil; {
		q := url.Values{"name": {"talker"}, "history": {"0"}}
		if session != "" {
			q.Set("session", session)
		}
		ws, _ := s.dial(r, q, true, false)
		if ws == nil {
			s.pause(rnd, 20*time.Millisecond)
			continue
		}
		for s.load.Err() == nil {
			msg := fmt.Sprintf(`{"type":"publish","id":"t%d","data":"talk %d"}`, id, id)
			if ws.Write(s.end, wsconn.OpText, []byte(msg)) != nil {
				break
			}
			got, ok := s.answer(ws, &session)
			if !ok {
				break
			}
			if got.Type == "ack" {
				if got.ID != fmt.Sprint("t", id) {
					s.t.Errorf("ack of %s, want t%d", got.ID, id)
				}
				id++
			}
			s.pause(rnd, 10*pace)
		}
		ws.CloseNow()
	}
}

// answer reads up to an ack or an error.
func (s *soak) answer(ws *wsconn.ClientConn, session *string) (e event, ok bool) {
	for {
		_, p, err := ws.Read(s.end)
		if err != nil {
			return e, false
		}
		e = event{}
		if err := json.Unmarshal(p, &e); err != nil {
			s.t.Errorf("%v: %q", err, p)
			return e, false
		}
		switch e.Type {
		case "welcome":
			*session = e.Session
		case "ack", "error":
			return e, true
		}
	}
}

// stall connects and reads nothing, then goes without a word.
func (s *soak) stall(r *room, rnd *rand.Rand) {
	for s.load.Err() == nil {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			s.t.Errorf("dial: %v", err)
			return
		}
		_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		subprotocol := ""
		if rnd.IntN(2) == 0 {
			subprotocol = "Sec-WebSocket-Protocol: hub.v1.json\r\n"
		}
		fmt.Fprintf(conn, "GET /room/%s?name=stalled HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n", r.name, s.addr, subprotocol)
		_, _ = bufio.NewReaderSize(conn, 64).ReadByte()
		select {
		case <-time.After(time.Duration(rnd.Int64N(int64(4 * time.Second)))):
		case <-s.load.Done():
		}
		if rnd.IntN(2) == 0 {
			_ = conn.(*net.TCPConn).SetLinger(0)
		}
		_ = conn.Close()
	}
}

// pass comes and goes, and says things that it should not.
func (s *soak) pass(r *room, rnd *rand.Rand) {
	for s.load.Err() == nil {
		ws, tcp := s.dial(r, url.Values{"name": {"passer"}}, rnd.IntN(2) == 0, rnd.IntN(2) == 0)
		if ws == nil {
			s.pause(rnd, 20*time.Millisecond)
			continue
		}
		switch rnd.IntN(5) {
		case 0:
			_ = ws.Write(s.end, wsconn.OpText, []byte("\xff\xfe"))
			_, _, _ = ws.Read(s.end)
		case 1:
			_ = ws.Write(s.end, wsconn.OpText, []byte(`{"type":"nonsense"`))
			_, _, _ = ws.Read(s.end)
		case 2:
			_, _ = tcp.Write([]byte("\x81\x05hello")) // not masked
		case 3:
			_ = ws.Close(1000, "")
		}
		ws.CloseNow()
		s.pause(rnd, 20*time.Millisecond)
	}
}
