package room

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/internal/catchup"
	"github.com/chathub-go/hub/internal/fanout"
	"github.com/chathub-go/hub/internal/memnet"
	"github.com/chathub-go/hub/internal/wire"
	"github.com/chathub-go/hub/internal/wsconn"
)

// A stage is a loop whose broker the test plays.
type stage struct {
	t      *testing.T
	broker *script
	loop   *Loop
	pool   *fanout.Pool
	net    *memnet.Listener
	srv    *http.Server
	conns  chan *wsconn.Conn
	wg     sync.WaitGroup
	stop   chan struct{}
	failed chan struct{}
	slow   atomic.Uint64
}

func onStage(t *testing.T, f func(s *stage)) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{
			t: t, pool: fanout.NewPool(2), net: memnet.Listen(), stop: make(chan struct{}),
			broker: newScript(), conns: make(chan *wsconn.Conn), failed: make(chan struct{}),
		}
		s.srv = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := wsconn.Accept(w, r, &wsconn.Options{Subprotocols: []string{wire.Subprotocol}, GapFrame: GapFrame(JSON)})
			if err != nil {
				t.Errorf("accept: %v", err)
				return
			}
			s.conns <- c
		})}
		go func() { _ = s.srv.Serve(s.net) }()
		var err error
		s.loop, err = Open(context.Background(), Config{
			Name: "lobby", Broker: opener{script: s.broker}, Lease: leaser{s.broker}, Farewells: new(Farewells), Pool: s.pool, Text: wire.DefaultText(), Counts: new(Counts),
			MaxMembers: 10, ResumeWindow: 10 * time.Second, Idle: 30 * time.Second,
			Logger: slog.New(slog.DiscardHandler), Go: s.wg.Go, Stop: s.stop,
			Retire: func() bool { return true }, Failed: func() { close(s.failed) },
		})
		require.NoError(t, err)
		s.loop.Start(func() {})
		t.Cleanup(func() {
			close(s.stop)
			s.wg.Wait()
			s.pool.Close()
			_ = s.srv.Close()
		})
		f(s)
	})
}

// A guest is a member and its other end.
type guest struct {
	s    *stage
	m    *Member
	conn *wsconn.Conn
	ws   *wsconn.ClientConn
}

func (s *stage) guest(user, client string) *guest {
	s.t.Helper()
	g := &guest{s: s}
	o := wsconn.DialOptions{
		Subprotocols: []string{wire.Subprotocol},
		HTTPClient: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return s.net.Dial(ctx) },
		}},
	}
	dialed := make(chan error, 1)
	go func() {
		var err error
		g.ws, _, err = wsconn.Dial(context.Background(), "ws://hub.test/", o)
		dialed <- err
	}()
	g.conn = <-s.conns
	require.NoError(s.t, <-dialed)
	who := broker.Member{Client: client, User: user, Name: user}
	g.m = &Member{Who: who, Door: JSON, Conn: g.conn, Lag: &s.slow, Messages: 128, Bytes: 1 << 19}
	s.t.Cleanup(func() {
		g.conn.Abort()
		g.conn.Finish()
		g.ws.CloseNow()
	})
	return g
}

// join joins at a position; Fresh where it is nil.
func (g *guest) join(at *broker.Cursor) bool {
	g.s.t.Helper()
	require.NoError(g.s.t, g.s.loop.Reserve())
	j := &Joining{Member: g.m, Fresh: at == nil, Welcome: func(start broker.Cursor, _ []broker.Member, n int) *wsconn.Frame {
		return wsconn.NewFrame(wsconn.OpText, fmt.Appendf(nil, "welcome at %d, %d there", start.Seq, n))
	}}
	if at != nil {
		j.Start, j.At = *at, *at
	}
	live, err := g.s.loop.Join(context.Background(), j)
	require.NoError(g.s.t, err)
	return live
}

// reads returns the next n frames: of events their type and seq.
func (g *guest) reads(n int) []string {
	g.s.t.Helper()
	var got []string
	for range n {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		_, p, err := g.ws.Read(ctx)
		cancel()
		require.NoError(g.s.t, err)
		s := string(p)
		if i := strings.Index(s, `"seq":`); i >= 0 {
			s = "message " + s[i+6:strings.IndexByte(s[i:], ',')+i]
		} else if strings.HasPrefix(s, `{"type":"`) {
			s = s[9 : 9+strings.IndexByte(s[9:], '"')]
		}
		got = append(got, s)
	}
	return got
}

// A script is a subscription, and what a lease does; the test hands out the events.
type script struct {
	ready chan struct{}
	turns int           // of the loop, which alone counts them
	spins chan struct{} // closed when they are more than any test needs

	mu     sync.Mutex // guards what follows
	events []broker.Event
	err    error
	update func(joined, left []broker.Member) error
}

