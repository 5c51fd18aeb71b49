package wsconn

import (
	"net/http"
	"time"
)

// A Policy says what happens to messages for a connection that can't take them at once.
type Policy uint8

const (
	Disconnect   Policy = iota // at the queue's bound, Send fails with ErrFull; the caller closes the connection
	DropOldest                 // at the bound, older messages of the same stream go, and a gap tells of them
	LatestPerKey               // of those of a stream and Frame.Key only the latest waits; at the bound, DropOldest
)

// Options are what a server says about its sockets. They are not changed while in use.
type Options struct {
	// Subprotocols are those known. A handshake that offers some of which none is
	// known is refused. They are compared without case.
	Subprotocols []string

	// Origins are patterns (package path) for the hosts whose pages may connect, beside the
	// request's own host. They are compared without case; "*" alone is any origin.
	Origins []string

	// ReadLimit bounds a message that comes in, in bytes. The default is 64 KiB.
	ReadLimit int64

	// Readers are shared by all connections whose options have them. Nil is none: then each
	// message costs a new one.
	Readers *Readers

	// Compress accepts permessage-deflate (RFC 7692), with no context takeover either way,
	// from clients that offer it and leave us a window of 32 KiB. ReadLimit then bounds what
	// a message inflates to. Which frames go out deflated is the sender's choice: see
	// [Frame.Deflate].
	Compress bool

	// QueueMessages and QueueBytes bound what came by Send and waits for one connection.
	// SendWait adds a batch, of any size, while at most half of both waits in all, so a
	// connection may hold the bound, half the bound and one such batch; what SendNow is
	// given comes on top, uncounted. The defaults are 256 and 1 MiB.
	QueueMessages, QueueBytes int

	// Budget bounds what waits for all connections that share it. Nil is no bound. A frame
	// must not be sent to connections of different budgets.
	Budget *Budget

	// WriteTimeout is how long a write may take in which no byte moves, and how long
	// after Close all of the queue and the close frame may take. The default is 10 s.
	WriteTimeout time.Duration

	// CloseTimeout is how long input is discarded after the close frame, so that a peer
	// that is still sending can read it. Where the peer has sent its own before, nothing is
	// waited for. The default is 2 s.
	CloseTimeout time.Duration

	// GapFrame makes the frame that tells a client of messages that a policy dropped:
	// those seqs s of stream with after < s < before, `missed` of them. It is called by
	// the goroutine that writes, with no lock held. A nil func or frame tells nothing.
	GapFrame func(stream any, after, before uint64, missed int) *Frame

	// Header is added to the answer of the handshake. It may be nil.
	Header http.Header
}

const (
	defaultReadLimit     = 64 << 10
	defaultQueueMessages = 256
	defaultQueueBytes    = 1 << 20
	defaultWriteTimeout  = 10 * time.Second
	defaultCloseTimeout  = 2 * time.Second
)

// or returns v, or the default where v is not set.
func or[T int | int64 | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}
