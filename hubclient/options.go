package hubclient

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/chathub-go/hub/internal/wire"
)

// An Option is one of [Dial]. A value that makes no sense panics.
type Option func(*options)

type options struct {
	name, session, since string
	history              int // -1: the server's default
	header               func(context.Context) (http.Header, error)
	http                 *http.Client
	compress             bool
	outboxMessages       int
	outboxBytes          int
	queueEvents          int
	queueBytes           int
	backoff              func(int) time.Duration
	callback             func(Event)
	retryDial            bool
}

func newOptions(opts []Option) options {
	o := options{
		history:        -1,
		outboxMessages: 256,
		outboxBytes:    1 << 20,
		queueEvents:    1024,
		queueBytes:     8 << 20,
		backoff:        fullJitter,
	}
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// The pauses before a new connection, without [WithBackoff].
const (
	firstPause = 500 * time.Millisecond
	lastPause  = 30 * time.Second
)

// fullJitter spreads those who lost their connection in one moment over the whole pause.
func fullJitter(attempt int) time.Duration {
	return rand.N(min(firstPause<<min(attempt, 10), lastPause))
}

// WithName sets the name that others see: 1 to 64 bytes of printable UTF-8, no ':', no '*' first, no space at
// either end. The server refuses others: [Dial] then returns a [*HandshakeError] of 400. By default, and with "", it makes
// one up. Where the service knows its users the name does not count, and may be anything.
func WithName(name string) Option { return func(o *options) { o.name = name } }

// WithSession makes a guest the same user as in an earlier process: token is what [Client.Session] returned then.
// It is a secret. By default a guest is new.
func WithSession(token string) Option { return func(o *options) { o.session = token } }

// WithSince goes on in the URL's room where an earlier process was: cursor is the last one that it dealt with
// ([Received].Cursor, [Gap].Cursor, [Welcome].Cursor). By default, and with "", a first stay begins with the room's last
// messages.
func WithSince(cursor string) Option { return func(o *options) { o.since = cursor } }

// WithHistory sets how many of the room's last messages a first stay begins with, 0 to 1000. By default the
// server decides: 20.
func WithHistory(n int) Option {
	if n < 0 || n > wire.MaxJoinHistory {
		panic(fmt.Sprintf("hubclient: WithHistory: %d is not from 0 to %d", n, wire.MaxJoinHistory))
	}
	return func(o *options) { o.history = n }
}

// WithHeader asks f for the header of each handshake, for tokens that expire. An error of f counts as a lost connection:
// it is asked again after the pause; in [Dial] it is returned. f may block until its context ends.
func WithHeader(f func(context.Context) (http.Header, error)) Option {
	return func(o *options) { o.header = f }
}

// WithHTTPClient sets what makes the handshakes. By default the client has a transport of its own, with the proxies of the
// environment. A Timeout in it is of no use: it would end the connection.
func WithHTTPClient(c *http.Client) Option { return func(o *options) { o.http = c } }

// WithCompression offers permessage-deflate. By default nothing is compressed.
func WithCompression() Option { return func(o *options) { o.compress = true } }

// WithOutbox bounds the messages that wait to be sent or for their ack, and their bytes as they go over the wire. The default is 256 and
// 1 MiB. At a bound [Client.Publish] waits. A message larger than all the bytes has the outbox to itself. With [math.MaxInt] bytes the
// messages are the only bound.
func WithOutbox(messages, bytes int) Option {
	if messages < 1 || bytes < messages {
		panic("hubclient: WithOutbox: an outbox needs a message, and a byte for each")
	}
	return func(o *options) { o.outboxMessages, o.outboxBytes = messages, bytes }
}

// WithQueue bounds the events that wait for the caller, and their bytes. The default is 1,024 and 8 MiB. At a bound
// the socket is not read, see [Client.Events]. One event may be larger than all the bytes.
func WithQueue(events, bytes int) Option {
	if events < 1 || bytes < 1 {
		panic("hubclient: WithQueue: a queue needs an event and a byte")
	}
	return func(o *options) { o.queueEvents, o.queueBytes = events, bytes }
}

// WithBackoff sets the pause before each new connection; attempt counts from 0 those that failed since one lasted. It is
// added to what the server asks for. The default is random from 0 to 0.5 s, doubled with each attempt up to 30 s, which is known as
// full jitter.
func WithBackoff(pause func(attempt int) time.Duration) Option {
	if pause == nil {
		panic("hubclient: WithBackoff: no function")
	}
	return func(o *options) { o.backoff = pause }
}

// WithCallback has f called with each event, one at a time, in place of [Client.Events]. f may call any method of
// the client; while it runs, other events wait.
func WithCallback(f func(Event)) Option { return func(o *options) { o.callback = f } }

// WithDialRetry lets [Dial] go on trying until its context ends, but after an answer that is final. By default it fails with the
// first attempt.
func WithDialRetry() Option { return func(o *options) { o.retryDial = true } }

// A JoinOption is one of [Client.Join].
type JoinOption func(*joinOptions)

type joinOptions struct {
	since   string
	history int
}

// JoinSince is [WithSince] for another room.
func JoinSince(cursor string) JoinOption { return func(o *joinOptions) { o.since = cursor } }

// JoinHistory is [WithHistory] for another room.
func JoinHistory(n int) JoinOption {
	if n < 0 || n > wire.MaxJoinHistory {
		panic(fmt.Sprintf("hubclient: JoinHistory: %d is not from 0 to %d", n, wire.MaxJoinHistory))
	}
	return func(o *joinOptions) { o.history = n }
}
