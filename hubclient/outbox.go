package hubclient

import (
	"bytes"
	"math"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/chathub-go/hub/internal/wire"
)

const (
	// What is under way without an answer at most: it is what comes again, for nothing, after a
	// refusal or a lost connection.
	maxFlight      = 64
	maxFlightBytes = 256 << 10

	// crashes is how many connections may end with 1011 on one message before it is given up.
	crashes = 3

	refusedPause  = 200 * time.Millisecond // doubled with each refusal, where the server says nothing
	drainingPause = 10 * time.Second       // for the connection to be closed
)

// A Publication is a message that was given to [Client.PublishAsync]. Its methods may be called concurrently.
type Publication struct {
	c       *Client
	id      string
	room    string
	direct  bool
	command []byte

	// c.mu guards what follows.
	flying   bool      // sent on this connection, and not answered
	sentAt   time.Time // on this connection
	maybe    time.Time // when it was first sent with an outcome that is not known; zero: it is not kept
	repeated bool      // sent again since then
	refusals int
	crashed  int // connections that ended with 1011 on it
	wanted   int // by so many calls: those of Publish that wait, and all of PublishAsync

	done    chan struct{}
	receipt Receipt // before done is closed
	err     error
}

// size is what p counts for in the outbox.
func (p *Publication) size() int { return len(p.command) }

// An outbox holds messages from PublishAsync until they are acked or given up, in order. Client.mu guards it.
type outbox struct {
	list []*Publication
	byID map[string]*Publication
	// doubtful counts those that are not under way and were sent with an outcome that is not known.
	doubtful int
	idle     chan struct{} // not nil: somebody waits for the outbox to be empty; closed then
	rooms    func(name string) bool

	// Of this connection.
	flight      int
	flightBytes int
	held        *Publication // refused: the server takes no other before it has come again
	stuck       bool         // it won't
	ending      bool         // nothing more is sent
	refused     bool         // what is under way is to be answered before anything is sent: the server refuses it too
	paid        bool         // the next message had its token when the server refused it for its rate, and took none
	pause       time.Time    // nothing is sent before
	progress    time.Time    // when the last answer came, or the first send without one was
	bucket      *rate.Limiter
	limits      Limits
}

func (o *outbox) add(p *Publication) {
	o.list = append(o.list, p)
	o.byID[p.id] = p
}

// same tells whether command is p's.
func (p *Publication) same(command []byte) bool { return bytes.Equal(p.command, command) }

// opened begins a connection.
func (o *outbox) opened(l Limits) {
	o.limits = l
	o.flight, o.flightBytes, o.ending, o.refused, o.paid, o.held, o.stuck = 0, 0, false, false, false, nil, false
	o.pause = time.Time{}
	o.bucket = nil
	if l.Rate > 0 && !math.IsInf(l.Rate, 0) {
		// What left evenly may arrive in a bunch: an eighth of the burst is left for that.
		o.bucket = rate.NewLimiter(rate.Limit(l.Rate), max(l.Burst-l.Burst/8, 1))
	}
}

// lost ends a connection: what was under way is to be sent again.
func (o *outbox) lost() {
	for _, p := range o.list {
		if p.flying {
			p.flying = false
			o.doubtful++
		}
	}
	o.flight, o.flightBytes, o.ending, o.refused, o.paid, o.held, o.stuck = 0, 0, false, false, false, nil, false
}

// first returns the oldest message under way, nil if there is none.
func (o *outbox) first() *Publication {
	for _, p := range o.list {
		if p.flying {
			return p
		}
	}
	return nil
}

// largest returns the largest message under way, of several the oldest, nil if there is none.
func (o *outbox) largest() (most *Publication) {
	for _, p := range o.list {
		if p.flying && (most == nil || p.size() > most.size()) {
			most = p
		}
	}
	return most
}

