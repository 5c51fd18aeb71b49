package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/chathub-go/hub/hubclient"
)

const (
	maxLines     = 256             // of the user that wait for the server's answer
	signalGrace  = 5 * time.Second // after a signal to leave, for what waits to be sent
	echoPatience = 2 * time.Second // for the user's own last lines to come back, at the end
)

// A chat is one user's talk in one room. All of it happens in run's goroutine.
type chat struct {
	say   func(string)     // shows what the room says
	note  func(string)     // shows what the program itself has to say
	state func(ready bool) // hears if lines go out at once
	input <-chan string    // lines of the user, closed at their end
	quit  <-chan os.Signal // the first one leaves, the second one at once
	wait  bool             // at maxLines no input is taken; else the line is refused
	grace time.Duration    // after the end of input, for the server to take the next of what waits

	client *hubclient.Client // nil before the first connection
	online bool
	user   string        // as the server calls us
	pace   time.Duration // the server takes a line this often

	lines  []line // without an answer, as they were typed
	failed int    // lines that the server did not take, or that got lost
	unsent int    // lines that the end left without an answer
	acked  string // the id of the newest line of ours that was kept,
	echoed string // and of the newest one that came back

	leaving bool
	closing bool             // the client is saying goodbye
	hurry   <-chan time.Time // when to wait no longer; nil: not leaving
}

type line struct {
	text                   string
	*hubclient.Publication // nil before the first connection
}

var errForced = errors.New("interrupted")

// run talks until the input ends, the user quits or the server won't have it, and
// returns nil if every line was taken.
func (c *chat) run(u *url.URL, name string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dialed := dial(ctx, u, name)
	var events <-chan hubclient.Event
	for {
		input := c.input
		if c.leaving || c.wait && len(c.lines) >= maxLines {
			input = nil
		}
		select {
		case d := <-dialed:
			if d.err != nil {
				return failure(u, d.err)
			}
			events = c.connected(ctx, d.client)
		case e, ok := <-events:
			if !ok {
				return c.ended(u)
			}
			c.event(&e)
		case <-c.answer():
			ln := c.lines[0]
			c.lines = c.lines[1:]
			receipt, err := ln.Result()
			c.answered(ln.text, receipt, err)
		case text, ok := <-input:
			c.typed(text, ok)
		case <-c.quit:
			if c.leaving {
				if c.client != nil {
					c.close()
				}
				return errForced
			}
			c.grace = min(c.grace, signalGrace)
			c.leave()
			c.grace = 0
			if c.client == nil {
				return c.result()
			}
		case <-c.hurry:
			if c.client == nil {
				return c.result()
			}
			c.close()
		}
		if c.leaving && c.client != nil && len(c.lines) == 0 && (c.acked == "" || c.acked == c.echoed) {
			c.close()
		}
	}
}

// dialed is what a dial came to.
type dialed struct {
	client *hubclient.Client
	err    error
}

func dial(ctx context.Context, u *url.URL, name string) <-chan dialed {
	result := make(chan dialed, 1)
	go func() {
		opts := []hubclient.Option{
			hubclient.WithName(name),
			hubclient.WithOutbox(maxLines, math.MaxInt), // a line has its bound already
		}
		client, err := hubclient.Dial(ctx, u.String(), opts...)
		// A service may have mounted /room/{room} only.
		if h, ok := errors.AsType[*hubclient.HandshakeError](err); ok && h.Status == http.StatusNotFound && u.Path == lobbyPath {
			client, err = hubclient.Dial(ctx, u.JoinPath("lobby").String(), opts...)
		}
		result <- dialed{client, err}
	}()
	return result
}

// connected has a client at last. Its events come by the channel, which is closed when it has ended.
func (c *chat) connected(ctx context.Context, client *hubclient.Client) <-chan hubclient.Event {
	c.client = client
	early := c.lines
	c.lines = nil
	for _, ln := range early {
		c.publish(ln.text)
	}
	events := make(chan hubclient.Event)
	go func() {
		defer close(events)
		for e := range client.Events() {
			select {
			case events <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	return events
}

// typed takes a line from the user.
func (c *chat) typed(text string, ok bool) {
	text = strings.ToValidUTF8(strings.TrimRight(text, "\r"), "\uFFFD")
	switch {
	case !ok || isExit(text):
		c.leave()
	case strings.TrimSpace(text) == "":
	case len(c.lines) >= maxLines:
		c.failed++
		c.note(fmt.Sprintf("* not sent: %d lines are waiting already", maxLines))
	default:
		if !c.online && !c.wait {
			c.note("* waiting for the connection: " + clean(shorten(text)))
		}
		c.publish(text)
	}
}

func isExit(text string) bool { return strings.TrimSpace(text) == "exit" }

// publish has the client send a line. The outbox has a place: it holds as many as lines does.
func (c *chat) publish(text string) {
	if c.client == nil {
		c.lines = append(c.lines, line{text: text})
		return
	}
	p, err := c.client.PublishAsync(context.Background(), hubclient.Text(text))
	if err != nil {
		c.answered(text, hubclient.Receipt{}, err)
		return
	}
	c.lines = append(c.lines, line{text, p})
}

// answer returns what is closed when the oldest line has its answer.
func (c *chat) answer() <-chan struct{} {
	if c.client == nil || len(c.lines) == 0 {
		return nil
	}
	return c.lines[0].Done()
}

// answered takes what became of a line.
func (c *chat) answered(text string, r hubclient.Receipt, err error) {
	switch {
	case err == nil && r.Seq != 0:
		c.acked = r.ID
	case err == nil: // the service took it, and nobody gets it
	case errors.Is(err, hubclient.ErrClosed):
		c.unsent++
	case errors.Is(err, hubclient.ErrUncertain):
		c.failed++
		c.note("* not known if this was sent: " + clean(text))
	default:
		c.failed++
		c.note(fmt.Sprintf("* not sent, %s: %s", why(err), clean(shorten(text))))
	}
	c.patience()
}

func (c *chat) leave() {
	c.leaving = true
	if c.hurry = time.After(c.grace); c.client != nil {
		c.patience()
	}
}

// patience moves the end of leaving: the server has just taken a line.
func (c *chat) patience() {
	switch {
	case !c.leaving:
	case len(c.lines) == 0:
		c.hurry = time.After(echoPatience)
	case c.grace > 0:
		c.hurry = time.After(c.grace + c.pace)
	}
}

// close has the client say goodbye. Its events end then.
func (c *chat) close() {
	if !c.closing {
		c.closing = true
		go c.client.Close() // here signals are heard meanwhile
	}
}

// ended is what run returns when the client has ended.
func (c *chat) ended(u *url.URL) error {
	err := c.client.Err()
	if ce, ok := errors.AsType[*hubclient.CloseError](err); ok && ce.Code == 1000 { // it has nothing more to say
		c.note("* the server closed the connection: " + why(err))
		err = nil
	}
	if err != nil {
		return failure(u, err)
	}
	return c.result()
}

// result is what run returns in the end.
func (c *chat) result() error {
	n := c.unsent + len(c.lines)
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
