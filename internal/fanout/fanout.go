// Package fanout carries batches of ready frames from room loops to many
// clients, on a few workers.
//
// A client belongs to one worker, so what it gets stays in order without a lock
// between workers. A room has a [Group]: for each worker a lane, with a queue of
// jobs and the room's clients of that worker. Which clients are in a lane is itself
// changed by jobs, so a client that is added gets exactly what is sent after it. A
// worker serves its lanes in turn and a large one in slices, so that a room of
// 100,000 does not hold up a room of two. Sends that come while others are under way join
// them, see sweep.
package fanout

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/chathub-go/hub/internal/wsconn"
)

const (
	// Doors is how many encodings a message may go out in: two, and each deflated.
	Doors = 4

	// MaxWaiting is from how many messages on, waiting for one worker, a group is full; each
	// 2 KiB count as one at least, so it is full at 1 MiB too. Messages are counted, not sends:
	// a room whose messages come one by one would be full while hardly anything waits, and its
	// worker could make no batches of them.
	MaxWaiting = 512

	// slice is how many clients of one lane a worker serves before it turns to the
	// next lane: at 5 to 10 µs for a write, others wait for about 1 ms.
	slice = 128

	// keepJobs is the largest list of jobs that a lane keeps while it has none.
	keepJobs = 16
)

// Batches are the same messages for each door. A nil batch is nothing to send.
type Batches [Doors]*wsconn.Batch

// weight is what the batches count for in MaxWaiting.
func (b *Batches) weight() int32 {
	n := 1
	for _, door := range b {
		if door != nil {
			n = max(n, len(door.Frames), len(door.Bytes)/2048)
		}
	}
	return int32(n)
}

// A Receiver is a client. Its worker calls Receive, which must not block. With must
// the batch is owed to the client (what it gets on joining, an answer), and no bound
// on what waits for it may refuse it.
type Receiver interface {
	Receive(b *Batches, must bool)
}

// A Member is a receiver's place in a group.
type Member struct {
	to    Receiver
	lane  uint32
	index int // its worker only: where it stands in the lane
}

// A slot is a member in its lane. A worker goes through thousands of them: what it needs for
// each lies side by side.
type slot struct {
	to     Receiver
	member *Member
	live   bool // it gets messages, not presence alone
}

// NewMember returns a place for a receiver; all members of one receiver have the
// same key, which chooses the worker.
func NewMember(to Receiver, key uint32) *Member { return &Member{to: to, lane: key, index: -1} }

// A Pool is the workers of a hub.
type Pool struct {
	workers []*worker
	wg      sync.WaitGroup
	sent    atomic.Uint64
}

// NewPool starts n workers; n below 1 means GOMAXPROCS but one, and at least one: a worker
// that is busy does not let go of its processor, and who reads and the rooms' loops need one.
func NewPool(n int) *Pool {
	if n < 1 {
		n = max(1, runtime.GOMAXPROCS(0)-1)
	}
	p := &Pool{}
	for range n {
		w := &worker{pool: p, wake: make(chan struct{}, 1), done: make(chan struct{})}
		p.workers = append(p.workers, w)
		p.wg.Go(w.run)
	}
	return p
}

// Close stops the workers and waits for them. What still waits is not sent.
func (p *Pool) Close() {
	for _, w := range p.workers {
		close(w.done)
	}
	p.wg.Wait()
}

// Sent returns how many batches were handed to receivers.
func (p *Pool) Sent() uint64 { return p.sent.Load() }

// A Group is the fan-out of one room. Its methods belong to the room's loop; none
// of them blocks.
type Group struct {
	lanes []*lane
	ready chan struct{}
}

// NewGroup returns a group without members.
func (p *Pool) NewGroup() *Group {
	g := &Group{ready: make(chan struct{}, 1), lanes: make([]*lane, len(p.workers))}
	for i, w := range p.workers {
		g.lanes[i] = &lane{w: w, ready: g.ready, sweep: sweep{spare: &w.spare}}
	}
	return g
}

