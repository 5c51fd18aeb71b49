package hubclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/chathub-go/hub/internal/wire"
	"github.com/chathub-go/hub/internal/wsconn"
)

const (
	dialTimeout  = 10 * time.Second
	steady       = 10 * time.Second // a connection that stood so long ends a row of failures
	maxRetryWait = time.Hour        // of what a server asks for
	readLimit    = 16 << 20         // bytes of an event, at least; docs/protocol.md section 9 says how much it may be
)

// run is the client's goroutine: one connection after another.
func (c *Client) run() {
	attempt := 0
	var err error
	for {
		var stood time.Duration
		stood, err = c.connect()
		if c.ctx.Err() != nil || isFinal(err) || !c.o.retryDial && !c.wasWelcomed() {
			break
		}
		if stood >= steady {
			attempt = 0
		}
		c.mu.Lock()
		pause := c.notFor
		c.notFor = 0
		c.mu.Unlock()
		if errors.Is(err, ErrLagged) {
			attempt = 0
		} else {
			pause += min(max(c.o.backoff(attempt), 0), math.MaxInt64-maxRetryWait)
			attempt++
		}
		if c.wasWelcomed() {
			c.events.force(&Event{Type: EventDisconnected, Err: err, RetryIn: pause})
		}
		if !c.pause(pause) {
			break
		}
	}
	c.end(err)
}

func (c *Client) wasWelcomed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.welcomed
}

// pause waits, and gives up the messages that become too old meanwhile. It returns false when the client is closed.
func (c *Client) pause(d time.Duration) bool {
	end := time.Now().Add(d)
	for {
		now := time.Now()
		if !now.Before(end) {
			return c.ctx.Err() == nil
		}
		c.mu.Lock()
		next := end
		if expiry := c.expire(now); !expiry.IsZero() && expiry.Before(next) {
			next = expiry
		}
		c.mu.Unlock()
		timer := time.NewTimer(time.Until(next))
		select {
		case <-timer.C:
		case <-c.ctx.Done():
		}
		timer.Stop()
		if c.ctx.Err() != nil {
			return false
		}
	}
}

// expire gives up what is too old to be sent again, and returns when the next message will be. c.mu is held.
func (c *Client) expire(now time.Time) (next time.Time) {
	if c.outbox.doubtful == 0 {
		return next
	}
	var old []*Publication
	for _, p := range c.outbox.list {
		if c.outbox.expired(p, now) {
			old = append(old, p)
		} else if !p.maybe.IsZero() && !p.flying {
			if at := c.outbox.expiry(p); next.IsZero() || at.Before(next) {
				next = at
			}
		}
	}
	for _, p := range old {
		c.resolve(p, Receipt{}, ErrUncertain)
	}
	return next
}

// doubt gives up all messages, of a room or of all (""), that were sent without an answer. c.mu is held.
func (c *Client) doubt(room string) {
	var list []*Publication
	for _, p := range c.outbox.list {
		if !p.maybe.IsZero() && !p.flying && (room == "" || p.room == room) {
			list = append(list, p)
		}
	}
	for _, p := range list {
		c.resolve(p, Receipt{}, ErrUncertain)
	}
}

// end ends the client, for good.
func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		err = ErrClosed
	}
	c.err = err
	for len(c.outbox.list) > 0 {
		p := c.outbox.list[0]
		why := ErrNotSent
		if !p.maybe.IsZero() {
			why = ErrUncertain
		}
		c.resolve(p, Receipt{}, fmt.Errorf("%w: %w", why, ErrClosed))
	}
	for len(c.requests) > 0 {
		c.answer(c.requests[0], nil, ErrClosed)
	}
	c.cancel()
	close(c.ended)
}

// dial makes a connection, which goes on in the URL's room at since.
func (c *Client) dial() (conn *wsconn.ClientConn, since string, err error) {
	ctx, cancel := context.WithTimeout(c.ctx, dialTimeout)
	defer cancel()
	o := wsconn.DialOptions{
		Subprotocols: []string{wire.Subprotocol}, HTTPClient: c.o.http, ReadLimit: readLimit, Compress: c.o.compress,
	}
	if c.o.header != nil {
		if o.Header, err = c.o.header(ctx); err != nil {
			return nil, "", fmt.Errorf("hubclient: header: %w", err)
		}
	}
	address, since := c.address()
	conn, resp, err := wsconn.Dial(ctx, address, o)
	if err != nil {
		return nil, "", c.refusal(resp, err)
	}
	if p := conn.Subprotocol(); !strings.EqualFold(p, wire.Subprotocol) {
		conn.CloseNow()
		return nil, "", &HandshakeError{Status: http.StatusSwitchingProtocols, Message: "it does not speak " + wire.Subprotocol}
	}
	return conn, since, nil
}

// address is the URL of the next handshake, and the cursor in it.
func (c *Client) address() (s, since string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := *c.url
	q := u.Query()
	set := func(key, value string) {
		if value != "" {
			q.Set(key, value)
		}
	}
	set("name", c.o.name)
	set("session", c.session)
	since = c.o.since
	if r := c.rooms[c.home]; r != nil {
		since = r.cursor
	}
	set("since", since)
	if c.o.history >= 0 {
		set("history", strconv.Itoa(c.o.history))
	}
	set("ordered", "1")
	u.RawQuery = q.Encode()
	return u.String(), since
}

// refusal is the error of a handshake.
func (c *Client) refusal(resp *http.Response, err error) error {
	if resp == nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // its URL has the session, which is secret
		}
		return fmt.Errorf("hubclient: dial: %w", err)
	}
	if resp.StatusCode < 400 {
		return &HandshakeError{Status: resp.StatusCode, Message: "it does not speak WebSocket"}
	}
	var body []byte
	if resp.Body != nil {
		body, _ = io.ReadAll(io.LimitReader(resp.Body, 1024))
		resp.Body.Close()
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	if line == "" || strings.HasPrefix(line, "<") {
		line = http.StatusText(resp.StatusCode)
	}
	h := &HandshakeError{Status: resp.StatusCode, Message: line, RetryAfter: retryAfter(resp.Header.Get("Retry-After"))}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notFor = max(c.notFor, h.RetryAfter)
	return h
}

// retryAfter reads the header of that name (RFC 9110 section 10.2.3): seconds, or a date.
func retryAfter(s string) time.Duration {
	var d time.Duration
	if n, err := strconv.Atoi(s); err == nil {
		d = time.Duration(min(max(n, 0), int(maxRetryWait/time.Second))) * time.Second
	} else if t, err := http.ParseTime(s); err == nil {
		d = time.Until(t)
	}
	return min(max(d, 0), maxRetryWait)
}
