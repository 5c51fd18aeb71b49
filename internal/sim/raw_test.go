package sim

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/internal/wsconn"
)

// A raw client speaks hub.v1.json by itself, as docs/protocol.md section 12 says: it comes back with its
// cursors and its session, and repeats what has no ack.
type raw struct {
	w       *world
	number  int
	name    string
	home    string
	ordered bool
	window  int  // messages under way
	obeys   bool // a drain's time
	acts    *rand.Rand
	author  author
	plan    []act

	mu      sync.Mutex // guards what follows
	wake    chan struct{}
	session string
	user    string
	rooms   map[string]*rawRoom
	outbox  []*outgoing
	planned bool // all that it is to say is in the outbox
	sends   int
	conn    *rawConn // welcomed, and not lost yet
	notFor  time.Duration
	dials   int
}

// A rawRoom is a room that a client is in, or has been.
type rawRoom struct {
	track   *track
	cursor  string
	wanted  bool
	in      bool
	asked   time.Time // when it last asked for it, on this connection; zero: it has not
	since   string    // what it came with then
	members map[string]string
	sure    bool // members are right, as far as was told
	answers int  // to presence
}

// An outgoing is a message without an outcome.
type outgoing struct {
	*sent
	flying    bool
	maybe     time.Time // when it was first sent; zero: it was not
	doubtful  bool      // an earlier sending may have been kept
	notBefore time.Time
}

// An act is what a client does at a time after its start.
type act struct {
	at   time.Duration
	say  *sent
	flip string // leaves that room, or joins it again
}

// A rawConn is one connection.
type rawConn struct {
	c       *raw
	ws      *wsconn.ClientConn
	link    *link
	done    chan struct{} // closed when the reader has ended
	err     error         // before done is closed
	heard   time.Time
	pinged  bool
	lulled  bool      // the reader does not read
	holding bool      // what is under way is to be answered before anything is sent
	held    *outgoing // what the hub takes first, before anything else
	pause   []lull    // of the reader
	out     [][]byte
}

// A lull is a time in which a reader does not read.
type lull struct {
	after int // events
	long  time.Duration
}

func lulls(r *rand.Rand) (list []lull) {
	for some := r.IntN(4); some > 1; some-- {
		list = append(list, lull{r.IntN(40), time.Duration(r.Float64() * r.Float64() * float64(5*time.Second))})
	}
	return list
}

func newRaw(w *world, number int, r *rand.Rand) *raw {
	c := &raw{
		w: w, number: number, name: fmt.Sprint("raw", number), home: w.room(r), ordered: r.IntN(3) > 0, window: 1 + r.IntN(8),
		obeys: r.IntN(3) > 0, acts: r, wake: make(chan struct{}, 1), rooms: map[string]*rawRoom{},
	}
	c.author = author{name: c.name, rnd: r, big: w.p.big, keys: w.p.keys, ids: true}
	c.want(c.home)
	for _, name := range w.p.rooms {
		if name.name != c.home && r.IntN(2) == 0 {
			c.want(name.name)
		}
	}
	w.ledger.free[c.name] = !c.ordered
	c.plan = c.draw(r)
	return c
}

func (c *raw) want(name string) {
	c.rooms[name] = &rawRoom{track: &track{who: c.name, room: name}, wanted: true}
}

// draw makes the client's plan.
func (c *raw) draw(r *rand.Rand) (plan []act) {
	names := slices.Sorted(maps.Keys(c.rooms))
	bursts := 1 + r.IntN(6)
	for range bursts {
		at := time.Duration(r.Int64N(int64(c.w.p.load)))
		for range 1 + r.IntN(c.w.p.talk) {
			s := c.author.message(names[r.IntN(len(names))])
			at += time.Duration(r.Float64() * r.Float64() * float64(200*time.Millisecond))
			plan = append(plan, act{at: min(at, c.w.p.load), say: s})
		}
	}
	for _, name := range names[1:] {
		if r.IntN(3) == 0 {
			at := time.Duration(r.Int64N(int64(c.w.p.load)))
			plan = append(plan, act{at: at, flip: name}, act{at: at + time.Duration(r.Int64N(int64(time.Second))), flip: name})
		}
	}
	slices.SortStableFunc(plan, func(a, b act) int { return int(a.at - b.at) })
	return plan
}

// run is the client's goroutine, until the end of the run.
func (c *raw) run() {
	var wg sync.WaitGroup
	wg.Go(c.act)
	for !c.w.over() {
		c.dials++
		c.connect(rand.New(rand.NewPCG(c.w.p.seed, uint64(c.number)<<32|uint64(c.dials)<<8|'r')))
	}
	wg.Wait()
}

// act does what is planned.
func (c *raw) act() {
	start := time.Now()
	for _, a := range c.plan {
		c.w.until(start.Add(a.at))
		c.mu.Lock()
		if a.say != nil {
			c.w.ledger.add(a.say)
			c.outbox = append(c.outbox, &outgoing{sent: a.say})
		} else {
			c.flip(a.flip)
		}
		c.mu.Unlock()
		c.poke()
	}
	c.mu.Lock()
	c.planned = true
	c.mu.Unlock()
}

