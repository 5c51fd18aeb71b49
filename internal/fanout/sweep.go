package fanout

import "github.com/chathub-go/hub/internal/wsconn"

const (
	// grain is how many clients a sweep serves before it looks for sends that came meanwhile.
	grain = 32

	// maxJoined and maxJoinedBytes bound what a client is given at one time: as many messages
	// as a room takes at once, and what goes out with one system call.
	maxJoined      = 64
	maxJoinedBytes = 64 << 10
)

// A sweep goes round a lane's members, and gives each with one call all of the sends under
// way: those that came since it was there last. A send begins where the sweep is when it
// comes, and ends when the sweep is there again. So none waits for the end of another, and
// where 64 messages are under way a client is written to once for 64, not twice.
//
// The members must not change while a send is under way. All is its worker's alone.
type sweep struct {
	sends []send // in order; what all of them have is owed to the member at next
	next  int    // the member that comes next
	log   *log   // of sends, where there are two or more
	spare **log  // its worker's: a log that nobody uses, or nil
}

type send struct {
	b      *Batches
	left   int // members that have not had it
	weight int32
	all    bool    // also for who is not live
	except *Member // not for this one; nil: for all
}

// alone tells that no other send may be under way with it: it is not for the same members.
func (s *send) alone() bool { return s.all || s.except != nil }

// takes tells whether s may begin now.
func (w *sweep) takes(s *send) bool {
	switch {
	case len(w.sends) == 0:
		return true
	case s.alone() || w.sends[0].alone():
		return false
	case w.log == nil:
		return fits(w.sends[0].b, s.b)
	}
	return fits(w.log.joined(), s.b)
}

func fits(a, b *Batches) bool {
	for door := range a {
		if a, b := a[door], b[door]; a != nil && b != nil &&
			(len(a.Frames)+len(b.Frames) > maxJoined || len(a.Bytes)+len(b.Bytes) > maxJoinedBytes) {
			return false
		}
	}
	return true
}

// begin adds a send, for n members, that takes.
func (w *sweep) begin(s send, n int) {
	s.left = n
	w.sends = append(w.sends, s)
	switch {
	case w.log != nil:
		w.log.add(s.b)
	case len(w.sends) == 2:
		if w.log = *w.spare; w.log == nil {
			w.log = new(log)
		}
		*w.spare = nil
		w.log.add(w.sends[0].b)
		w.log.add(s.b)
	}
}

// serve gives at most n members what is under way, and returns how many it served, and the
// weight of the sends that ended. There is at least one send, and one member.
func (w *sweep) serve(members []slot, n int) (served int, ended int32) {
	first := &w.sends[0]
	end := min(w.next+min(n, first.left), len(members))
	b := first.b
	if w.log != nil {
		b = w.log.joined()
	}
	some := members[w.next:end]
	for i := range some {
		if m := &some[i]; (m.live || first.all) && m.member != first.except {
			m.to.Receive(b, false)
		}
	}
	if w.next = end; end == len(members) {
		w.next = 0
	}
	for i := range w.sends {
		w.sends[i].left -= len(some)
	}
	return len(some), w.end()
}

// end takes out the sends that all members have had.
func (w *sweep) end() (weight int32) {
	over := 0
	for over < len(w.sends) && w.sends[over].left <= 0 {
		weight += w.sends[over].weight
		over++
	}
	if over == 0 {
		return 0
	}
	left := len(w.sends) - over
	if left < 2 && w.log != nil {
		w.log.reset()
		*w.spare, w.log = w.log, nil
	}
	if w.log != nil {
		for _, s := range w.sends[:over] {
			w.log.drop(s.b)
		}
	}
	copy(w.sends, w.sends[over:])
	clear(w.sends[left:])
	if w.sends = w.sends[:left]; left == 0 && cap(w.sends) > keepJobs {
		w.sends = nil
	}
	return weight
}

// A log is batches one after another, for each door: what comes is added to its end, and
// what was sent dropped from its beginning.
type log struct {
	doors [Doors]struct {
		frames []*wsconn.Frame
		bytes  []byte
		frame  int // where frames begin
		byte   int // where bytes begin
	}
	batches [Doors]wsconn.Batch
	view    Batches
}

func (g *log) add(b *Batches) {
	for i, batch := range b {
		if batch == nil {
			continue
		}
		d := &g.doors[i]
		d.frames = push(d.frames, &d.frame, batch.Frames)
		d.bytes = push(d.bytes, &d.byte, batch.Bytes)
	}
}

func (g *log) drop(b *Batches) {
	for i, batch := range b {
		if batch == nil {
			continue
		}
		d := &g.doors[i]
		clear(d.frames[d.frame : d.frame+len(batch.Frames)])
		d.frame += len(batch.Frames)
		d.byte += len(batch.Bytes)
	}
}

// reset empties the log.
func (g *log) reset() {
	for i := range g.doors {
		d := &g.doors[i]
		clear(d.frames)
		d.frames, d.bytes, d.frame, d.byte = d.frames[:0], d.bytes[:0], 0, 0
		g.view[i], g.batches[i] = nil, wsconn.Batch{}
	}
}

// joined is what is in the log, until it is changed.
func (g *log) joined() *Batches {
	for i := range g.doors {
		d := &g.doors[i]
		if d.frame == len(d.frames) {
			g.view[i] = nil
			continue
		}
		g.batches[i] = wsconn.Batch{Frames: d.frames[d.frame:], Bytes: d.bytes[d.byte:]}
		g.view[i] = &g.batches[i]
	}
	return &g.view
}

// push appends to a slice whose elements before begin are not needed any more.
func push[T any](s []T, begin *int, more []T) []T {
	if *begin > 0 && len(s)+len(more) > cap(s) {
		n := copy(s, s[*begin:])
		clear(s[n:])
		s, *begin = s[:n], 0
	}
	return append(s, more...)
}
