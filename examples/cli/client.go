package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/chathub-go/hub/internal/wsconn"
)

const (
	subprotocol  = "hub.v1.json"
	dialTimeout  = 10 * time.Second // and for the welcome
	writeTimeout = 10 * time.Second
	closeTimeout = 6 * time.Second // of the close handshake
	echoTimeout  = 2 * time.Second // for the user's own last lines to come back, at the end
	readLimit    = 16 << 20        // bytes of one message
	firstDelay   = 500 * time.Millisecond
	lastDelay    = 15 * time.Second
)

// A client is one user in one room of a server, over as many connections as it takes.
// What it is doing, apart from reading and dialing, happens in run's goroutine.
type client struct {
	url   *url.URL         // the room's, with the name
	say   func(string)     // shows what the room says
	note  func(string)     // shows what the client itself has to say
	state func(ready bool) // hears if lines go out at once
	input <-chan string    // lines of the user, closed at their end
	quit  <-chan os.Signal // the first one leaves, the second one at once
	wait  bool             // a full outbox takes no input; else the line is refused
	grace time.Duration    // after the end of input, for the server to take the next of what waits

	out     outbox
	failed  int // lines that the server did not take, or that got lost
	plain   bool
	user    string // as the server calls us
	session string
	cursor  string

	conn     *wsconn.ClientConn // nil while there is none
	frames   chan frame         // from conn
	dialed   chan dialed        // not nil while dialing
	ready    bool               // the door is open: a welcome came, where one is to come
	before   bool               // there was a ready connection before this one
	seq      uint64             // of the newest message that came
	acked    uint64             // of the newest line of ours that was kept
	echoes   []string           // plain door: what went out and did not come back yet
	heard    time.Time          // when something last came
	pinged   bool               // since then
	opened   time.Time
	attempts int
	redial   time.Time
	notFor   time.Duration // what the server said of when to come back

	deadline time.Time // of leaving; zero: not leaving
	closing  bool      // the close handshake has begun
	settled  time.Time // when, while leaving, nothing of ours waited any more
}

type frame struct {
	op   wsconn.Opcode
	data string
	err  error
}

var errForced = errors.New("interrupted")

// run talks until the input ends, the user quits or the server won't have it, and
// returns nil if every line was taken.
func (c *client) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() {
		if c.conn != nil {
			c.conn.CloseNow()
		}
	}()
	c.out = newOutbox()
	c.dial(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wake, end, err := c.step(ctx, time.Now())
		if end {
			return err
		}
		timer.Stop()
		if !wake.IsZero() {
			timer.Reset(time.Until(wake))
		}
		input := c.input
		if !c.deadline.IsZero() || c.wait && c.out.full() {
			input = nil
		}
		select {
		case d := <-c.dialed:
			err = c.connected(ctx, d)
		case f := <-c.frames:
			end, err = c.received(f)
		case text, ok := <-input:
			c.typed(text, ok)
		case <-c.quit:
			if !c.deadline.IsZero() {
				return errForced
			}
			c.grace = min(c.grace, 5*time.Second)
			c.leave()
			c.grace = 0
			if !c.before {
				return c.result()
			}
		case <-timer.C:
		}
		if err != nil || end {
			return err
		}
	}
}

// step does what is due, and says when the next thing is, and if all is done.
func (c *client) step(ctx context.Context, now time.Time) (wake time.Time, end bool, err error) {
	due := func(t time.Time) bool {
		if !t.IsZero() && now.Before(t) && (wake.IsZero() || t.Before(wake)) {
			wake = t
		}
		return !now.Before(t)
	}
	if c.conn == nil && c.dialed == nil && due(c.redial) {
		c.dial(ctx)
	}
	if c.conn != nil {
		if silence := c.silence(); silence > 0 {
			if !c.pinged && c.ready && due(c.heard.Add(silence)) {
				c.pinged = true
				c.send(`{"type":"ping"}`)
			}
			if due(c.heard.Add(2 * silence)) {
				c.conn.CloseNow() // received hears of it
			}
		}
	}
	for c.ready && !c.closing {
		ln, ok, again := c.out.next(now)
		if !ok {
			if !again.IsZero() {
				due(again)
				c.patience(again)
			}
			break
		}
		c.publish(ln)
	}
	if c.deadline.IsZero() {
		return wake, false, nil
	}
	if due(c.deadline) {
		return wake, true, c.result()
	}
	if !c.out.empty() || c.dialed != nil || c.conn != nil && !c.ready {
		c.settled = time.Time{}
		return wake, false, nil
	}
	if c.conn == nil {
		return wake, true, c.result()
	}
	if c.settled.IsZero() {
		c.settled = now
	}
	if echoed := c.seq >= c.acked && len(c.echoes) == 0; !c.closing && (echoed || due(c.settled.Add(echoTimeout))) {
		c.closing = true
		c.deadline = now.Add(closeTimeout)
		conn := c.conn
		go conn.Close(1000, "") // ends by itself; meanwhile what still comes is read
		due(c.deadline)
	}
	return wake, false, nil
}

// silence is after how much of it the client asks if the server is still there; 0:
// never, as it can't on the plain door.
func (c *client) silence() time.Duration {
	switch {
	case c.plain:
		return 0
	case !c.ready:
		return dialTimeout / 2
	}
	return time.Duration(c.out.limits.PingMS) * time.Millisecond
}

