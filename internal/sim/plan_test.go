package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/chathub-go/hub"
)

// A plan is all that a seed decides for a run as a whole. Each client, link and process draws what it does from
// a stream of its own, of the same seed.
type plan struct {
	seed    uint64
	load    time.Duration // while it lasts, things go wrong
	forgets bool          // histories may be lost
	faulty  bool          // the network loses connections
	hubs    int
	rooms   []roomPlan
	engine  engineOptions
	window  time.Duration // of dedup

	raw, managed, plain int
	talk                int // messages of one burst, at most
	big                 int // bytes of the largest messages
	keys                bool
	service             int // messages of the service

	queueMessages, queueBytes int
	rate                      float64
	burst                     int
	resume, idle              time.Duration
	buffer, short             int
	resets                    bool

	lag, late time.Duration
	errors    float64
	strokes   []stroke
}

type roomPlan struct {
	name     string
	policy   string
	compress int
}

// A stroke is a fault of a hub or of the engine.
type stroke struct {
	at   time.Duration
	kind string
	hub  int
	room int
	n    int
	long time.Duration
}

func (s stroke) String() string {
	return fmt.Sprintf("%v %s hub %d room %d n %d for %v", s.at, s.kind, s.hub, s.room, s.n, s.long.Round(time.Millisecond))
}

func newPlan(seed uint64) *plan {
	r := rand.New(rand.NewPCG(seed, 'p'))
	p := &plan{
		seed: seed, load: 2*time.Second + time.Duration(r.Int64N(int64(8*time.Second))),
		forgets: r.IntN(3) == 0, faulty: r.IntN(8) > 0, hubs: 1 + r.IntN(2),
		raw: r.IntN(4), managed: r.IntN(4), plain: r.IntN(3),
		talk: 1 + r.IntN(16), keys: r.IntN(2) == 0, service: r.IntN(60),
		resume: pick(r, 0, 300*time.Millisecond, 3*time.Second), idle: pick(r, 50*time.Millisecond, time.Second, 30*time.Second),
		queueMessages: pick(r, 2, 4, 8, 16, 64, 256), queueBytes: pick(r, 1024, 8<<10, 64<<10, 1<<20),
		rate: pick(r, 0, 5., 20, 100), burst: pick(r, 1, 5, 40),
		buffer: pick(r, 300, 4<<10, 64<<10), short: pick(r, 0, 1, 100, 1000), resets: r.IntN(3) == 0,
		big:    pick(r, 500, 5000, 40_000),
		window: pick(r, 30*time.Second, 2*time.Minute, 10*time.Minute),
		lag:    pick(r, 0, 3*time.Millisecond, 50*time.Millisecond, 500*time.Millisecond),
		late:   pick(r, 0, 0, 5*time.Millisecond, 300*time.Millisecond),
		errors: pick(r, 0, 0.02, 0.1),
	}
	if p.raw+p.managed < 2 {
		p.raw++
		p.managed++
	}
	p.engine = engineOptions{
		messages: pick(r, 0, 3, 10, 30, 100, 1000), age: pick(r, 0, 0, time.Second, 10*time.Second), window: p.window,
		lease: pick(r, time.Second, 5*time.Second), waiting: pick(r, 4, 64, 1024), sparse: r.IntN(2) == 0, coy: r.IntN(4) == 0,
	}
	for i := range 1 + r.IntN(3) {
		p.rooms = append(p.rooms, roomPlan{fmt.Sprint("room", i), pick(r, "disconnect", "disconnect", "drop oldest", "latest per key"), pick(r, 0, 0, 1, 100)})
	}
	p.draw(r)
	return p
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// draw draws the strokes.
func (p *plan) draw(r *rand.Rand) {
	kinds := []string{"restart", "kill", "kill", "close room", "end subscriptions", "lose events", "slow engine"}
	if p.forgets {
		kinds = append(kinds, "new epoch", "new epoch live", "lose tail")
	}
	for range r.IntN(6) {
		p.strokes = append(p.strokes, stroke{
			at: time.Duration(r.Int64N(int64(p.load))), kind: pick(r, kinds...), hub: r.IntN(p.hubs), room: r.IntN(len(p.rooms)),
			n: 1 + r.IntN(5), long: time.Duration(r.Float64() * r.Float64() * float64(3*time.Second)),
		})
	}
}

func (p *plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %v of load, %d hubs, %d raw, %d hubclients, %d plain, faulty network %v, histories may be lost %v\n",
		p.seed, p.load, p.hubs, p.raw, p.managed, p.plain, p.faulty, p.forgets)
	fmt.Fprintf(&b, "  rooms %+v\n  engine %+v, commits within %v, events within %v, errors %v\n", p.rooms, p.engine, p.lag, p.late, p.errors)
	fmt.Fprintf(&b, "  queue %d/%d, rate %v/%d, resume window %v, idle %v, buffer %d, short writes %d, resets %v, bursts of %d, up to %d bytes, keys %v, service %d\n",
		p.queueMessages, p.queueBytes, p.rate, p.burst, p.resume, p.idle, p.buffer, p.short, p.resets, p.talk, p.big, p.keys, p.service)
	for _, s := range p.strokes {
		fmt.Fprintf(&b, "  %v\n", s)
	}
	return b.String()
}

func (r roomPlan) options(p *plan) []hub.RoomOption {
	policy := map[string]hub.SlowPolicy{"disconnect": hub.Disconnect, "drop oldest": hub.DropOldest, "latest per key": hub.LatestPerKey}[r.policy]
	opts := []hub.RoomOption{hub.WithSlowPolicy(policy), hub.WithResumeWindow(p.resume), hub.WithIdle(p.idle)}
	if r.compress > 0 {
		opts = append(opts, hub.WithCompression(r.compress))
	}
	return opts
}