func (c *raw) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// flip leaves a room, or joins it again. c.mu is held.
func (c *raw) flip(name string) {
	r := c.rooms[name]
	r.wanted = !r.wanted
	if c.conn == nil || r.wanted || !r.in {
		return
	}
	c.conn.out = append(c.conn.out, []byte(fmt.Sprintf(`{"type":"leave","id":"leave","room":%q}`, name)))
}

// connect makes a connection, stays until it is lost, and pauses.
func (c *raw) connect(r *rand.Rand) {
	hub, compress, life, end, pause, twin := r.IntN(c.w.p.hubs), r.IntN(2) == 0, r.Float64(), r.IntN(4), r.Float64(), r.IntN(10) == 0
	list := lulls(r)
	q := c.query()
	asked := time.Now()
	ws, l, err := c.w.dial(hub, c.number, c.dials, c.home, q, true, compress)
	if err == nil {
		if twin && q.Get("since") != "" && !c.w.calm() {
			c.w.go_(func() { c.twin(r, q) })
		}
		conn := &rawConn{c: c, ws: ws, link: l, done: make(chan struct{}), heard: time.Now(), pause: list}
		c.mu.Lock()
		home := c.rooms[c.home]
		home.asked, home.since = asked, q.Get("since")
		c.mu.Unlock()
		conn.stay(life, end)
	}
	c.mu.Lock()
	wait := c.notFor
	c.notFor = 0
	c.expire()
	c.mu.Unlock()
	switch {
	case c.w.calm():
		wait += time.Duration(pause * float64(100*time.Millisecond))
	case pause > 0.95: // long enough for its messages to be too old, in some runs
		wait += 18 * time.Second
		count("long absence")
	default:
		wait += time.Duration(pause * pause * pause * float64(5*time.Second))
	}
	c.w.pause(wait)
}

func (c *raw) query() url.Values {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := url.Values{"name": {c.name}}
	if c.session != "" {
		q.Set("session", c.session)
	}
	if since := c.rooms[c.home].cursor; since != "" {
		q.Set("since", since)
	}
	if c.ordered {
		q.Set("ordered", "1")
	}
	return q
}

// dial is a handshake.
func (w *world) dial(hub, client, dial int, room string, q url.Values, asJSON, compress bool) (*wsconn.ClientConn, *link, error) {
	var l *link
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var err error
		if l, err = w.net.dial(ctx, hub, client, dial); err != nil {
			return nil, err
		}
		return l, nil
	}}
	defer t.CloseIdleConnections()
	o := wsconn.DialOptions{HTTPClient: &http.Client{Transport: t}, Compress: compress}
	if asJSON {
		o.Subprotocols = []string{"hub.v1.json"}
	}
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	ws, resp, err := wsconn.Dial(ctx, "ws://sim.test/room/"+url.PathEscape(room)+"?"+q.Encode(), o)
	if err != nil {
		if resp != nil {
			count("handshake " + strconv.Itoa(resp.StatusCode))
			if resp.StatusCode != http.StatusServiceUnavailable && resp.StatusCode != http.StatusSwitchingProtocols {
				w.fail("a handshake to %s?%s was refused: %v", room, q.Encode(), resp.Status)
			}
		}
		return nil, nil, err
	}
	return ws, l, nil
}

// stay keeps a connection until it ends, or the plan ends it.
func (n *rawConn) stay(life float64, end int) {
	c := n.c
	go func() {
		defer close(n.done)
		n.err = n.read()
	}()
	var over <-chan time.Time
	if life < 0.5 && !c.w.calm() {
		over = time.After(time.Duration(life * life * 4 * float64(5*time.Second)))
	}
	for {
		p, wake := n.next(time.Now())
		if p != nil {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			err := n.ws.Write(ctx, wsconn.OpText, p)
			cancel()
			if err != nil {
				break
			}
			continue
		}
		t := time.NewTimer(time.Until(wake))
		select {
		case <-c.wake:
		case <-t.C:
		case <-over:
			over = nil
			if !c.w.calm() {
				n.leave(end)
			}
		case <-n.done:
		case <-c.w.done:
			_ = n.ws.Close(1000, "")
		}
		t.Stop()
		if n.ended() {
			break
		}
	}
	n.ws.CloseNow()
	<-n.done
	n.lost()
}

func (n *rawConn) ended() bool {
	select {
	case <-n.done:
		return true
	case <-n.c.w.done:
		return true
	default:
		n.c.mu.Lock()
		defer n.c.mu.Unlock()
		dead := !n.lulled && time.Since(n.heard) > n.c.patience()
		if dead {
			count("given up as dead")
		}
		return dead
	}
}

// leave ends a connection as the plan wants it.
func (n *rawConn) leave(how int) {
	switch how {
	case 0:
		_ = n.ws.Close(1000, "")
	case 1:
		n.link.Cut()
	case 2:
		n.link.abandon(20 * time.Second)
	}
	n.ws.CloseNow()
}

