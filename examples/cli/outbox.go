package main

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	maxOutbox = 256 // lines that wait for their acks, or for a connection
	maxFlight = 32  // of them sent and not yet acked
)

// A line is something that the user said and the server has not taken yet.
type line struct {
	id, text string
	sent     time.Time // when first; zero: never
}

// An outbox keeps lines in the order in which they were typed until the server has
// acked them. It belongs to one goroutine.
type outbox struct {
	prefix string // of the ids: this program's own
	n      int
	lines  []line // sent ones first
	flight int    // how many of lines were sent on this connection

	limits limits
	tokens float64   // publishes that the server would take at once
	filled time.Time // when tokens was right
	retry  time.Time // not before
}

// limits is what a server says of itself in welcome.
type limits struct {
	MessageBytes  int     `json:"message_bytes"`
	Rate          float64 `json:"rate"`
	Burst         float64 `json:"burst"`
	DedupWindowMS int64   `json:"dedup_window_ms"`
	PingMS        int64   `json:"ping_ms"`
}

func newOutbox() outbox { return outbox{prefix: strings.ToLower(rand.Text())} }

func (o *outbox) add(text string) {
	o.n++
	o.lines = append(o.lines, line{id: fmt.Sprintf("%s-%d", o.prefix, o.n), text: text})
}

func (o *outbox) full() bool  { return len(o.lines) >= maxOutbox }
func (o *outbox) empty() bool { return len(o.lines) == 0 }

// connected begins a new connection: what has no ack is sent again, under its id.
// Where the server can't know those ids (same is false), or has forgotten them by now,
// whether a line arrived is not known; such lines are taken out and returned.
func (o *outbox) connected(now time.Time, l limits, same bool) (uncertain []line) {
	o.limits, o.tokens, o.filled, o.retry = l, l.Burst, now, time.Time{}
	o.flight = 0
	window := time.Duration(l.DedupWindowMS) * time.Millisecond
	o.lines = slices.DeleteFunc(o.lines, func(ln line) bool {
		if ln.sent.IsZero() || same && now.Sub(ln.sent) < window {
			return false
		}
		uncertain = append(uncertain, ln)
		return true
	})
	return uncertain
}

// next returns the line to send now, or else when to ask again; zero: when something
// changes.
func (o *outbox) next(now time.Time) (ln line, ok bool, wait time.Time) {
	if o.flight >= len(o.lines) || o.flight >= maxFlight {
		return line{}, false, time.Time{}
	}
	if now.Before(o.retry) {
		return line{}, false, o.retry
	}
	if rate := o.limits.Rate; rate > 0 {
		o.tokens = min(o.tokens+now.Sub(o.filled).Seconds()*rate, max(o.limits.Burst, 1))
		o.filled = now
		if o.tokens < 1 {
			return line{}, false, now.Add(time.Duration((1 - o.tokens) / rate * float64(time.Second)))
		}
		o.tokens--
	}
	if o.lines[o.flight].sent.IsZero() {
		o.lines[o.flight].sent = now
	}
	o.flight++
	return o.lines[o.flight-1], true, time.Time{}
}

// done takes a line out: the server took it, or never will.
func (o *outbox) done(id string) (ln line, ok bool) {
	i := slices.IndexFunc(o.lines, func(ln line) bool { return ln.id == id })
	if i < 0 {
		return line{}, false
	}
	ln = o.lines[i]
	o.lines = slices.Delete(o.lines, i, i+1)
	if i < o.flight {
		o.flight--
	}
	return ln, true
}

// again notes that the server refused a line for now: it and those after it are sent again
// after a while. On a connection with ordered=1 the server refuses those, too, until then.
func (o *outbox) again(now time.Time, id string, after time.Duration) {
	i := slices.IndexFunc(o.lines, func(ln line) bool { return ln.id == id })
	if i < 0 || i >= o.flight {
		return
	}
	o.flight = i
	if retry := now.Add(after); retry.After(o.retry) {
		o.retry = retry
	}
}
