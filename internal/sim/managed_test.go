package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/hubclient"
)

// A managed client is a hubclient.Client, and a program that uses it: now and then the program ends, and another goes on
// with what it has stored.
type managed struct {
	w       *world
	number  int
	name    string
	home    string
	author  author
	plan    []act
	lulls   []lull
	options []hubclient.Option
	again   time.Duration // when the program ends and begins again; 0: never
	away    [2]time.Duration
	rnd     *rand.Rand // of dials

	mu      sync.Mutex // guards what follows
	c       *hubclient.Client
	session string
	rooms   map[string]*managedRoom
	pending []*sent        // without an outcome, in order
	doubt   map[*sent]bool // an earlier program may have published it
	since   map[*sent]time.Time
	said    bool
	dials   int
	link    *link // the newest
	start   time.Time
}

type managedRoom struct {
	track   *track
	wanted  bool
	in      bool
	cursor  string          // of the last event that was dealt with
	told    string          // by Join
	came    map[string]bool // cursors with which it was joined; events may have come after that
	members map[string]string
	sure    bool
}

func newManaged(w *world, number int, r *rand.Rand) *managed {
	c := &managed{
		w: w, number: number, name: fmt.Sprint("client", number), home: w.room(r), lulls: lulls(r),
		rnd:   rand.New(rand.NewPCG(w.p.seed, uint64(number)<<32|'d')),
		rooms: map[string]*managedRoom{}, doubt: map[*sent]bool{}, since: map[*sent]time.Time{},
	}
	c.author = author{name: c.name, rnd: r, big: w.p.big, keys: w.p.keys, ids: true}
	c.want(c.home)
	for _, room := range w.p.rooms {
		if room.name != c.home && r.IntN(2) == 0 {
			c.want(room.name)
		}
	}
	if r.IntN(2) == 0 {
		c.again = time.Duration(r.Int64N(int64(w.p.load)))
	}
	if r.IntN(4) == 0 { // too long for what is under way
		from := time.Duration(r.Int64N(int64(w.p.load)))
		c.away = [2]time.Duration{from, from + 40*time.Second}
	}
	c.options = []hubclient.Option{
		hubclient.WithName(c.name), hubclient.WithDialRetry(),
		hubclient.WithQueue(1+r.IntN(50), 1000+r.IntN(50_000)), hubclient.WithOutbox(1+r.IntN(30), 1000+r.IntN(100_000)),
		hubclient.WithHistory(r.IntN(30)),
	}
	if r.IntN(2) == 0 {
		c.options = append(c.options, hubclient.WithCompression())
	}
	backoff := rand.New(rand.NewPCG(w.p.seed, uint64(number)<<32|'w'))
	c.options = append(c.options, hubclient.WithBackoff(func(int) time.Duration {
		return time.Duration(backoff.Float64() * backoff.Float64() * float64(2*time.Second))
	}))
	c.plan = c.draw(r)
	return c
}

func (c *managed) String() string { return c.name }

func (c *managed) want(name string) {
	c.rooms[name] = &managedRoom{track: &track{who: c.name, room: name}, wanted: true, came: map[string]bool{}}
}

func (c *managed) draw(r *rand.Rand) (plan []act) {
	names := slices.Sorted(maps.Keys(c.rooms))
	for range 1 + r.IntN(6) {
		at := time.Duration(r.Int64N(int64(c.w.p.load)))
		for range 1 + r.IntN(c.w.p.talk) {
			plan = append(plan, act{at: at, say: c.author.message(names[r.IntN(len(names))])})
			at += time.Duration(r.Float64() * r.Float64() * float64(200*time.Millisecond))
		}
	}
	for _, name := range names {
		if name != c.home && r.IntN(3) == 0 {
			at := time.Duration(r.Int64N(int64(c.w.p.load)))
			plan = append(plan, act{at: at, flip: name}, act{at: at + time.Duration(r.Int64N(int64(time.Second))), flip: name})
		}
	}
	slices.SortStableFunc(plan, func(a, b act) int { return int(a.at - b.at) })
	return plan
}

