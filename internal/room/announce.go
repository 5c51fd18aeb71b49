package room

import (
	"context"
	"time"

	"github.com/chathub-go/hub/broker"
)

// What other processes, and through the broker this one too, know of the members is
// announced by a goroutine that lives while there is something to announce: the loop
// does no I/O. A room's announcements go out one after another, and what happens
// meanwhile is gathered into the next one. Which of them had an effect is known only
// when one succeeds: after a failure what is wanted is announced again, whatever it was.

const (
	announceTimeout  = 10 * time.Second
	minAnnounceRetry = 100 * time.Millisecond
	maxAnnounceRetry = 10 * time.Second

	// maxAnnounce is how many changes go into one call of the broker.
	maxAnnounce = 1000

	// reasonAge is how long the reason of a departure is kept for the broker's event,
	// which may never come: a broker may merge a join and a leave.
	reasonAge = time.Minute
)

// What the broker has of a client.
type knowledge uint8

const (
	absent knowledge = iota
	present
	unknown // an announcement is under way, or failed
)

// An announcement is what a client's presence is to be, and what the broker has of it.
type announcement struct {
	who    broker.Member
	want   knowledge // present or absent
	sent   knowledge // with the announcement under way
	known  knowledge
	queued bool
}

// An announcer is what is to be announced. Room loop only.
type announcer struct {
	clients map[string]*announcement // all that the broker has, may have, or is to have
	queue   []*announcement          // those whose want is not known to hold, in order, and some for whom it does again
	idled   int                      // how many of these
	running bool
	delay   time.Duration // before the next try, after a failure
	retry   time.Time     // zero: no failure
}

func (a *announcer) idle() bool { return len(a.queue) == 0 && !a.running }

// want sets what a client's presence is to be.
func (a *announcer) want(who broker.Member, k knowledge) {
	c := a.clients[who.Client]
	if c == nil {
		if a.clients == nil {
			a.clients = map[string]*announcement{}
		}
		c = &announcement{who: who}
		a.clients[who.Client] = c
	}
	c.want = k
	a.settle(c)
}

// settle queues c, or forgets it, as it needs.
func (a *announcer) settle(c *announcement) {
	switch {
	case c.want != c.known && !c.queued && (c.known != unknown || !a.running):
		c.queued = true
		a.queue = append(a.queue, c)
	case c.want == absent && c.known == absent:
		delete(a.clients, c.who.Client)
		if len(a.clients) == 0 {
			a.clients = nil // an empty room holds no maps
		}
		if c.queued { // it came and went before that was announced
			a.idled++
			a.compact()
		}
	}
}

// compact drops from the queue who need no announcement, once they are most of it.
func (a *announcer) compact() {
	if a.idled < 64 || 2*a.idled < len(a.queue) {
		return
	}
	kept := a.queue[:0]
	for _, c := range a.queue {
		if c.queued = c.want != c.known; c.queued {
			kept = append(kept, c)
		}
	}
	clear(a.queue[len(kept):])
	a.queue, a.idled = kept, 0
}

// take returns the next changes, at most maxAnnounce; what it returns is under way.
func (a *announcer) take() (batch []*announcement) {
	i := 0
	for ; i < len(a.queue) && len(batch) < maxAnnounce; i++ {
		c := a.queue[i]
		c.queued = false
		if c.want == c.known { // it came and went meanwhile
			a.idled = max(a.idled-1, 0)
			continue
		}
		c.sent, c.known = c.want, unknown
		batch = append(batch, c)
	}
	clear(a.queue[:i])
	if a.queue = a.queue[i:]; len(a.queue) == 0 {
		a.queue = nil
	}
	a.running = len(batch) > 0
	return batch
}

// done ends what take began.
func (a *announcer) done(batch []*announcement, err error) {
	a.running = false
	later := a.queue
	a.queue = nil
	for _, c := range batch {
		if err == nil {
			c.known = c.sent
		}
		a.settle(c)
	}
	for _, c := range later {
		if !c.queued {
			continue
		}
		a.queue = append(a.queue, c)
	}
}

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
	count int
}

func (s *lingerers) add(g *lingering) {
	if s.users == nil {
		s.users = map[string][]*lingering{}
	}
	s.queue = append(s.queue, g)
	s.users[g.who.User] = append(s.users[g.who.User], g)
	s.count++
}

// take removes a user's and returns them.
func (s *lingerers) take(user string) []*lingering {
	found := s.users[user]
	delete(s.users, user)
	for _, g := range found {
		g.over = true
	}
	s.count -= len(found)
	return found
}

// first returns the one whose deadline is next; nil where there is none.
func (s *lingerers) first() *lingering {
	for len(s.queue) > 0 && s.queue[0].over {
		s.queue[0] = nil
		s.queue = s.queue[1:]
	}
	if len(s.queue) == 0 {
		s.queue, s.users = nil, nil
		return nil
	}
	return s.queue[0]
}