// result is what run returns in the end.
func (c *client) result() error {
	n := len(c.out.lines)
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

// typed takes a line from the user.
func (c *client) typed(text string, ok bool) {
	text = strings.ToValidUTF8(strings.TrimRight(text, "\r"), "\uFFFD")
	switch {
	case !ok || isExit(text):
		c.leave()
	case strings.TrimSpace(text) == "":
	case c.out.full():
		c.failed++
		c.note(fmt.Sprintf("* not sent: %d lines are waiting already", maxOutbox))
	default:
		c.out.add(text)
		if !c.ready && !c.wait {
			c.note("* waiting for the connection: " + clean(shorten(text)))
		}
	}
}

func isExit(text string) bool { return strings.TrimSpace(text) == "exit" }

func (c *client) leave() {
	if c.deadline.IsZero() {
		c.deadline = time.Now().Add(c.grace)
	}
}

// patience moves the end of leaving: at t the server took a line, or will.
func (c *client) patience(t time.Time) {
	if end := t.Add(c.grace); !c.deadline.IsZero() && c.grace > 0 && end.After(c.deadline) {
		c.deadline = end
	}
}

// publish sends a line.
func (c *client) publish(ln line) {
	if c.plain { // no acks here
		c.out.done(ln.id)
		c.echoes = append(c.echoes, ln.text)
		if len(c.echoes) > maxFlight {
			c.echoes = c.echoes[1:]
		}
		c.send(ln.text)
		return
	}
	command, _ := json.Marshal(map[string]string{"type": "publish", "id": ln.id, "data": ln.text})
	if limit := c.out.limits.MessageBytes; limit > 0 && len(command) > limit {
		c.refused(ln.id, fmt.Sprintf("longer than the server takes (%d bytes)", limit))
		return
	}
	c.send(string(command))
}

func (c *client) send(text string) {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	if err := c.conn.Write(ctx, wsconn.OpText, []byte(text)); err != nil {
		c.conn.CloseNow() // received hears of it
	}
}

// connected takes what a dial came to.
func (c *client) connected(ctx context.Context, d dialed) error {
	c.dialed = nil
	if d.err != nil {
		if d.final || !c.before {
			return d.err
		}
		c.notFor = d.after
		c.again()
		return nil
	}
	c.conn, c.plain, c.notFor = d.conn, d.plain, 0
	if d.path != c.url.Path {
		moved := *c.url
		moved.Path = d.path
		c.url = &moved
	}
	c.opened, c.heard, c.pinged = time.Now(), time.Now(), false
	frames := make(chan frame)
	c.frames = frames
	go func() {
		for {
			op, p, err := d.conn.Read(ctx)
			select {
			case frames <- frame{op, string(p), err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	if c.plain {
		c.note("* connected" + map[bool]string{true: " again"}[c.before])
		c.open(limits{}, true)
	}
	return nil
}

// open lets lines go out.
func (c *client) open(l limits, same bool) {
	for _, ln := range c.out.connected(time.Now(), l, same) {
		c.failed++
		c.note("* not known if this was sent: " + clean(ln.text))
	}
	c.ready, c.before = true, true
	c.state(true)
}

// received takes a frame, or the end of the connection.
func (c *client) received(f frame) (end bool, err error) {
	if f.err != nil {
		return c.lost(f.err)
	}
	c.heard, c.pinged = time.Now(), false
	switch {
	case !c.plain:
		c.event(f.data)
	case f.op == wsconn.OpBinary:
		c.say(fmt.Sprintf("* %d bytes of binary data", len(f.data)))
	default:
		for i, text := range c.echoes { // it came back, and so did those before it
			if strings.Contains(f.data, text) {
				c.echoes = c.echoes[i+1:]
				break
			}
		}
		c.say(clean(f.data))
	}
	return false, nil
}

// lost decides what the end of a connection means.
func (c *client) lost(err error) (end bool, _ error) {
	c.conn.CloseNow()
	c.conn, c.frames, c.ready = nil, nil, false
	c.state(false)
	if c.closing {
		return true, c.result()
	}
	why := "no answer"
	var closed *wsconn.CloseError
	if errors.As(err, &closed) && closed.Remote {
		why = cleanName(closed.Reason)
		if why == "" {
			why = fmt.Sprintf("code %d", closed.Code)
		}
		switch closed.Code {
		case 1000, 1005: // it has nothing more to say
			c.note("* the server closed the connection: " + why)
			return true, c.result()
		case 1002, 1003, 1007, 1008, 1009, 1010: // and would again (RFC 6455 section 7.4.1)
			return true, fmt.Errorf("the server closed the connection: %s", why)
		}
	} else if closed != nil && closed.Err != nil {
		why = cause(closed.Err).Error()
		if errors.Is(closed.Err, io.EOF) || errors.Is(closed.Err, io.ErrUnexpectedEOF) {
			why = "the server closed it without a word"
		}
	}
	if !c.before {
		return true, fmt.Errorf("the connection broke before it was ready: %s", why)
	}
	for _, text := range c.echoes {
		c.note("* not known if this was sent: " + clean(text))
		c.failed++
	}
	c.echoes = nil
	if time.Since(c.opened) > lastDelay {
		c.attempts = 0
	}
	c.note(fmt.Sprintf("* connection lost: %s; trying to connect again", why))
	c.again()
	return false, nil
}

// again sets when to dial next: later each time, and never at once with all the others
// who lost their connection in the same moment.
func (c *client) again() {
	delay := min(firstDelay<<min(c.attempts, 10), lastDelay)
	c.attempts++
	c.redial = time.Now().Add(c.notFor + delay/2 + rand.N(delay))
	c.notFor = 0
}