// run is one program after another.
func (c *managed) run() {
	c.start = time.Now()
	if c.away[1] > 0 {
		count("hubclient: away")
		time.AfterFunc(c.away[0], func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.link != nil {
				c.link.Cut()
			}
		})
	}
	next := 0
	for n := 0; !c.w.over() && n < 2; n++ {
		until := c.start.Add(c.again)
		if n > 0 || c.again == 0 {
			until = time.Time{}
		}
		next = c.program(next, until)
	}
}

// program is one run of the program, until a time or the end of the world. It goes on with the plan at next.
func (c *managed) program(next int, until time.Time) int {
	ctx := c.w.ctx
	if !until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until)
		defer cancel()
	}
	client, err := c.dial(ctx)
	if err != nil {
		if ctx.Err() == nil {
			c.w.fail("%s: dial: %v", c.name, err)
		}
		return next
	}
	c.mu.Lock()
	c.c, c.session = client, client.Session()
	c.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { c.listen(client) })
	for name, r := range c.rooms {
		if name != c.home && r.wanted {
			wg.Go(func() { c.join(ctx, client, name) })
		}
	}
	next = c.act(ctx, client, next, &wg)
	<-ctx.Done()
	if err := client.Err(); err != nil {
		c.w.fail("%s: the client ended: %v", c.name, err)
	}
	_ = client.Close()
	<-client.Done()
	wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.c = nil
	for _, r := range c.rooms {
		r.in, r.sure = false, false
	}
	return next
}

func (c *managed) dial(ctx context.Context) (*hubclient.Client, error) {
	c.mu.Lock()
	opts := append(slices.Clone(c.options), hubclient.WithSession(c.session), hubclient.WithSince(c.rooms[c.home].cursor))
	c.mu.Unlock()
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		c.mu.Lock()
		c.dials++
		dial, hub := c.dials, c.rnd.IntN(c.w.p.hubs)
		c.mu.Unlock()
		if at := time.Since(c.start); at >= c.away[0] && at < c.away[1] {
			return nil, errors.New("sim: no network")
		}
		l, err := c.w.net.dial(ctx, hub, c.number, dial)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		c.link = l
		c.mu.Unlock()
		return l, nil
	}}
	opts = append(opts, hubclient.WithHTTPClient(&http.Client{Transport: t}))
	return hubclient.Dial(ctx, "ws://sim.test/room/"+c.home, opts...)
}

// act does what is planned. What the program before left without an outcome it says again first, under the same ids.
func (c *managed) act(ctx context.Context, client *hubclient.Client, next int, wg *sync.WaitGroup) int {
	c.mu.Lock()
	old := slices.Clone(c.pending)
	c.mu.Unlock()
	for _, m := range old {
		if c.tooOld(m) {
			continue
		}
		count("said again by the next program")
		if !c.say(ctx, client, m, wg) {
			return next
		}
	}
	for ; next < len(c.plan); next++ {
		a := c.plan[next]
		wait(time.Until(c.start.Add(a.at)), ctx.Done())
		if ctx.Err() != nil {
			return next
		}
		if a.say == nil {
			c.flip(ctx, client, a.flip, wg)
			continue
		}
		c.w.ledger.add(a.say)
		c.mu.Lock()
		c.pending = append(c.pending, a.say)
		c.since[a.say] = time.Now()
		c.mu.Unlock()
		if !c.say(ctx, client, a.say, wg) {
			return next + 1
		}
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			c.mu.Lock()
			done := len(c.pending) == 0
			c.said = c.said || done
			c.mu.Unlock()
			if done {
				return
			}
			wait(20*time.Millisecond, ctx.Done())
		}
	})
	return next
}

// tooOld gives a message up whose first publishing the hub may not know any more.
func (c *managed) tooOld(m *sent) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.doubt[m] || time.Since(c.since[m]) < c.w.p.window/2 {
		return false
	}
	count("given up by the next program")
	c.pending = slices.DeleteFunc(c.pending, func(o *sent) bool { return o == m })
	return true
}

// say publishes a message; its outcome is noted when it is known.
func (c *managed) say(ctx context.Context, client *hubclient.Client, m *sent, wg *sync.WaitGroup) bool {
	p, err := client.PublishAsync(ctx, hubclient.Message{Room: m.room, ID: m.id, Key: m.key, Kind: m.kind, Data: m.data})
	if err != nil {
		if ctx.Err() == nil && client.Err() == nil {
			c.w.fail("%s: publish of %s: %v", c.name, m.token, err)
		}
		return false // it is still pending: the next program says it
	}
	wg.Go(func() {
		r, err := p.Result()
		c.result(m, r, err)
	})
	return true
}