// lost ends what belonged to the connection.
func (n *rawConn) lost() {
	c := n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	var ce *wsconn.CloseError
	if errors.As(n.err, &ce) {
		count("close " + strconv.Itoa(ce.Code))
	}
	c.conn = nil
	for _, r := range c.rooms {
		r.in, r.asked, r.sure = false, time.Time{}, false
	}
	for _, m := range c.outbox {
		m.doubtful = m.doubtful || m.flying
		m.flying = false
	}
}

// patience is for how long a silent connection counts as alive; at half of it the client asks.
func (c *raw) patience() time.Duration {
	if c.w.calm() {
		return time.Minute
	}
	return 3 * time.Second
}

// next returns what to send now, or when to ask again.
func (n *rawConn) next(now time.Time) (p []byte, wake time.Time) {
	c := n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	wake = now.Add(time.Second)
	if c.conn != n {
		return nil, wake // not welcomed yet
	}
	if len(n.out) > 0 {
		p, n.out = n.out[0], n.out[1:]
		return p, wake
	}
	if !n.pinged && now.Sub(n.heard) >= c.patience()/2 {
		n.pinged = true
		return []byte(`{"type":"ping"}`), wake
	}
	for _, name := range slices.Sorted(maps.Keys(c.rooms)) {
		if r := c.rooms[name]; r.wanted && !r.in && r.asked.IsZero() {
			r.asked, r.since = now, r.cursor
			return []byte(fmt.Sprintf(`{"type":"join","room":%q,"since":%q}`, name, r.cursor)), wake
		}
	}
	return n.publish(now, wake)
}

// publish returns the next message, if one may go out. c.mu is held.
func (n *rawConn) publish(now, wake time.Time) ([]byte, time.Time) {
	c := n.c
	c.expire()
	flying := 0
	for _, m := range c.outbox {
		if m.flying {
			flying++
		}
	}
	if flying >= c.window || n.holding && flying > 0 {
		return nil, wake
	}
	n.holding = false
	for _, m := range c.outbox {
		r := c.rooms[m.room]
		if m.flying || r.wanted && !r.in || n.held != nil && m != n.held {
			continue
		}
		if now.Before(m.notBefore) {
			if m.notBefore.Before(wake) {
				wake = m.notBefore
			}
			if c.ordered {
				return nil, wake
			}
			continue
		}
		m.flying, n.held = true, nil
		if !m.maybe.IsZero() {
			count("publish repeated")
		} else {
			m.maybe = now
		}
		c.sends++
		m.sentAs = c.sends
		return m.command(), wake
	}
	return nil, wake
}

func (m *outgoing) command() []byte {
	v := map[string]any{"type": "publish", "id": m.id, "room": m.room}
	if m.key != "" {
		v["key"] = m.key
	}
	switch m.kind {
	case broker.KindText:
		v["data"] = string(m.data)
	case broker.KindJSON:
		v["data"] = json.RawMessage(m.data)
	default:
		v["data_base64"] = base64.StdEncoding.EncodeToString(m.data)
	}
	p, _ := json.Marshal(v)
	return p
}

// expire gives up what is too old to be repeated. c.mu is held.
func (c *raw) expire() {
	c.drop(func(m *outgoing) bool {
		old := !m.flying && !m.maybe.IsZero() && time.Since(m.maybe) > c.w.p.window/2
		if old {
			count("given up as too old")
		}
		return old
	})
}

// drop takes messages out of the outbox. Where the hub waits for one of them, the connection is of no use any more. c.mu is held.
func (c *raw) drop(which func(*outgoing) bool) {
	if conn := c.conn; conn != nil && conn.held != nil && which(conn.held) {
		conn.link.Cut()
	}
	c.outbox = slices.DeleteFunc(c.outbox, which)
}

func (c *raw) String() string { return c.name }

func (c *raw) present(where map[string][]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, r := range c.rooms {
		if r.wanted {
			where[name] = append(where[name], c.name)
		}
	}
}

// view is by the events, where none of them can have been dropped, and else by an answer.
func (c *raw) view() map[string][]string {
	c.mu.Lock()
	if c.conn == nil {
		c.mu.Unlock()
		c.w.fail("%s: it lost its connection when nothing went wrong any more", c.name)
		return nil
	}
	before := map[string]int{}
	for name, r := range c.rooms {
		if r.wanted && c.w.drops(name) {
			before[name] = r.answers
			c.conn.ask(name, r)
		}
	}
	c.mu.Unlock()
	c.poke()
	for tries := 0; ; tries++ {
		c.mu.Lock()
		waiting := tries < 1000
		ready := true
		for name, n := range before {
			ready = ready && c.rooms[name].answers > n
		}
		if ready || !waiting {
			seen := map[string][]string{}
			for name, r := range c.rooms {
				if r.wanted {
					seen[name] = slices.Sorted(maps.Values(r.members))
				}
			}
			c.mu.Unlock()
			return seen
		}
		c.mu.Unlock()
		wait(20*time.Millisecond, nil)
	}
}

func (c *raw) finish() {
	for _, r := range c.rooms {
		r.track.whole = r.wanted
		c.w.tracked(r.track)
	}
}