func newScript() *script {
	return &script{ready: make(chan struct{}, 1), spins: make(chan struct{})}
}

// opener is the script as a broker.
type opener struct {
	broker.Broker // nil: what the loop must not call
	script        *script
}

func (o opener) Subscribe(context.Context, string) (broker.Subscription, error) { return o.script, nil }

func (s *script) Head() broker.Cursor      { return at(0) }
func (s *script) Members() []broker.Member { return nil }
func (s *script) Close()                   {}

func (s *script) Ready() <-chan struct{} {
	if s.turns++; s.turns == 10_000 {
		close(s.spins)
	}
	return s.ready
}

func (s *script) Take(buf []broker.Event, n int) ([]broker.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = min(n, len(s.events))
	buf = append(buf, s.events[:n]...)
	if s.events = s.events[n:]; len(s.events) > 0 {
		s.wake()
		return buf, nil
	}
	return buf, s.err
}

func (s *script) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

func (s *script) say(events ...broker.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, events...)
	s.wake()
}

// leaser is the script as a lease: Broker.Close has another signature.
type leaser struct{ *script }

func (s *script) Update(_ context.Context, _ string, joined, left []broker.Member) error {
	s.mu.Lock()
	update := s.update
	s.mu.Unlock()
	if update != nil {
		return update(joined, left)
	}
	if len(joined) > 0 {
		s.say(broker.Event{Type: broker.EventJoined, Members: joined})
	}
	if len(left) > 0 {
		s.say(broker.Event{Type: broker.EventLeft, Members: left})
	}
	return nil
}

func (l leaser) Close(context.Context) error { return nil }

func at(seq uint64) broker.Cursor {
	c := broker.Cursor{Epoch: "e", Seq: seq}
	if seq > 0 {
		c.Tag = seq
	}
	return c
}

func msg(seq uint64) broker.Event {
	return broker.Event{Type: broker.EventMessage, Message: &broker.Message{
		Room: "lobby", Kind: broker.KindText, Data: []byte("x"), Cursor: at(seq), Prev: seq - 1,
	}}
}

func msgs(from, to uint64) (events []broker.Event) {
	for seq := from; seq <= to; seq++ {
		events = append(events, msg(seq))
	}
	return events
}

func TestMemberAheadOfTheLoop(t *testing.T) {
	onStage(t, func(s *stage) {
		steady := s.guest("steady", "0")
		require.True(t, steady.join(nil))
		require.Equal(t, []string{"welcome at 0, 0 there", "joined"}, steady.reads(2))

		g := s.guest("g", "1")
		pos := at(5)
		require.False(t, g.join(&pos), "the history was ahead of the loop")
		answer := make(chan bool, 1)
		go func() {
			answer <- s.loop.live(context.Background(), g.m, pos).live
		}()
		synctest.Wait()
		require.Empty(t, answer, "it waits for the loop")
		s.broker.say(msgs(1, 7)...)
		require.True(t, <-answer)
		require.Equal(t, []string{"welcome at 5, 1 there", "message 6", "message 7", "joined"}, g.reads(4), "each once")
		require.Equal(t, []string{"message 1", "message 2", "message 3", "message 4", "message 5", "message 6", "message 7", "joined"}, steady.reads(8))
	})
}

func TestMemberWithinTheTail(t *testing.T) {
	onStage(t, func(s *stage) {
		g := s.guest("g", "1")
		pos := broker.Cursor{Epoch: "e"}
		s.broker.say(msgs(1, 10)...)
		synctest.Wait()
		require.False(t, g.join(&pos), "nobody was catching up: no tail")
		s.broker.say(msgs(11, 20)...)
		synctest.Wait()
		behind := s.loop.live(context.Background(), g.m, at(9))
		require.NoError(t, behind.err)
		require.False(t, behind.live, "10 is not in the tail")
		require.Nil(t, behind.part)

		// A member with a small queue gets there in portions.
		g.m.Messages = 3
		part := s.loop.live(context.Background(), g.m, at(12))
		require.False(t, part.live)
		require.Len(t, part.part, 3)
		require.Equal(t, at(15), part.next)
		require.True(t, s.loop.live(context.Background(), g.m, at(17)).live)
		require.Equal(t, []string{"welcome at 0, 0 there", "message 18", "message 19", "message 20", "joined"}, g.reads(5))
		s.broker.say(msg(21))
		require.Equal(t, []string{"message 21"}, g.reads(1))
	})
}