// next returns what to send now. Without, wake is when to ask again; zero: when something has happened.
func (o *outbox) next(now time.Time) (p *Publication, wake time.Time) {
	if o.stuck || o.ending || o.refused && o.flight > 0 || o.flight >= maxFlight {
		return nil, wake
	}
	if now.Before(o.pause) {
		return nil, o.pause
	}
	if p = o.held; p == nil {
		i := slices.IndexFunc(o.list, func(p *Publication) bool { return !p.flying && o.rooms(p.room) })
		if i < 0 {
			return nil, wake
		}
		p = o.list[i]
	} else if !o.rooms(p.room) { // nor can those to other rooms be sent: on the next connection they can
		o.stuck = true
		return nil, wake
	}
	if o.flight > 0 && o.flightBytes+p.size() > maxFlightBytes {
		return nil, wake
	}
	if b := o.bucket; b != nil && !o.paid {
		if missing := 1 - b.TokensAt(now); missing > 0 {
			return nil, now.Add(time.Duration(math.Ceil(missing / float64(b.Limit()) * float64(time.Second))))
		}
		b.AllowN(now, 1)
	}
	o.refused, o.paid = false, false
	if o.flight == 0 {
		o.progress = now
	}
	if p == o.held {
		o.held = nil
	}
	p.flying, p.sentAt, p.repeated = true, now, !p.maybe.IsZero()
	if !p.repeated {
		p.maybe = now
	} else {
		o.doubtful--
	}
	o.flight++
	o.flightBytes += p.size()
	return p, wake
}

// landed takes the answer to p.
func (o *outbox) landed(p *Publication, now time.Time) {
	p.flying = false
	o.flight--
	o.flightBytes -= p.size()
	o.progress = now
}

// again takes a refusal of p that may be repeated.
func (o *outbox) again(p *Publication, code string, after time.Duration, now time.Time) {
	o.landed(p, now)
	o.refused = true
	if code != wire.CodeUnavailable && !p.repeated {
		p.maybe = time.Time{} // sent once, and certainly not kept
	} else {
		o.doubtful++
	}
	switch {
	case code == wire.CodeOutOfOrder && o.held != nil:
		return // that refusal said how long
	case code != wire.CodeOutOfOrder && o.held == nil:
		o.held = p
	}
	o.paid = code == wire.CodeRate
	if after <= 0 {
		after = refusedPause << min(p.refusals, 7)
		if code == wire.CodeDraining {
			after = drainingPause
		}
	}
	p.refusals++
	if at := now.Add(after); at.After(o.pause) {
		o.pause = at
	}
}

// expired tells since when p is too old to be sent again: an earlier sending of it may have been kept, and would not be known any more.
// A message that is on its way takes its time too, at most until a silent connection is given up.
func (o *outbox) expired(p *Publication, now time.Time) bool {
	if p.maybe.IsZero() || p.flying {
		return false
	}
	return p.direct || !now.Round(0).Before(o.expiry(p)) || now.Sub(p.maybe) >= o.keep()
}

// expiry is when p expires, by the wall clock: others stand still while a machine sleeps.
func (o *outbox) expiry(p *Publication) time.Time { return p.maybe.Round(0).Add(o.keep()) }

// keep is for how long after it was first sent a message may be sent again.
func (o *outbox) keep() time.Duration {
	w := o.limits.DedupWindow
	return w - min(w/4, time.Minute)
}

// remove takes p out of the outbox.
func (o *outbox) remove(p *Publication) {
	if p.flying {
		o.landed(p, o.progress)
	} else if !p.maybe.IsZero() {
		o.doubtful--
	}
	if p == o.held {
		o.held, o.stuck = nil, true
	}
	delete(o.byID, p.id)
	if i := slices.Index(o.list, p); i >= 0 {
		o.list = slices.Delete(o.list, i, i+1)
	}
	if len(o.list) == 0 && o.idle != nil {
		close(o.idle)
		o.idle = nil
	}
}