func (c *managed) result(m *sent, r hubclient.Receipt, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var final *hubclient.Error
	switch {
	case err == nil:
		count("acked")
		if m.outcome, m.seq, m.cursor, m.duplicate = acked, r.Seq, r.Cursor, r.Duplicate; r.Duplicate {
			count("acked as a duplicate")
		}
	case errors.Is(err, hubclient.ErrClosed): // the next program says it again
		c.doubt[m] = c.doubt[m] || errors.Is(err, hubclient.ErrUncertain)
		return
	case errors.Is(err, hubclient.ErrUncertain):
		count("hubclient: uncertain")
	case errors.As(err, &final):
		if m.why = final.Code; !c.doubt[m] {
			m.outcome = refused
		}
		count("hubclient: refused " + final.Code)
		if final.Code != "not_in_room" {
			c.w.fail("%s: %s was refused: %v", c.name, m.token, err)
		}
	default:
		c.w.fail("%s: %s: %v", c.name, m.token, err)
	}
	c.pending = slices.DeleteFunc(c.pending, func(o *sent) bool { return o == m })
}

// flip leaves a room, or joins it again.
func (c *managed) flip(ctx context.Context, client *hubclient.Client, name string, wg *sync.WaitGroup) {
	c.mu.Lock()
	r := c.rooms[name]
	r.wanted = !r.wanted
	wanted := r.wanted
	c.mu.Unlock()
	if wanted {
		wg.Go(func() { c.join(ctx, client, name) })
		return
	}
	if err := client.Leave(ctx, name); err != nil && ctx.Err() == nil {
		c.w.fail("%s: leave: %v", c.name, err)
	}
}

func (c *managed) join(ctx context.Context, client *hubclient.Client, name string) {
	for ctx.Err() == nil {
		c.mu.Lock()
		r := c.rooms[name]
		if !r.wanted {
			c.mu.Unlock()
			return
		}
		cursor := r.cursor
		r.came[cursor] = true
		c.mu.Unlock()
		w, err := client.Join(ctx, name, hubclient.JoinSince(cursor))
		var e *hubclient.Error
		switch {
		case err == nil:
			c.mu.Lock()
			r.told = w.Cursor
			c.mu.Unlock()
			return
		case errors.As(err, &e) && (e.Code == "already_in_room" || e.Code == "not_in_room"):
			return // asked for before, or left meanwhile
		case ctx.Err() == nil:
			c.w.fail("%s: join: %v", c.name, err)
			return
		}
	}
}

// listen deals with the client's events.
func (c *managed) listen(client *hubclient.Client) {
	n := 0
	for e := range client.Events() {
		for _, l := range c.lulls {
			if l.after == n {
				count("slow caller")
				c.w.pauseUntilCalm(l.long)
			}
		}
		n++
		c.mu.Lock()
		c.event(client, &e)
		c.mu.Unlock()
	}
}

