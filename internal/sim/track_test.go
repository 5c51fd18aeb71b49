package sim

import (
	"fmt"
	"time"

	"github.com/chathub-go/hub/broker"
)

// A track is what one reader saw of a room, over connections, as it came. It belongs to one goroutine until
// the run is over.
type track struct {
	who, room string
	items     []item
	whole     bool // it is there to the end, and must have everything
}

type itemKind uint8

const (
	itemWelcome itemKind = iota
	itemMessage
	itemGap
)

// An item is an event that is about a position.
type item struct {
	kind itemKind
	at   time.Time

	cursor broker.Cursor // of a message or a welcome; of a gap where it has one

	// Of a welcome.
	since    broker.Cursor // what the client came with
	asked    time.Time     // when it came
	recovery string
	anew     bool // it came with a position that it had before, on purpose

	// Of a message.
	prev     uint64
	id, user string
	sum      uint64

	// Of a gap.
	after, before uint64
	missed        int
	reset         bool
}

func (i *item) String() string {
	switch i.kind {
	case itemWelcome:
		return fmt.Sprintf("welcome %s at %s, came with %s", i.recovery, position(i.cursor), position(i.since))
	case itemMessage:
		return fmt.Sprintf("message %s after %d, id %q", position(i.cursor), i.prev, i.id)
	}
	return fmt.Sprintf("gap after %d before %d missed %d reset %v at %s", i.after, i.before, i.missed, i.reset, position(i.cursor))
}

func position(c broker.Cursor) string {
	if c == (broker.Cursor{}) {
		return "nothing"
	}
	return fmt.Sprintf("%.4s/%d#%04x", c.Epoch, c.Seq, c.Tag>>48)
}

func (t *track) add(i item) {
	i.at = time.Now()
	t.items = append(t.items, i)
}

// A segment is a piece of a track that must be of one history, with no hole in it that it does not tell.
type segment struct {
	start broker.Cursor
	items []item // messages and gaps without reset
	end   uint64 // the position reached
}

// checkTrack holds what a reader saw against what the room had.
func checkTrack(t *track, s *shelf, dropping bool) (wrong []string) {
	c := &trackCheck{t: t, s: s, dropping: dropping}
	for i := range t.items {
		c.item(i)
	}
	for i := range c.segments {
		c.segment(&c.segments[i], i == len(c.segments)-1)
	}
	if t.whole && len(c.segments) == 0 {
		c.fail("never got in")
	}
	return c.wrong
}

type trackCheck struct {
	t        *track
	s        *shelf
	dropping bool // the room's slow policy drops messages
	segments []segment
	owed     bool   // a gap must come next
	loose    uint64 // after a gap: the message's prev may be from here on
	isLoose  bool
	wrong    []string
}

func (c *trackCheck) fail(format string, args ...any) {
	c.wrong = append(c.wrong, fmt.Sprintf("%s in %s: ", c.t.who, c.t.room)+fmt.Sprintf(format, args...))
}

func (c *trackCheck) begin(start broker.Cursor) {
	c.segments = append(c.segments, segment{start: start, end: start.Seq})
	c.isLoose = false
}

// item holds an event against those before it.
func (c *trackCheck) item(n int) {
	i := &c.t.items[n]
	if i.kind != itemWelcome && len(c.segments) == 0 {
		c.fail("%v before any welcome", i)
		return
	}
	if c.owed && i.kind != itemGap {
		// The connection may have been lost before the gap came.
		if i.kind != itemWelcome {
			c.fail("%v where the verdict said that a gap comes", i)
		}
	}
	if i.kind == itemWelcome {
		c.welcome(i)
		return
	}
	seg := &c.segments[len(c.segments)-1]
	switch {
	case i.kind == itemMessage && i.cursor.Epoch != seg.start.Epoch:
		c.fail("%v in epoch %.4s", i, seg.start.Epoch)
	case i.kind == itemMessage && (i.prev >= i.cursor.Seq || i.cursor.Seq <= seg.end):
		c.fail("%v at %d", i, seg.end)
	case i.kind == itemMessage && (!c.isLoose && i.prev != seg.end || c.isLoose && (i.prev < c.loose || i.prev > seg.end)):
		c.fail("a hole: %v at %d", i, seg.end)
	case i.kind == itemGap && (!c.isLoose && i.after != seg.end || c.isLoose && (i.after < c.loose || i.after > seg.end)):
		c.fail("%v at %d", i, seg.end)
	}
	if i.kind == itemMessage {
		c.isLoose = false
		seg.items, seg.end = append(seg.items, *i), i.cursor.Seq
		return
	}
	first := c.owed
	c.owed = false
	if i.reset {
		if i.cursor.Epoch == "" || i.cursor.Epoch == seg.start.Epoch {
			c.fail("%v in epoch %.4s", i, seg.start.Epoch)
		}
		c.resetTold(i)
		c.begin(i.cursor)
		c.isLoose, c.loose = true, 0
		return
	}
	if i.before <= i.after+1 || i.cursor.Seq != i.before-1 || i.cursor.Epoch != seg.start.Epoch {
		c.fail("%v in epoch %.4s", i, seg.start.Epoch)
	}
	if !c.isLoose {
		c.loose = i.after
	}
	c.isLoose = true
	g := *i
	if g.cursor.Tag = 0; first {
		g.recovery = broker.Gap.String() // for segment: it must be for want of what is kept
	}
	seg.items, seg.end = append(seg.items, g), i.before-1
}

