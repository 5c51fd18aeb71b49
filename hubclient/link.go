package hubclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/chathub-go/hub/internal/wire"
	"github.com/chathub-go/hub/internal/wsconn"
)

const (
	welcomeTimeout = 10 * time.Second
	writeTimeout   = 10 * time.Second
	closeTimeout   = 2 * time.Second
	answerTimeout  = 30 * time.Second // without any answer; the server gives up a publish after 10 s
	lagPatience    = time.Second      // that who waits for an answer has with who takes no events
)

// A link is one connection. A goroutine of its own reads; the client's writes.
type link struct {
	c    *Client
	conn *wsconn.ClientConn

	// c.mu guards what follows.
	began   time.Time
	heard   time.Time // when something last came, or was taken off our hands
	pinged  bool      // since then
	open    bool      // welcomed
	blocked bool      // the reader waits for the caller to take events
	ending  time.Time // since when it waits for the last answers, lagging
	lagging bool      // it does not wait any more: events go by
	gone    bool      // it has ended
	timer   *time.Timer
	since   string // that the URL had
	limit   int64  // bytes of an event; the reader's

	done chan struct{} // closed when the reader has ended
	err  error         // before done is closed: why
}

// connect makes a connection and stays until it ends. It returns for how long it stood, and why it ended.
func (c *Client) connect() (stood time.Duration, err error) {
	conn, since, err := c.dial()
	if err != nil {
		return 0, err
	}
	now := time.Now()
	l := &link{c: c, conn: conn, since: since, began: now, heard: now, done: make(chan struct{})}
	c.mu.Lock()
	c.link = l
	c.mu.Unlock()

	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(l.done)
		l.err = l.read(ctx)
		signal(c.wake)
	}()
	stop := context.AfterFunc(c.ctx, func() { l.hurry(closeTimeout) })
	err = l.write(ctx)
	if err == nil { // Close
		_ = conn.Close(1000, "")
	}
	stop()
	l.hurry(0)
	cancel()
	conn.CloseNow()
	<-l.done
	c.lost(l, err)
	if l.open {
		stood = time.Since(l.began)
	}
	return stood, err
}

// hurry ends the connection in d at the latest, whoever waits for it. Its second call is for good.
func (l *link) hurry(d time.Duration) {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	switch {
	case d == 0 && l.timer != nil:
		l.timer.Stop()
	case l.timer == nil && d > 0 && !l.gone:
		l.timer = time.AfterFunc(d, l.conn.CloseNow)
	}
	l.gone = l.gone || d == 0
}

// write sends what there is to send, until the connection or the client ends; then it returns nil.
func (l *link) write(ctx context.Context) error {
	for {
		p, wake, err := l.next(time.Now())
		if err != nil {
			return err
		}
		if p != nil {
			ctx, cancel := context.WithTimeout(ctx, writeTimeout)
			err := l.conn.Write(ctx, wsconn.OpText, p)
			cancel()
			if err != nil {
				return l.ended(err)
			}
			if l.c.ctx.Err() != nil {
				return nil
			}
			continue
		}
		timer := time.NewTimer(time.Until(wake))
		select {
		case <-l.c.wake:
		case <-timer.C:
		case <-l.done:
		case <-l.c.ctx.Done():
		}
		timer.Stop()
		select {
		case <-l.c.ctx.Done():
			return nil
		case <-l.done:
			return l.err
		default:
		}
	}
}

// ended is why a write failed: what the server said last, if it said why. The reader may be about to find out: a close frame
// makes writes fail before the reader returns. It may also wait for the caller to take events.
func (l *link) ended(err error) error {
	patience := time.NewTimer(closeTimeout)
	defer patience.Stop()
	select {
	case <-l.done:
		if ce, ok := errors.AsType[*CloseError](l.err); !ok || ce.Code != 1006 {
			return l.err
		}
	case <-patience.C:
	case <-l.c.ctx.Done():
	}
	return &CloseError{Code: 1006, err: err}
}

