package room

import (
	"context"
	"time"

	"github.com/chathub-go/hub/broker"
)

// What other processes, and through the broker this one too, know of the members is
// announced by a goroutine that lives while there is something to announce: the loop
// does no I/O. A room's announcements go out in order, and what happens meanwhile is
// gathered into the next one.

const (
	syncTimeout  = 10 * time.Second
	minSyncRetry = 100 * time.Millisecond
	maxSyncRetry = 10 * time.Second
)

// A syncer is what is to be announced. Room loop only.
type syncer struct {
	pending []change
	running bool
	delay   time.Duration // before the next try, after a failure
	retry   time.Time     // zero: no failure
}

type change struct {
	who    broker.Member
	joined bool
}

type syncResult struct {
	changes []change
	err     error
}

func (s *syncer) idle() bool { return len(s.pending) == 0 && !s.running }

// A lingering is a client that was cut off and may come back.
type lingering struct {
	who    broker.Member
	reason string
	until  time.Time
	over   bool // it came back; it only waits to be taken out of the queue
}

// lingerers are who is lingering. Room loop only.
type lingerers struct {
	queue []*lingering // in the order of their deadlines
	users map[string][]*lingering
}

func (s *lingerers) add(g *lingering) {
	if s.users == nil {
		s.users = map[string][]*lingering{}
	}
	s.queue = append(s.queue, g)
	s.users[g.who.User] = append(s.users[g.who.User], g)
}

// take removes a user's and returns them.
func (s *lingerers) take(user string) []*lingering {
	found := s.users[user]
	delete(s.users, user)
	for _, g := range found {
		g.over = true
	}
	return found
}

// first returns the one whose deadline is next; nil where there is none.
func (s *lingerers) first() *lingering {
	for len(s.queue) > 0 && s.queue[0].over {
		s.pop()
	}
	if len(s.queue) == 0 {
		s.queue = nil
		return nil
	}
	return s.queue[0]
}

func (s *lingerers) pop() {
	s.queue[0] = nil
	s.queue = s.queue[1:]
}

// announce tells that a live member is present; where the same user was cut off it
// takes the place of that client without the others noticing. Room loop only.
func (l *Loop) announce(m *Member) {
	m.announced = true
	l.sync.pending = append(l.sync.pending, change{m.Who, true})
	for _, g := range l.linger.take(m.Who.User) {
		l.sync.pending = append(l.sync.pending, change{g.who, false})
	}
	l.startSync(time.Now())
}

// goodbye tells that a member is gone, or lets it linger. Room loop only.
func (l *Loop) goodbye(m *Member, reason string, linger bool, now time.Time) {
	if !m.announced {
		return
	}
	if linger && l.cfg.ResumeWindow > 0 && !l.closing {
		first := l.linger.first() == nil
		l.linger.add(&lingering{who: m.Who, reason: reason, until: now.Add(l.cfg.ResumeWindow)})
		if first {
			l.schedule()
		}
		return
	}
	l.depart(m.Who, reason)
	l.startSync(now)
}

// depart must only be called from the room loop.
func (l *Loop) depart(who broker.Member, reason string) {
	if reason != "" {
		l.reasons[who.Client] = reason
	}
	l.sync.pending = append(l.sync.pending, change{who, false})
}

// expire lets those go whose resume window has passed. One whose user is catching up
// stays: that client will take its place. Room loop only.
func (l *Loop) expire(now time.Time) {
	for g := l.linger.first(); g != nil && !g.until.After(now); g = l.linger.first() {
		all := l.linger.take(g.who.User)
		coming := len(l.users[g.who.User]) > 0 && !l.anyLive(g.who.User)
		for _, g := range all {
			switch {
			case coming:
				l.linger.add(&lingering{who: g.who, reason: g.reason, until: now.Add(l.cfg.ResumeWindow)})
			case g.until.After(now): // cut off again, later
				l.linger.add(&lingering{who: g.who, reason: g.reason, until: g.until})
			default:
				l.depart(g.who, g.reason)
			}
		}
	}
}

func (l *Loop) anyLive(user string) bool {
	for _, m := range l.users[user] {
		if m.live {
			return true
		}
	}
	return false
}

// startSync announces what is pending, unless an announcement is under way or its
// retry is not due. Room loop only.
func (l *Loop) startSync(now time.Time) {
	s := &l.sync
	if s.running || len(s.pending) == 0 || now.Before(s.retry) {
		return
	}
	changes := s.pending
	s.pending, s.running = nil, true
	l.cfg.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, syncTimeout)
		defer cancel()
		joined, left := collapse(changes)
		var err error
		if len(joined)+len(left) > 0 {
			err = l.cfg.Lease.Update(ctx, l.cfg.Name, joined, left)
		}
		select {
		case l.synced <- syncResult{changes, err}:
		case <-l.done:
		}
	})
}

// syncDone must only be called from the room loop.
func (l *Loop) syncDone(r syncResult) {
	s := &l.sync
	s.running = false
	now := time.Now()
	if r.err != nil {
		s.pending = append(r.changes, s.pending...)
		s.delay = min(max(2*s.delay, minSyncRetry), maxSyncRetry)
		s.retry = now.Add(s.delay)
		l.cfg.Logger.Warn("hub: presence could not be announced", "room", l.cfg.Name, "err", r.err, "retry", s.delay)
	} else {
		s.delay, s.retry = 0, time.Time{}
		l.forgetReasons(r.changes)
	}
	l.startSync(now)
	l.schedule()
}

// forgetReasons drops the reasons of those who came and went within one announcement:
// no event tells of them. Room loop only.
func (l *Loop) forgetReasons(changes []change) {
	came := map[string]bool{}
	for _, c := range changes {
		if c.joined {
			came[c.who.Client] = true
		} else if came[c.who.Client] {
			delete(l.reasons, c.who.Client)
		}
	}
}

// collapse turns changes, in their order, into who is there now and was not announced,
// and who was announced and is no longer there.
func collapse(changes []change) (joined, left []broker.Member) {
	type span struct{ before, after bool } // was it announced, is it there
	spans := map[string]*span{}
	for _, c := range changes {
		s := spans[c.who.Client]
		if s == nil {
			s = &span{before: !c.joined}
			spans[c.who.Client] = s
		}
		s.after = c.joined
	}
	for _, c := range changes {
		s := spans[c.who.Client]
		switch {
		case s == nil: // seen
		case s.after && !s.before:
			joined = append(joined, c.who)
		case s.before && !s.after:
			left = append(left, c.who)
		}
		delete(spans, c.who.Client)
	}
	return joined, left
}
