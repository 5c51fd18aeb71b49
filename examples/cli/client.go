package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/chathub-go/hub/hubclient"
)

const (
	dialTimeout = 10 * time.Second
	echoTimeout = 2 * time.Second // for the user's own last lines to come back, at the end
	maxLines    = 256             // that wait for their acks, or for a connection
	maxBytes    = 256 << 20       // of them: no bound besides maxLines and that of a line
)

// A client is one user in one room. What it does happens in run's goroutine.
type client struct {
	url   *url.URL         // the room's, with the name
	say   func(string)     // shows what the room says
	note  func(string)     // shows what the client itself has to say
	state func(ready bool) // hears if lines go out at once
	input <-chan string    // lines of the user, closed at their end
	quit  <-chan os.Signal // the first one leaves, the second one at once
	wait  bool             // with too many lines waiting it takes no input; else the line is refused
	grace time.Duration    // after the end of input, for the server to take the next of what waits

	room     *hubclient.Client // nil: not connected yet
	events   chan hubclient.Event
	sent     chan line // in the outbox, in order
	outcomes chan line // the same, when the outcome is known

	early   []string // lines from before the first connection
	waiting int      // lines whose outcome is not known
	failed  int      // that were not kept, or may not be
	ready   bool
	seq     uint64 // of the newest message that came
	acked   uint64 // of the newest line that was kept

	deadline time.Time // of leaving; zero: not leaving
	settled  time.Time // when, while leaving, nothing waited any more
}

// A line is one that the user has said.
type line struct {
	text string
	p    *hubclient.Publication
}

var errForced = errors.New("interrupted")

// run talks until the input ends, the user quits or the server won't have it, and
// returns nil if every line was taken.
func (c *client) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type dialed struct {
		room *hubclient.Client
		err  error
	}
	dials := make(chan dialed, 1)
	go func() {
		room, err := dial(ctx, c.url)
		dials <- dialed{room, err}
	}()
	defer func() {
		if c.room != nil {
			c.room.Close()
		}
	}()
	for {
		wake, end := c.leaving(time.Now())
		if end {
			return c.result()
		}
		timer := time.NewTimer(time.Until(wake))
		input := c.input
		if !c.deadline.IsZero() || c.wait && c.full() {
			input = nil
		}
		select {
		case d := <-dials:
			if d.err != nil {
				return d.err
			}
			c.start(ctx, d.room)
		case e, ok := <-c.events:
			if !ok {
				return c.ended()
			}
			c.show(e)
		case l := <-c.outcomes:
			c.waiting--
			r, err := l.p.Result()
			c.outcome(l.text, r, err)
		case text, ok := <-input:
			c.typed(text, ok)
		case <-c.quit:
			if !c.deadline.IsZero() {
				return errForced
			}
			c.grace = min(c.grace, 5*time.Second)
			c.leave()
			c.grace = 0
			if c.room == nil {
				return c.result()
			}
		case <-timer.C:
		}
		timer.Stop()
	}
}

