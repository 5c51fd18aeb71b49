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
	"strconv"
	"strings"
	"time"

	"github.com/chathub-go/hub/internal/wsconn"
)

// dialed is what a dial came to.
type dialed struct {
	conn   *wsconn.ClientConn
	path   string // of the URL
	plain  bool
	status int           // of a refusal
	after  time.Duration // Retry-After
	final  bool          // trying again can't help
	err    error
}

// dial begins to connect; the outcome comes by c.dialed.
func (c *client) dial(ctx context.Context) {
	result := make(chan dialed, 1)
	c.dialed = result
	u, plain, sure := *c.url, c.plain, c.before
	if !plain {
		q := u.Query()
		q.Set("ordered", "1")
		if c.session != "" {
			q.Set("session", c.session)
		}
		if c.cursor != "" {
			q.Set("since", c.cursor)
		}
		u.RawQuery = q.Encode()
	}
	bare := *c.url
	go func() {
		var d dialed
		if plain {
			d = dialOne(ctx, &bare)
		} else {
			d = dialOne(ctx, &u, subprotocol)
		}
		// A service may have mounted /room/{room} only.
		if !sure && d.status == http.StatusNotFound && u.Path == lobbyPath {
			u.Path += "/lobby"
			bare.Path = u.Path
			d = dialOne(ctx, &u, subprotocol)
		}
		// A server that knows no subprotocols may refuse those who offer some.
		if !sure && d.status == http.StatusBadRequest {
			d = dialOne(ctx, &bare)
		}
		d.path = bare.Path
		result <- d
	}()
}

func dialOne(ctx context.Context, u *url.URL, subprotocols ...string) dialed {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, resp, err := wsconn.Dial(ctx, u.String(), wsconn.DialOptions{Subprotocols: subprotocols, ReadLimit: readLimit})
	if err == nil {
		return dialed{conn: conn, plain: conn.Subprotocol() == ""}
	}
	if resp == nil {
		return dialed{err: fmt.Errorf("can't reach %s: %s", u.Host, cause(err))}
	}
	d := dialed{status: resp.StatusCode, final: true, err: fmt.Errorf("%s says: %s", u.Host, sentence(resp))}
	if resp.StatusCode < 400 {
		d.err = fmt.Errorf("%s is no WebSocket server: %s", u.Host, cause(err))
	}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500 {
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		d.after = time.Duration(min(max(seconds, 0), 300)) * time.Second
		d.final = resp.StatusCode == http.StatusNotImplemented
	}
	return d
}

// cause is the part of a dial error that tells something to a person.
func cause(err error) error {
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.As(err, &dns):
		return errors.New(dns.Err)
	case errors.As(err, &op):
		var sys *os.SyscallError
		if errors.As(op.Err, &sys) {
			return sys.Err
		}
		return op.Err
	case errors.Is(err, context.DeadlineExceeded):
		return errors.New("no answer")
	}
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

// sentence is what a server's refusal says.
func sentence(resp *http.Response) string {
	var body []byte
	if resp.Body != nil {
		body, _ = io.ReadAll(io.LimitReader(resp.Body, 1024))
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	if first == "" || strings.HasPrefix(first, "<") {
		return resp.Status
	}
	return cleanName(first)
}
