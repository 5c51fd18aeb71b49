package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sort"
	"sync"
	"testing/synctest"
	"time"

	"github.com/chathub-go/hub"
	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/internal/memnet"
)

// A world is one run.
type world struct {
	p      *plan
	e      *engine
	net    *network
	ledger *ledger
	sites  []*site
	actors []actor
	ctx    context.Context // ends with the run
	cancel context.CancelFunc
	done   chan struct{} // closed when the clients are to go
	calmed chan struct{} // closed when nothing goes wrong any more
	wg     sync.WaitGroup

	mu       sync.Mutex // guards what follows
	problems []string
	tracks   []*track
	users    map[string]string // by name
	nodes    uint64
}

// An actor is a client. Its run ends when the world is over.
type actor interface {
	run()
	settled() string // why it is not, or ""
	finish()         // gives the world what it saw, when run has returned
	present(where map[string][]string)
	view() map[string][]string // who it thinks is in its rooms, by room
}

// A site is a place for a hub: one process after another.
type site struct {
	w      *world
	number int

	mu      sync.Mutex // guards what follows
	hub     *hub.Hub   // nil: down
	srv     *http.Server
	process *process
}

func newWorld(p *plan) *world {
	w := &world{
		p: p, e: newEngine(p.engine), net: newNetwork(p.seed, p.hubs, p.faulty),
		ledger: &ledger{all: map[string][]*sent{}, free: map[string]bool{}},
		done:   make(chan struct{}), calmed: make(chan struct{}), users: map[string]string{},
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	for i := range p.hubs {
		w.sites = append(w.sites, &site{w: w, number: i})
	}
	stream := func(n int) *rand.Rand { return rand.New(rand.NewPCG(p.seed, uint64(n)<<32|'c')) }
	n := 0
	for range p.raw {
		n++
		w.actors = append(w.actors, newRaw(w, n, stream(n)))
	}
	for range p.managed {
		n++
		w.actors = append(w.actors, newManaged(w, n, stream(n)))
	}
	for range p.plain {
		n++
		w.actors = append(w.actors, newPlain(w, n, stream(n)))
	}
	return w
}

func (w *world) fail(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

func (w *world) failed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.problems)
}

func (w *world) tracked(t *track) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tracks = append(w.tracks, t)
}

// known notes the user behind a name.
func (w *world) known(name, user string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if was := w.users[name]; was != "" && was != user {
		w.problems = append(w.problems, fmt.Sprintf("%s is user %s, and was %s", name, user, was))
	}
	w.users[name] = user
}

func (w *world) go_(f func()) { w.wg.Go(f) }

func (w *world) over() bool { return closed(w.done) }
func (w *world) calm() bool { return closed(w.calmed) }

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// pause waits, or until the world is over.
func (w *world) pause(d time.Duration) { wait(d, w.done) }

// until waits for a time, or until the world is over.
func (w *world) until(t time.Time) { wait(time.Until(t), w.done) }

// pauseUntilCalm waits, or until nothing goes wrong any more.
func (w *world) pauseUntilCalm(d time.Duration) { wait(d, w.calmed) }

func wait(d time.Duration, done <-chan struct{}) {
	t := time.NewTimer(max(d, 0))
	defer t.Stop()
	select {
	case <-t.C:
	case <-done:
	}
}

func (w *world) room(r *rand.Rand) string { return w.p.rooms[r.IntN(len(w.p.rooms))].name }

// behind tells whether a cursor is not the end of a room.
func (w *world) behind(room, cursor string) string {
	c, err := broker.ParseCursor(cursor)
	w.e.mu.Lock()
	defer w.e.mu.Unlock()
	head := w.e.shelf(room).present().head()
	if err != nil || c.Epoch != head.Epoch || c.Seq < head.Seq {
		return fmt.Sprintf("is at %s in %s, which is at %s", position(c), room, position(head))
	}
	return ""
}