func TestTailIsBounded(t *testing.T) {
	onStage(t, func(s *stage) {
		g := s.guest("g", "1")
		s.broker.say(msg(1))
		synctest.Wait()
		pos := at(0)
		require.False(t, g.join(&pos))
		s.broker.say(msgs(2, 1000)...)
		synctest.Wait()
		require.NoError(t, s.loop.do(context.Background(), func() {
			require.Len(t, s.loop.tail, maxTail)
		}))
		s.loop.Leave(g.m, "", false, nil)
		require.NoError(t, s.loop.do(context.Background(), func() {
			require.Empty(t, s.loop.tail, "nobody catches up any more")
		}))
	})
}

// What a broker must not do is told to the members, not hidden.
func TestBrokerThatRepeatsAndLoses(t *testing.T) {
	onStage(t, func(s *stage) {
		g := s.guest("g", "1")
		require.True(t, g.join(nil))
		require.Equal(t, []string{"welcome at 0, 0 there", "joined"}, g.reads(2))
		s.broker.say(msgs(1, 3)...)
		s.broker.say(msgs(2, 4)...) // repeated after a reconnect
		s.broker.say(msg(8))
		require.Equal(t, []string{"message 1", "message 2", "message 3", "message 4", "gap", "message 8"}, g.reads(6))
		s.broker.say(broker.Event{Type: broker.EventGap, Gap: broker.GapBounds{After: 8, Before: 20, Missed: 11}, Cursor: at(19)})
		s.broker.say(msg(20))
		require.Equal(t, []string{"gap", "message 20"}, g.reads(2))
	})
}

func TestFailedAnnouncementsAreRepeated(t *testing.T) {
	onStage(t, func(s *stage) {
		fails := 3
		s.broker.update = func(joined, left []broker.Member) error {
			if fails--; fails >= 0 {
				return errors.New("broker away")
			}
			s.broker.mu.Lock()
			s.broker.update = nil
			s.broker.mu.Unlock()
			return s.broker.Update(context.Background(), "lobby", joined, left)
		}
		g := s.guest("g", "1")
		require.True(t, g.join(nil))
		start := time.Now()
		require.Equal(t, []string{"welcome at 0, 0 there", "joined"}, g.reads(2))
		require.InDelta(t, 0.7, time.Since(start).Seconds(), 0.1, "100, 200 and 400 ms")
	})
}

func TestLoopRestsWhileAnAnnouncementIsRepeated(t *testing.T) {
	onStage(t, func(s *stage) {
		calls := 0
		s.broker.update = func(joined, left []broker.Member) error {
			if calls++; calls == 1 {
				return errors.New("broker away")
			}
			select {
			case <-time.After(time.Minute):
			case <-s.broker.spins: // then the bubble's clock stands still
				t.Error("the loop turns with nothing to do")
			}
			s.broker.say(broker.Event{Type: broker.EventJoined, Members: joined})
			return nil
		}
		g := s.guest("g", "1")
		require.True(t, g.join(nil))
		require.Equal(t, []string{"welcome at 0, 0 there", "joined"}, g.reads(2))
	})
}

func TestBrokerEndsTheSubscription(t *testing.T) {
	onStage(t, func(s *stage) {
		g := s.guest("g", "1")
		require.True(t, g.join(nil))
		require.Equal(t, []string{"welcome at 0, 0 there", "joined"}, g.reads(2))
		s.broker.mu.Lock()
		s.broker.err = broker.ErrClosed
		s.broker.mu.Unlock()
		s.broker.say(msg(1))
		<-s.failed
		<-s.loop.Done()
		require.Equal(t, []string{"message 1"}, g.reads(1), "what was there is handed out")
		require.ErrorIs(t, s.loop.live(context.Background(), g.m, at(1)).err, ErrStopped)
		s.loop.Leave(g.m, "", false, nil) // does not block
		s.loop.Close(nil)                 // nor does this
	})
}

func TestLoopRetiresWhenIdle(t *testing.T) {
	onStage(t, func(s *stage) {
		g := s.guest("g", "1")
		require.True(t, g.join(nil))
		<-time.After(time.Hour)
		select {
		case <-s.loop.Done():
			require.Fail(t, "retired with a member")
		default:
		}
		left := time.Now()
		s.loop.Leave(g.m, "lost", true, nil)
		<-s.loop.Done()
		require.InDelta(t, 40, time.Since(left).Seconds(), 1, "the resume window, then idle")
	})
}