// event notes an event. c.mu is held.
func (c *managed) event(client *hubclient.Client, e *hubclient.Event) {
	r := c.rooms[e.Room]
	if r == nil && e.Type != hubclient.EventDisconnected {
		c.w.fail("%s: %v of %q", c.name, e.Type, e.Room)
		return
	}
	switch e.Type {
	case hubclient.EventWelcome:
		c.w.known(c.name, e.Welcome.User)
		came := r.cursor
		// What was queued when it joined has come meanwhile, and comes again.
		if e.Welcome.Recovery == hubclient.RecoveryNew && r.came[""] {
			came = ""
		} else if e.Welcome.Recovery == hubclient.RecoveryReset && came == "" {
			came = r.told // by Join; the event of that welcome was lost
		} else if e.Welcome.Recovery != hubclient.RecoveryReset && e.Welcome.Cursor != came && r.came[e.Welcome.Cursor] {
			came = e.Welcome.Cursor
		}
		since, _ := broker.ParseCursor(came)
		r.add(c.w, item{kind: itemWelcome, since: since, recovery: e.Welcome.Recovery, anew: came != r.cursor}, e.Welcome.Cursor)
		r.in = true
		r.see(e.Welcome.Members, e.Welcome.MemberCount)
	case hubclient.EventMessage:
		m := e.Message
		r.add(c.w, item{
			kind: itemMessage, prev: m.Prev, id: m.ID, user: m.From.User,
			sum: sum(&broker.Message{Kind: m.Kind, Data: m.Data, Key: m.Key}),
		}, m.Cursor)
	case hubclient.EventGap:
		g := e.Gap
		r.add(c.w, item{kind: itemGap, after: g.After, before: g.Before, missed: g.Missed, reset: g.Reset}, g.Cursor)
		r.sure = false
	case hubclient.EventJoined:
		r.members[e.Member.User] = e.Member.Name
	case hubclient.EventLeft:
		delete(r.members, e.Member.User)
	case hubclient.EventPresence:
		r.see(e.Members, e.Count)
	case hubclient.EventLeftRoom:
		r.in = false
		if e.Err != nil {
			c.w.fail("%s: out of %s: %v", c.name, e.Room, e.Err)
		}
	case hubclient.EventDisconnected:
		count("hubclient: disconnected")
		switch {
		case errors.Is(e.Err, hubclient.ErrProtocol):
			c.w.fail("%s: %v", c.name, e.Err)
		case errors.Is(e.Err, hubclient.ErrLagged):
			count("hubclient: lagged")
		}
		for _, r := range c.rooms {
			r.in = false
		}
	case hubclient.EventError:
		c.w.fail("%s: %v", c.name, e.Err)
	}
	_ = client
}

func (r *managedRoom) add(w *world, i item, cursor string) {
	var err error
	if i.cursor, err = broker.ParseCursor(cursor); err != nil {
		w.fail("%s: cursor %q: %v", r.track.who, cursor, err)
		return
	}
	r.track.add(i)
	if cursor != "" {
		r.cursor = cursor
	}
}

func (r *managedRoom) see(members []broker.Member, count int) {
	r.members, r.sure = map[string]string{}, len(members) == count
	for _, m := range members {
		r.members[m.User] = m.Name
	}
}

func (c *managed) settled() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.said:
		first := ""
		if len(c.pending) > 0 {
			first = fmt.Sprintf(", the first to %s", c.pending[0].room)
		}
		var in []string
		for name, r := range c.rooms {
			in = append(in, fmt.Sprintf("%s: wanted %v, in %v", name, r.wanted, r.in))
		}
		return fmt.Sprintf("has more to say: %d without an outcome%s; %v", len(c.pending), first, in)
	case c.c == nil:
		return "no client"
	}
	for name, r := range c.rooms {
		if r.wanted && !r.in {
			return "not in " + name
		}
		if why := c.w.behind(name, r.cursor); r.wanted && why != "" {
			return why
		}
	}
	return ""
}

func (c *managed) present(where map[string][]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, r := range c.rooms {
		if r.wanted {
			where[name] = append(where[name], c.name)
		}
	}
}

// view asks the hub where events may have been dropped.
func (c *managed) view() map[string][]string {
	c.mu.Lock()
	client := c.c
	rooms := maps.Clone(c.rooms)
	c.mu.Unlock()
	seen := map[string][]string{}
	for name, r := range rooms {
		if !r.wanted {
			continue
		}
		ctx, cancel := context.WithTimeout(c.w.ctx, time.Minute)
		members, _, err := client.Presence(ctx, name)
		cancel()
		if err != nil {
			c.w.fail("%s: presence: %v", c.name, err)
		}
		asked := []string{}
		for _, m := range members {
			asked = append(asked, m.Name)
		}
		slices.Sort(asked)
		c.mu.Lock()
		told := slices.Sorted(maps.Values(r.members))
		if r.sure && !c.w.drops(name) && !slices.Equal(asked, told) {
			c.w.fail("%s in %s: by the events there are %v, by the answer %v", c.name, name, told, asked)
		}
		c.mu.Unlock()
		seen[name] = asked
	}
	return seen
}

func (c *managed) finish() {
	for _, r := range c.rooms {
		r.track.whole = r.wanted
		c.w.tracked(r.track)
	}
}