// Add puts m into the group; it gets first (which may be nil), then what is sent
// with SendAll and SendTo, and only after Live what is sent with Send.
func (g *Group) Add(m *Member, first *Batches) {
	g.lane(m).push(job{op: opAdd, member: m, b: first})
}

// Live lets m, which was added, get first (which may be nil), then whatever is sent.
func (g *Group) Live(m *Member, first *Batches) {
	g.lane(m).push(job{op: opLive, member: m, b: first})
}

// Remove takes m out of the group; it gets what was sent before, then last (which
// may be nil).
func (g *Group) Remove(m *Member, last *Batches) {
	g.lane(m).push(job{op: opRemove, member: m, b: last})
}

// Send sends b to every live member, but for except, which may be nil.
func (g *Group) Send(b *Batches, except *Member) { g.send(opSend, b, except) }

// SendAll sends b to every member, live or not.
func (g *Group) SendAll(b *Batches) { g.send(opSendAll, b, nil) }

func (g *Group) send(op op, b *Batches, except *Member) {
	for _, l := range g.lanes {
		if l.count > 0 {
			l.push(job{op: op, member: except, b: b})
		}
	}
}

// SendTo sends b to one member, after what was sent before.
func (g *Group) SendTo(m *Member, b *Batches) {
	g.lane(m).push(job{op: opSendTo, member: m, b: b})
}

// Then calls done, on m's worker, once all that was sent to m before was handed over.
// It must not block.
func (g *Group) Then(m *Member, done func()) {
	left := new(atomic.Int32)
	left.Store(1)
	g.lane(m).push(job{op: opFlush, left: left, done: done})
}

// Flush calls done, on a worker, once all that was sent before was handed over.
func (g *Group) Flush(done func()) {
	left := new(atomic.Int32)
	left.Store(int32(len(g.lanes)))
	for _, l := range g.lanes {
		l.push(job{op: opFlush, left: left, done: done})
	}
}

// Full says that a worker has MaxWaiting messages of this group waiting. Ready has a value
// once it may have changed.
func (g *Group) Full() bool {
	for _, l := range g.lanes {
		if l.waiting.Load() >= MaxWaiting {
			return true
		}
	}
	return false
}

// Ready has a value after a worker that was full made room.
func (g *Group) Ready() <-chan struct{} { return g.ready }

func (g *Group) lane(m *Member) *lane { return g.lanes[m.lane%uint32(len(g.lanes))] }

type op uint8

const (
	opAdd op = iota
	opLive
	opRemove
	opSend
	opSendAll
	opSendTo
	opFlush
)

type job struct {
	op     op
	weight int32 // messages that count as waiting
	member *Member
	b      *Batches
	left   *atomic.Int32
	done   func()
}

// A lane is a group's share of one worker.
type lane struct {
	w       *worker
	ready   chan struct{}
	count   int          // room loop only: members, as the loop has it
	waiting atomic.Int32 // messages of sends that are not finished

	jobs   []job // guarded by w.mu
	queued bool  // guarded by w.mu: the lane is in the run queue or being served

	members []slot // worker only
	current []job  // worker only: taken from jobs
	at      int    // worker only: the job in current
	sweep   sweep  // worker only: the sends under way
}