// next returns the next frame to send, nil for none before wake or a signal.
func (l *link) next(now time.Time) (p []byte, wake time.Time, err error) {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	wake = now.Add(time.Hour)
	due := func(t time.Time) bool {
		if now.Before(t) && t.Before(wake) {
			wake = t
		}
		return !now.Before(t)
	}
	if !l.open {
		if due(l.began.Add(welcomeTimeout)) {
			err = fmt.Errorf("%w: no welcome", errNoAnswer)
		}
		return nil, wake, err
	}
	if l.lagging && c.events.empty() {
		if !c.outbox.ending {
			c.outbox.ending, l.ending = true, now
		}
		if c.outbox.flight == 0 || due(l.ending.Add(answerTimeout)) { // what has no answer would be uncertain
			return nil, wake, ErrLagged
		}
	}
	if silence := c.outbox.limits.Ping; !l.blocked && silence > 0 {
		switch {
		case due(l.heard.Add(2 * silence)):
			return nil, wake, errNoAnswer
		case !l.pinged && due(l.heard.Add(silence)):
			l.pinged = true
			return wire.AppendCommand(nil, &wire.Command{Type: wire.CommandPing}), wake, nil
		}
	}
	if !l.blocked && c.outbox.flight > 0 && due(later(c.outbox.progress, l.heard).Add(answerTimeout)) {
		return nil, wake, fmt.Errorf("%w to a message", errNoAnswer)
	}
	for _, r := range c.requests {
		switch {
		case !r.sent && c.turn(r) && due(r.notBefore):
			r.sent, r.sentAt = true, now
			return wire.AppendCommand(nil, c.command(r)), wake, nil
		case r.sent && !l.blocked && due(later(r.sentAt, l.heard).Add(answerTimeout)):
			return nil, wake, fmt.Errorf("%w to a request", errNoAnswer)
		}
	}
	for name, on := range c.typing {
		delete(c.typing, name)
		return wire.AppendCommand(nil, &wire.Command{Type: wire.CommandTyping, Room: name, On: on}), wake, nil
	}
	if next := c.expire(now); !next.IsZero() {
		due(next)
	}
	for {
		m, again := c.outbox.next(now)
		if c.outbox.stuck && c.outbox.flight == 0 { // before, what is under way would become uncertain
			return nil, wake, errStuck
		}
		if m == nil {
			if !again.IsZero() {
				due(again)
			}
			return nil, wake, nil
		}
		if err := c.fits(m); err == nil {
			return m.command, wake, nil
		} else {
			c.tooLarge(m, err.Message)
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// read takes what comes, until the connection ends.
func (l *link) read(ctx context.Context) error {
	over := false // an event was dropped, since the client is to end: one behind it would leave a hole
	for {
		op, p, err := l.conn.Read(ctx)
		if err != nil {
			ce := &CloseError{Code: 1006, err: err}
			if w, ok := errors.AsType[*wsconn.CloseError](err); ok {
				if ce.Code, ce.Reason = w.Code, w.Reason; !w.Remote {
					ce.Code, ce.err = 1006, w.Err
				}
			}
			return ce
		}
		if op != wsconn.OpText {
			return violation("a binary frame")
		}
		var f frame
		if err := json.Unmarshal(p, &f); err != nil {
			return violation("an event that can't be read: %v", err)
		}
		limit := l.limit
		e, err := l.take(&f)
		if err != nil {
			return err
		}
		if l.limit != limit {
			l.conn.SetReadLimit(l.limit)
		}
		if e != nil && !over {
			e.measure(len(p))
			over = !l.deliver(ctx, e)
		}
	}
}

// deliver queues an event for the caller, and notes the position that it stands for: from there the room goes on when the
// connection is lost. It returns false where the client ends before there is a place in the queue.
func (l *link) deliver(ctx context.Context, e *Event) bool {
	c := l.c
	if e.Type == EventLeftRoom && (e.Err != nil || e.Reason != wire.ReasonShutdown) {
		c.events.force(e) // nothing would tell of it again; there is one at most for each room that the caller joins
		return true
	}
	for {
		c.mu.Lock()
		lagging := l.lagging
		if !lagging {
			l.blocked = !c.events.push(e)
			if !l.blocked {
				l.heard = time.Now()
				c.moved(e)
			}
		}
		blocked := l.blocked
		c.mu.Unlock()
		if lagging || !blocked {
			return true
		}
		patience := time.NewTimer(lagPatience)
		select {
		case <-c.events.space:
		case <-ctx.Done():
		case <-c.ctx.Done():
		case <-patience.C:
			l.lag()
		}
		patience.Stop()
		if ctx.Err() != nil || c.ctx.Err() != nil {
			return false
		}
	}
}

// lag lets the events go by from here on, if somebody waits for an answer that is behind them.
func (l *link) lag() {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.outbox.flight == 0 && len(c.requests) == 0 {
		return
	}
	l.lagging, l.blocked = true, false
	l.heard = time.Now()
	c.events.letGo(true)
	signal(c.wake)
}

// moved notes that the caller will get e. c.mu is held.
func (c *Client) moved(e *Event) {
	r := c.rooms[e.Room]
	if r == nil || !r.in { // left, and maybe to be joined anew, since it was read
		return
	}
	switch {
	case e.Message != nil && e.Type == EventMessage:
		r.cursor, r.seq = e.Message.Cursor, e.Message.Seq
	case e.Welcome != nil:
		r.cursor, r.seq, r.untold = e.Welcome.Cursor, e.Welcome.Seq, false
	case e.Gap != nil && e.Gap.Cursor != "":
		r.cursor, r.known = e.Gap.Cursor, false // where seqs have holes it need not be that of Before-1
		return
	default:
		return
	}
	r.known = true
}

// tooLarge gives up a message that the server does not take. Another server, or this one with other limits, may have kept
// it before. c.mu is held.
func (c *Client) tooLarge(p *Publication, why string) {
	var err error = &Error{ID: p.id, Room: p.room, Code: wire.CodeTooLarge, Message: why}
	if p.repeated {
		err = fmt.Errorf("%w: %w", ErrUncertain, err)
	}
	c.resolve(p, Receipt{}, err)
}

// lost ends a connection. c.mu is not held.
func (c *Client) lost(l *link, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = nil
	c.events.letGo(false)
	clear(c.typing)
	first, largest := c.outbox.first(), c.outbox.largest()
	c.outbox.lost()
	if ce, ok := errors.AsType[*CloseError](err); ok && first != nil {
		switch ce.Code {
		case 1009: // if any was too large, that one was
			c.tooLarge(largest, ce.Reason)
		case 1011:
			if first.crashed++; first.crashed >= crashes {
				c.resolve(first, Receipt{}, fmt.Errorf("%w: %w, each time that it was sent", ErrUncertain, ce))
			}
		}
	}
	for _, r := range c.rooms {
		r.in = false
	}
	c.unanswered()
}