// Whatever succeeds, fails, or fails though it had an effect: in the end the broker has
// who is wanted, and the announcer holds nobody else.
func TestAnnouncer(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		var a announcer
		there, wanted := map[string]bool{}, map[string]bool{}
		apply := func(batch []*announcement) {
			for _, c := range batch {
				there[c.who.Client] = c.sent == present
			}
		}
		var under []*announcement
		for range 200 {
			who := broker.Member{Client: fmt.Sprint(r.IntN(5))}
			switch r.IntN(4) {
			case 0:
				a.want(who, present)
				wanted[who.Client] = true
			case 1:
				a.want(who, absent)
				wanted[who.Client] = false
			case 2:
				if !a.running {
					under = a.take()
				}
			case 3:
				if !a.running {
					continue
				}
				var err error
				if r.IntN(2) == 0 {
					err = errors.New("away")
				}
				if err == nil || r.IntN(2) == 0 {
					apply(under)
				}
				a.done(under, err)
			}
		}
		if a.running {
			apply(under)
			a.done(under, nil)
		}
		for !a.idle() {
			if under = a.take(); len(under) > 0 {
				apply(under)
				a.done(under, nil)
			}
		}
		held := 0
		for client, want := range wanted {
			require.Equal(t, want, there[client], "seed %d, client %s", seed, client)
			if want {
				held++
			}
		}
		require.Len(t, a.clients, held, "seed %d", seed)
	}
}

func TestAnnouncementsKeepTheirOrder(t *testing.T) {
	var a announcer
	for i := range 5 {
		a.want(broker.Member{Client: fmt.Sprint(i)}, present)
	}
	first := a.take()
	a.want(broker.Member{Client: "5"}, present)
	a.done(first, errors.New("away"))
	var got []string
	for _, c := range a.take() {
		got = append(got, c.who.Client)
	}
	require.Equal(t, []string{"0", "1", "2", "3", "4", "5"}, got)
}

// However often a client comes and goes while its announcement hangs, it is one record.
func TestAnnouncementsOfOneClientDoNotPileUp(t *testing.T) {
	var a announcer
	who := broker.Member{Client: "0"}
	a.want(who, present)
	under := a.take()
	for range 1000 {
		a.want(who, absent)
		a.want(who, present)
	}
	require.Empty(t, a.queue, "how it ended must be known first")
	require.Len(t, a.clients, 1)
	a.done(under, errors.New("away"))
	require.Len(t, a.take(), 1)
}

// Who comes and goes while somebody else's announcement hangs leaves nothing.
func TestAnnouncementsDoNotPileUp(t *testing.T) {
	var a announcer
	a.want(broker.Member{Client: "hangs"}, present)
	under := a.take()
	a.want(broker.Member{Client: "stays"}, present)
	for i := range 1000 {
		who := broker.Member{Client: fmt.Sprint(i)}
		a.want(who, present)
		a.want(who, absent)
	}
	require.Len(t, a.clients, 2)
	require.LessOrEqual(t, len(a.queue), 100, "of those who are gone before they were announced")
	a.done(under, nil)
	next := a.take()
	require.Len(t, next, 1)
	require.Equal(t, "stays", next[0].who.Client)
}

// past is a broker that shows a history that the loop has left.
type past struct {
	broker.Broker // nil: what an arrival must not call
	page          broker.Page
}

func (p past) Since(context.Context, string, broker.Cursor, int) (broker.Page, error) {
	return p.page, nil
}

// A page of history was read just before the loop heard that the room began anew: what is made of it is of its
// own history, or the client would come back to the new one with a position of the old.
func TestPageOfAHistoryThatTheLoopHasLeft(t *testing.T) {
	onStage(t, func(s *stage) {
		s.broker.say(broker.Event{Type: broker.EventGap, Gap: broker.GapBounds{Before: 1, Missed: -1}, Cursor: broker.Cursor{Epoch: "new"}})
		synctest.Wait()
		require.Equal(t, "new", s.loop.Stream().Epoch)

		m := &broker.Message{Room: "lobby", Kind: broker.KindText, Data: []byte("x"), Cursor: at(7), Prev: 6}
		reader := catchup.NewReader(past{page: broker.Page{
			Verdict: broker.Gap, Gap: broker.GapBounds{Before: 7, Missed: 6}, Messages: []*broker.Message{m}, Next: at(7), Head: at(7),
		}})
		defer reader.Close()
		g := s.guest("alice", "1")
		a := &Arrival{Loop: s.loop, Member: g.m, Reader: reader}
		j, recovery, err := a.FirstPage(context.Background(), at(0), true, 0)
		require.NoError(t, err)
		require.Equal(t, "gap", recovery)
		require.Len(t, j.First, 2)
		require.Contains(t, string(j.First[0].Bytes), broker.Cursor{Epoch: at(0).Epoch, Seq: 6}.String(), "the gap's cursor")
		require.Equal(t, at(0).Epoch, j.First[1].Stream.(*Stream).Epoch, "the stream that a slow policy tells gaps of")
	})
}