// pop removes the first.
func (s *lingerers) pop() *lingering {
	g := s.first()
	g.over = true
	s.count--
	all := s.users[g.who.User]
	for i := range all {
		if all[i] == g {
			all = append(all[:i:i], all[i+1:]...)
			break
		}
	}
	if s.users[g.who.User] = all; len(all) == 0 {
		delete(s.users, g.who.User)
	}
	return g
}

// A departed is why a client left, kept until the broker tells of it.
type departed struct {
	reason string
	at     time.Time
}

// announce tells that a live member is present; where the same user was cut off it
// takes the place of that client without the others noticing. Room loop only.
func (l *Loop) announce(m *Member) {
	l.presence.want(m.Who, present)
	for _, g := range l.linger.take(m.Who.User) {
		l.presence.want(g.who, absent)
	}
	l.startAnnounce(time.Now())
}

// goodbye tells that a member that was announced is gone, or lets it linger. Room loop
// only.
func (l *Loop) goodbye(m *Member, reason string, linger bool, now time.Time) {
	if !linger || l.cfg.ResumeWindow <= 0 || l.closing {
		l.depart(m.Who, reason, now)
		l.startAnnounce(now)
		return
	}
	if l.linger.count >= l.cfg.MaxMembers { // a flood of connections that are cut
		g := l.linger.pop()
		l.depart(g.who, g.reason, now)
		l.startAnnounce(now)
	}
	first := l.linger.first() == nil
	l.linger.add(&lingering{who: m.Who, reason: reason, until: now.Add(l.cfg.ResumeWindow)})
	if first {
		l.schedule()
	}
}

// depart must only be called from the room loop.
func (l *Loop) depart(who broker.Member, reason string, now time.Time) {
	if reason != "" {
		if l.reasons == nil {
			l.reasons = map[string]departed{}
		}
		l.reasons[who.Client] = departed{reason, now}
	}
	l.presence.want(who, absent)
}

// expire lets those go whose resume window has passed. One whose user is catching up
// stays: that client will take its place. Room loop only.
func (l *Loop) expire(now time.Time) {
	for g := l.linger.first(); g != nil && !g.until.After(now); g = l.linger.first() {
		l.linger.pop()
		if len(l.users[g.who.User]) > 0 && !l.anyLive(g.who.User) {
			l.linger.add(&lingering{who: g.who, reason: g.reason, until: now.Add(l.cfg.ResumeWindow)})
			continue
		}
		l.depart(g.who, g.reason, now)
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

// startAnnounce announces what is to be, unless an announcement is under way or its
// retry is not due. Room loop only.
func (l *Loop) startAnnounce(now time.Time) {
	a := &l.presence
	if a.running || now.Before(a.retry) {
		return
	}
	a.retry = time.Time{}
	batch := a.take()
	if len(batch) == 0 {
		return
	}
	joined, left := split(batch)
	under := make(chan struct{})
	ctx, cancel := context.WithTimeout(context.Background(), announceTimeout)
	l.under, l.cancel = under, cancel
	l.cfg.Go(func() {
		defer cancel()
		err := l.cfg.Farewells.update(ctx, l.cfg.Lease, l.cfg.Name, joined, left)
		close(under)
		select {
		case l.inbox <- func() { l.announceDone(announceResult{batch, err}) }:
		case <-l.done:
		}
	})
}

// cancelAnnouncement must only be called from the room loop.
func (l *Loop) cancelAnnouncement() {
	if l.cancel != nil {
		l.cancel()
		l.cancel = nil
	}
}

type announceResult struct {
	batch []*announcement
	err   error
}

func split(batch []*announcement) (joined, left []broker.Member) {
	for _, c := range batch {
		if c.sent == present {
			joined = append(joined, c.who)
		} else {
			left = append(left, c.who)
		}
	}
	return joined, left
}

// announceDone must only be called from the room loop.
func (l *Loop) announceDone(r announceResult) {
	a := &l.presence
	now := time.Now()
	l.cancelAnnouncement() // it is over
	l.under = nil
	a.done(r.batch, r.err)
	if r.err != nil {
		a.delay = min(max(2*a.delay, minAnnounceRetry), maxAnnounceRetry)
		a.retry = now.Add(a.delay)
		delay := a.delay
		l.cfg.Go(func() {
			l.cfg.Logger.Warn("hub: presence could not be announced", "room", l.cfg.Name, "err", r.err, "retry", delay)
		})
	} else {
		a.delay = 0
	}
	for client, d := range l.reasons {
		if now.Sub(d.at) > reasonAge {
			delete(l.reasons, client)
		}
	}
	if len(l.reasons) == 0 {
		l.reasons = nil
	}
	l.startAnnounce(now)
	l.schedule()
}