// push must only be called from the room's loop.
func (l *lane) push(j job) {
	switch j.op {
	case opAdd:
		l.count++
	case opRemove:
		l.count--
	case opSend, opSendAll, opSendTo:
		j.weight = j.b.weight()
		l.waiting.Add(j.weight)
	}
	w := l.w
	w.mu.Lock()
	l.jobs = append(l.jobs, j)
	wake := false
	if !l.queued {
		l.queued = true
		w.queue = append(w.queue, l)
		wake = true
	}
	w.mu.Unlock()
	if wake {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

type worker struct {
	pool *Pool
	wake chan struct{}
	done chan struct{}

	spare *log // its goroutine only

	mu    sync.Mutex // guards queue, and the lanes' jobs and queued
	queue []*lane    // lanes with work, served in turn
}

func (w *worker) run() {
	var turn []*lane
	for {
		w.mu.Lock()
		turn, w.queue = w.queue, turn[:0]
		w.mu.Unlock()
		if len(turn) == 0 {
			select {
			case <-w.wake:
				continue
			case <-w.done:
				return
			}
		}
		for i, l := range turn {
			turn[i] = nil
			w.serve(l)
		}
		select {
		case <-w.done:
			return
		default:
		}
	}
}

// serve does one slice of a lane's work, and puts it back in the queue if it has more.
func (w *worker) serve(l *lane) {
	for budget := slice; budget > 0; {
		if l.at == len(l.current) && !l.fetch() {
			return
		}
		budget -= l.step(budget)
	}
	runtime.Gosched() // where there is one processor, others need it too
	w.mu.Lock()
	w.queue = append(w.queue, l)
	w.mu.Unlock()
}

// fetch takes the jobs that came meanwhile, and says whether there is anything to do.
func (l *lane) fetch() bool {
	clear(l.current)
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.current, l.jobs = l.jobs, l.current[:0]
	l.at = 0
	if len(l.current) > 0 || len(l.sweep.sends) > 0 {
		return true
	}
	l.queued = false
	if len(l.members) == 0 || cap(l.current) > keepJobs || cap(l.jobs) > keepJobs { // a burst of joins is no reason to hold its memory
		l.current, l.jobs = nil, nil
	}
	return false
}

// step begins what can begin, serves at most n members, and returns how many it served, at
// least 1.
func (l *lane) step(n int) int {
	for ; l.at < len(l.current); l.at++ {
		j := &l.current[l.at]
		if j.op != opSend && j.op != opSendAll {
			if len(l.sweep.sends) > 0 {
				break // it is for after what came before
			}
			l.do(j)
			l.at++
			return 1
		}
		s := send{b: j.b, weight: j.weight, all: j.op == opSendAll, except: j.member}
		if !l.sweep.takes(&s) {
			break
		}
		if len(l.members) == 0 {
			l.sent(j.weight)
			continue
		}
		l.sweep.begin(s, len(l.members))
	}
	if len(l.sweep.sends) == 0 {
		return 1
	}
	served, ended := l.sweep.serve(l.members, min(n, grain))
	l.w.pool.sent.Add(uint64(served))
	l.sent(ended)
	return served
}

// do does a job that is for one member, or none.
func (l *lane) do(j *job) {
	switch j.op {
	case opAdd:
		j.member.index = len(l.members)
		l.members = append(l.members, slot{to: j.member.to, member: j.member})
		l.give(j.member, j.b, true)
	case opLive:
		if i := j.member.index; i >= 0 {
			l.members[i].live = true
		}
		l.give(j.member, j.b, true)
	case opRemove:
		l.give(j.member, j.b, true)
		l.remove(j.member)
	case opSendTo:
		l.give(j.member, j.b, false)
		l.sent(j.weight)
	case opFlush:
		if j.left.Add(-1) == 0 {
			j.done()
		}
	}
}

// sent ends a send of n messages.
func (l *lane) sent(n int32) {
	if n == 0 {
		return
	}
	if left := l.waiting.Add(-n); left < MaxWaiting && left+n >= MaxWaiting {
		select {
		case l.ready <- struct{}{}:
		default:
		}
	}
}

func (l *lane) give(m *Member, b *Batches, must bool) {
	if b != nil && m.index >= 0 {
		l.w.pool.sent.Add(1)
		m.to.Receive(b, must)
	}
}

// remove takes m out by putting the last member in its place; the order of members
// in a lane means nothing.
func (l *lane) remove(m *Member) {
	last := len(l.members) - 1
	if m.index < 0 {
		return
	}
	l.members[m.index] = l.members[last]
	l.members[m.index].member.index = m.index
	l.members[last] = slot{}
	l.members = l.members[:last]
	l.sweep.next = 0
	m.index = -1
	if last == 0 {
		l.members = nil
	}
}