// welcome holds a verdict against what the client came with.
func (c *trackCheck) welcome(i *item) {
	c.owed = false
	count("verdict " + i.recovery)
	came := i.since != broker.Cursor{}
	if came != (i.recovery != "new") {
		c.fail("%v", i)
	}
	switch i.recovery {
	case "recovered", "gap":
		if i.cursor != i.since {
			c.fail("%v: it goes on elsewhere", i)
		}
		c.owed = i.recovery == "gap"
		if len(c.segments) == 0 || i.since.Tag == 0 || i.anew {
			// A position without a tag is known by its seq alone: a tail that was lost may go unnoticed.
			c.begin(i.since)
		} else if seg := &c.segments[len(c.segments)-1]; seg.start.Epoch != i.since.Epoch || seg.end != i.since.Seq {
			c.fail("%v: the track is at %.4s/%d", i, seg.start.Epoch, seg.end)
		}
		c.isLoose = false
	case "reset":
		c.resetTold(i)
		c.begin(i.cursor)
	case "new":
		c.begin(i.cursor)
	default:
		c.fail("%v", i)
	}
}

// resetTold wants the position that a client had to be in another history than the room's at that time.
func (c *trackCheck) resetTold(i *item) {
	since, asked := i.since, i.asked
	if i.kind == itemGap { // told to who was there
		count("reset told live")
		if seg := c.segments[len(c.segments)-1]; c.s.present().epoch == seg.start.Epoch {
			c.fail("%v: the room's epoch is still %.4s", i, seg.start.Epoch)
		}
		return
	}
	for n, h := range c.s.histories {
		if h.born.After(i.at) || n+1 < len(c.s.histories) && c.s.histories[n+1].born.Before(asked) {
			continue // not the room's between the question and the answer
		}
		then := *h
		if then.log = nil; !h.has(since) {
			return
		}
		for _, m := range h.log {
			if !m.Time.After(asked) {
				then.log = append(then.log, m)
			}
		}
		if !then.has(since) {
			return
		}
	}
	c.fail("%v: that is a position of the room's history", i)
}

// segment holds a piece of the track against all that the room had.
func (c *trackCheck) segment(seg *segment, last bool) {
	var why string
	for n := len(c.s.histories) - 1; n >= 0; n-- {
		h := c.s.histories[n]
		if h.epoch != seg.start.Epoch {
			continue
		}
		present := n == len(c.s.histories)-1
		w := c.match(seg, h, present)
		if w == "" && last && c.t.whole {
			if !present {
				w = "it ends in a history that is gone"
			} else if seg.end < h.head().Seq {
				w = fmt.Sprintf("it ends at %d, the room is at %d", seg.end, h.head().Seq)
			}
		}
		if w == "" {
			return
		}
		if why == "" || present {
			why = w
		}
	}
	if why == "" {
		why = "of an epoch that the room never had"
	}
	c.fail("from %s: %s", position(seg.start), why)
}

// match returns what of a segment is not as in a history.
func (c *trackCheck) match(seg *segment, h *history, present bool) string {
	at := h.upTo(seg.start.Seq)
	for n := range seg.items {
		i := &seg.items[n]
		if i.kind == itemGap {
			end := h.upTo(i.before - 1)
			missing := end - at
			trimmed := !present || end <= c.s.edge
			switch {
			case missing == 0:
				return fmt.Sprintf("%v: nothing is missing", i)
			case i.missed >= 0 && i.missed != missing:
				return fmt.Sprintf("%v: %d are missing", i, missing)
			case i.recovery != "" && !trimmed:
				return fmt.Sprintf("%v: those are kept", i)
			case !trimmed && !c.dropping && !c.s.lossy:
				return fmt.Sprintf("%v: for no reason", i)
			}
			at = end
			continue
		}
		if at >= len(h.log) {
			return fmt.Sprintf("%v: the room never had it", i)
		}
		m := h.log[at]
		if m.Cursor != i.cursor || m.Prev != i.prev {
			return fmt.Sprintf("%v: the room has %s after %d, id %q", i, position(m.Cursor), m.Prev, m.ID)
		}
		if m.ID != i.id || m.From.User != i.user || sum(m) != i.sum {
			return fmt.Sprintf("%v: it says something else than the room's %q by %s", i, m.ID, m.From.Name)
		}
		at++
	}
	return ""
}