// start starts a hub on the site.
func (s *site) start() {
	w := s.w
	w.mu.Lock()
	w.nodes++
	node := w.nodes
	w.mu.Unlock()
	draw := func(kind uint64) *rand.Rand { return rand.New(rand.NewPCG(w.p.seed, node<<32|kind<<8|'b')) }
	process := w.e.open(faults{
		publish: draw(1), read: draw(2), update: draw(3), deliver: draw(4), commitLag: w.p.lag, late: w.p.late, errors: w.p.errors,
	})
	h := hub.New(
		hub.WithBroker(process), hub.WithAuthorize(func(*hub.Client, string) error { return nil }),
		hub.WithPublishRate(w.p.rate, w.p.burst), hub.WithQueue(w.p.queueMessages, w.p.queueBytes),
		hub.WithLogger(slog.New(slog.DiscardHandler)), hub.WithWriteTimeout(5*time.Second),
	)
	for _, r := range w.p.rooms {
		if _, err := h.Room(r.name, r.options(w.p)...); err != nil {
			w.fail("room %s: %v", r.name, err)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/room/{room}", h)
	srv := &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0)}
	opts := []memnet.Option{memnet.WithBuffer(w.p.buffer), memnet.WithShortWrites(w.p.short)}
	if w.p.resets {
		opts = append(opts, memnet.WithResetOnClose())
	}
	l := w.net.listen(s.number, opts...)
	w.go_(func() { _ = srv.Serve(l) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hub, s.srv, s.process = h, srv, process
}

// take takes the hub off the site; nil where it is down.
func (s *site) take() (h *hub.Hub, srv *http.Server, p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, srv, p = s.hub, s.srv, s.process
	s.hub, s.srv, s.process = nil, nil, nil
	return h, srv, p
}

func (s *site) current() *hub.Hub {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hub
}

// stop ends the site's hub in good order. It returns false where there was none. Strict says that all must have been told in that time.
func (s *site) stop(patience time.Duration, strict bool) bool {
	h, srv, p := s.take()
	if h == nil {
		return false
	}
	s.w.net.shut(s.number)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	switch err := h.Shutdown(ctx); {
	case err == nil, errors.Is(err, errDown), errors.Is(err, errLostAck):
	case errors.Is(err, context.DeadlineExceeded) && !strict:
		count("drain cut short")
	default:
		s.w.fail("shutdown: %v", err)
	}
	_ = srv.Close()
	_ = p.Close()
	s.w.empty(h)
	return true
}

// kill ends the site's process: nobody hears of it but by silence, and by connections that break.
func (s *site) kill() bool {
	h, srv, p := s.take()
	if h == nil {
		return false
	}
	s.w.net.sever(s.number)
	p.kill()
	// What is left in memory is not part of the story, but nothing of it may stay.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = h.Shutdown(ctx)
	_ = srv.Close()
	s.w.empty(h)
	return true
}

func (w *world) empty(h *hub.Hub) {
	if s := h.Stats(); s.Clients != 0 || s.Rooms != 0 || s.Queued != 0 {
		w.fail("after a shutdown there are %d clients, %d rooms, %d bytes queued", s.Clients, s.Rooms, s.Queued)
	}
}

// strike does a stroke.
func (w *world) strike(s stroke) {
	count(s.kind)
	site := w.sites[s.hub]
	room := w.p.rooms[s.room]
	on := func(f func(*shelf)) {
		w.e.mu.Lock()
		defer w.e.mu.Unlock()
		f(w.e.shelf(room.name))
	}
	switch s.kind {
	case "restart":
		if site.stop(time.Duration(s.n)*time.Second, false) {
			w.pauseUntilCalm(s.long)
			site.start()
		}
	case "kill":
		if site.kill() {
			w.pauseUntilCalm(s.long)
			site.start()
		}
	case "close room":
		w.closeRoom(site, room, time.Duration(s.n)*200*time.Millisecond)
	case "end subscriptions":
		on(func(s *shelf) {
			for len(s.subs) > 0 {
				s.subs[0].end()
			}
		})
	case "lose events":
		on(func(h *shelf) {
			for _, sub := range h.subs {
				sub.lose = s.n
			}
		})
	case "slow engine":
		w.slow(s.long)
	case "new epoch", "new epoch live":
		on(func(h *shelf) { h.restart(s.kind == "new epoch live") })
	case "lose tail":
		on(func(h *shelf) { h.loseTail(s.n * s.n) })
	}
}

// slow lets every commit take that much longer for a while.
func (w *world) slow(d time.Duration) {
	w.e.mu.Lock()
	w.e.slow = d
	w.e.mu.Unlock()
	w.pauseUntilCalm(d)
	w.e.mu.Lock()
	w.e.slow = 0
	w.e.mu.Unlock()
}

func (w *world) closeRoom(s *site, r roomPlan, patience time.Duration) {
	h := s.current()
	if h == nil {
		return
	}
	room, err := h.Room(r.name)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = room.Close(ctx) // its error says that it had to cut some
	// With the same options, unless somebody has it open already.
	_, _ = h.Room(r.name, r.options(w.p)...)
}

// run is the whole of it, in a bubble.
func (w *world) run() {
	for _, s := range w.sites {
		s.start()
	}
	for _, a := range w.actors {
		w.go_(a.run)
	}
	w.go_(w.serve)
	start := time.Now()
	var strokes sync.WaitGroup
	sort.SliceStable(w.p.strokes, func(a, b int) bool { return w.p.strokes[a].at < w.p.strokes[b].at })
	for _, s := range w.p.strokes {
		wait(time.Until(start.Add(s.at)), nil)
		strokes.Go(func() { w.strike(s) })
	}
	wait(time.Until(start.Add(w.p.load)), nil)
	close(w.calmed)
	strokes.Wait()
	for _, s := range w.sites {
		if s.current() == nil {
			s.start()
		}
	}
	w.e.heal()
	w.net.heal()
	w.settle()
	w.presence()
	close(w.done)
	w.cancel()
	w.end()
}

// heal ends what goes wrong with the engine.
func (e *engine) heal() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calm = true
	for _, s := range e.shelves {
		for _, sub := range s.subs {
			sub.flushLost()
		}
	}
}

const (
	patience = 5 * time.Minute  // within which all must be well once nothing goes wrong any more
	gone     = 40 * time.Second // within which who is gone must be known to be
)

// settle waits until everybody has everything.
func (w *world) settle() {
	start := time.Now()
	for {
		why := ""
		for _, a := range w.actors {
			if why = a.settled(); why != "" {
				why = fmt.Sprintf("%v: %s", a, why)
				break
			}
		}
		if why == "" {
			return
		}
		if time.Since(start) > patience {
			w.fail("%v after the last fault, %s", patience, why)
			if *seed > 0 {
				buf := make([]byte, 1<<20)
				fmt.Printf("%s\n", buf[:runtime.Stack(buf, true)])
			}
			return
		}
		wait(50*time.Millisecond, nil)
	}
}

// presence holds who is in the rooms, as the hubs and the clients see it, against who is.
func (w *world) presence() {
	if w.failed() > 0 {
		return
	}
	wait(gone, nil)
	want := map[string][]string{}
	for _, a := range w.actors {
		a.present(want)
	}
	check := func(who, room string, got []string) {
		sort.Strings(got)
		sort.Strings(want[room])
		if fmt.Sprint(got) != fmt.Sprint(want[room]) {
			w.fail("%s sees %v in %s, there are %v", who, got, room, want[room])
		}
	}
	for _, s := range w.sites {
		for _, r := range w.p.rooms {
			room, err := s.hub.Room(r.name)
			if err != nil {
				w.fail("room %s: %v", r.name, err)
				continue
			}
			var got []string
			for m := range room.Members() {
				got = append(got, m.Name)
			}
			check(fmt.Sprint("hub ", s.number), r.name, got)
		}
	}
	for _, a := range w.actors {
		for room, got := range a.view() {
			check(fmt.Sprint(a), room, got)
		}
	}
}

// end lets everybody go, and then holds what they saw against what there was.
func (w *world) end() {
	for _, s := range w.sites {
		s.stop(time.Minute, true)
	}
	w.wg.Wait()
	synctest.Wait()
	w.net.mu.Lock()
	if w.net.open != 0 {
		w.fail("%d ends of connections are still open", w.net.open)
	}
	w.net.mu.Unlock()
	for _, a := range w.actors {
		a.finish()
	}
	w.e.mu.Lock()
	defer w.e.mu.Unlock()
	for _, t := range w.tracks {
		for _, why := range checkTrack(t, w.e.shelf(t.room), w.drops(t.room)) {
			w.fail("%s", why)
		}
	}
	for _, why := range w.ledger.check(w.e) {
		w.fail("%s", why)
	}
}

// drops tells whether a room's slow policy drops messages.
func (w *world) drops(room string) bool {
	for _, r := range w.p.rooms {
		if r.name == room {
			return r.policy != "disconnect"
		}
	}
	return false
}