// start takes the client that was dialed.
func (c *client) start(ctx context.Context, room *hubclient.Client) {
	c.room = room
	c.events = make(chan hubclient.Event)
	c.sent, c.outcomes = make(chan line, maxLines), make(chan line)
	go func() {
		defer close(c.events)
		for e := range room.Events() {
			select {
			case c.events <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	go func() {
		for {
			select {
			case l := <-c.sent:
				<-l.p.Done()
				select {
				case c.outcomes <- l:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	for _, text := range c.early {
		c.publish(text)
	}
	c.early = nil
}

// leaving says when to look again, and if all is done.
func (c *client) leaving(now time.Time) (wake time.Time, end bool) {
	wake = now.Add(time.Hour)
	switch {
	case c.deadline.IsZero():
		return wake, false
	case !now.Before(c.deadline):
		return wake, true
	case c.room == nil || c.waiting > 0:
		c.settled = time.Time{}
		return c.deadline, false
	}
	if c.settled.IsZero() {
		c.settled = now
	}
	wake = c.settled.Add(echoTimeout)
	return wake, c.seq >= c.acked || !now.Before(wake)
}

func (c *client) leave() {
	if c.deadline.IsZero() {
		c.deadline = time.Now().Add(c.grace)
	}
}

// result is what run returns in the end.
func (c *client) result() error {
	n := c.waiting + len(c.early)
	if c.wait { // nobody at a terminal read of it before
		n += c.failed
	}
	switch {
	case n == 1:
		return errors.New("1 line was not sent")
	case n > 1:
		return fmt.Errorf("%d lines were not sent", n)
	}
	return nil
}

func (c *client) full() bool { return c.waiting+len(c.early) >= maxLines }

// typed takes a line from the user.
func (c *client) typed(text string, ok bool) {
	text = strings.ToValidUTF8(strings.TrimRight(text, "\r"), "\uFFFD")
	switch {
	case !ok || isExit(text):
		c.leave()
	case strings.TrimSpace(text) == "":
	case c.full():
		c.failed++
		c.note(fmt.Sprintf("* not sent: %d lines are waiting already", maxLines))
	default:
		if !c.ready && !c.wait {
			c.note("* waiting for the connection: " + clean(shorten(text)))
		}
		if c.room == nil {
			c.early = append(c.early, text)
		} else {
			c.publish(text)
		}
	}
}

func isExit(text string) bool { return strings.TrimSpace(text) == "exit" }

// publish puts a line into the outbox, where there is a place for it.
func (c *client) publish(text string) {
	p, err := c.room.PublishAsync(context.Background(), hubclient.Text(text))
	if err != nil {
		c.outcome(text, hubclient.Receipt{}, err)
		return
	}
	c.waiting++
	c.sent <- line{text, p}
}

// outcome takes what became of a line.
func (c *client) outcome(text string, r hubclient.Receipt, err error) {
	if !c.deadline.IsZero() && c.grace > 0 { // the server takes lines: that is worth waiting for
		c.deadline = time.Now().Add(c.grace)
	}
	if err == nil {
		c.acked = max(c.acked, r.Seq)
		return
	}
	c.failed++
	var refused *hubclient.Error
	switch {
	case errors.Is(err, hubclient.ErrUncertain):
		c.note("* not known if this was sent: " + clean(text))
		return
	case errors.As(err, &refused):
		err = errors.New(cleanName(refused.Message))
	}
	c.note(fmt.Sprintf("* not sent, %v: %s", err, clean(shorten(text))))
}

func shorten(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}

// ended is what run returns when the server does not want the client any more.
func (c *client) ended() error {
	err := c.room.Err()
	why := cause(err)
	var closed *hubclient.CloseError
	if errors.As(err, &closed) && closed.Code == 1000 { // it has nothing more to say
		c.note("* the server closed the connection: " + why)
		return c.result()
	}
	if errors.As(err, &closed) {
		return fmt.Errorf("the server closed the connection: %s", why)
	}
	return fmt.Errorf("%s says: %s", c.url.Host, why)
}

// dial enters the room. A service may have mounted /room/{room} only.
func dial(ctx context.Context, u *url.URL) (*hubclient.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	room, err := hubclient.Dial(ctx, u.String(), hubclient.WithOutbox(maxLines, maxBytes))
	var refused *hubclient.HandshakeError
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound && u.Path == lobbyPath {
		room, err = hubclient.Dial(ctx, u.JoinPath("lobby").String(), hubclient.WithOutbox(maxLines, maxBytes))
	}
	switch {
	case err == nil:
		return room, nil
	case errors.As(err, &refused) && refused.Status < 300:
		return nil, fmt.Errorf("%s is no WebSocket server: %s", u.Host, cause(err))
	case errors.As(err, &refused):
		return nil, fmt.Errorf("%s says: %s", u.Host, cause(err))
	}
	return nil, fmt.Errorf("can't reach %s: %s", u.Host, cause(err))
}

// cause is the part of an error that tells something to a person.
func cause(err error) string {
	var refused *hubclient.HandshakeError
	var closed *hubclient.CloseError
	var dns *net.DNSError
	var op *net.OpError
	var sys *os.SyscallError
	switch {
	case errors.As(err, &refused):
		return cleanName(refused.Message)
	case errors.As(err, &closed) && closed.Code != 1006:
		if closed.Reason == "" {
			return fmt.Sprintf("code %d", closed.Code)
		}
		return cleanName(closed.Reason)
	case errors.As(err, &dns):
		return dns.Err
	case errors.As(err, &sys):
		return sys.Err.Error()
	case errors.As(err, &op):
		return op.Err.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the server closed it without a word"
	case err == nil:
		return ""
	}
	return cleanName(strings.TrimPrefix(err.Error(), "hubclient: "))
}
