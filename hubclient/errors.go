package hubclient

import (
	"errors"
	"fmt"
	"time"

	"github.com/chathub-go/hub/internal/wire"
)

var (
	// ErrClosed is returned by what is called on, or waits for, a client that has ended: by
	// [Client.Close], or for good by the server ([Client.Err]).
	ErrClosed = errors.New("hubclient: client closed")

	// ErrUncertain means that a message was sent and its outcome is not known: it may be kept or not.
	// It is not sent again, since it could come twice; but if the context of [Client.Publish] has ended,
	// it still may be, while that is safe. An error of a publish that is not this one
	// says that the message was not kept.
	ErrUncertain = errors.New("hubclient: not known whether the message was kept")

	// ErrOutboxFull means that there was no place in the outbox until the context ended
	// ([WithOutbox]). The message was not sent.
	ErrOutboxFull = errors.New("hubclient: outbox full")

	// ErrNotSent means that the message was not sent before its context or the client ended. It was in the outbox, and is
	// not any more.
	ErrNotSent = errors.New("hubclient: message not sent")

	// ErrIDReused means that a message with this ID and another payload is in the outbox.
	ErrIDReused = errors.New("hubclient: message id reused with another payload")

	// ErrProtocol means that the server broke the protocol: a message twice, a hole in a room's
	// messages that it did not tell of, an answer to what was never asked. The connection is given up, and
	// the next one goes on from the last message that was right.
	ErrProtocol = errors.New("hubclient: the server broke the protocol")

	// ErrLagged means that the caller took no events while an answer was waited for, so that the client
	// let the room's events go by. Messages come again, on a new connection; signals (direct messages,
	// typing, joined and left) of that time do not.
	ErrLagged = errors.New("hubclient: events were not taken in time")

	// errStuck ends a connection on which the server waits for a message, before it takes others
	// (ordered=1), that was given up, or is for a room that the connection is not in any more.
	errStuck = errors.New("hubclient: a message that was refused for a moment can't be sent again on this connection")

	// errNoAnswer ends a connection on which nothing comes any more.
	errNoAnswer = errors.New("hubclient: no answer")
)

// An Error is the server's answer to what it did not do, and would not do if it was asked again.
type Error struct {
	ID, Room string
	Code     string // as in docs/protocol.md, such as "forbidden", "refused", "not_in_room"
	Message  string // for people
}

func (e *Error) Error() string { return fmt.Sprintf("hubclient: %s: %s", e.Code, e.Message) }

// A HandshakeError is the answer of a server that did not open a connection, or not one of this protocol (Status below 300).
type HandshakeError struct {
	Status     int           // of HTTP
	Message    string        // the first line of the answer's body, or what is wrong with the answer
	RetryAfter time.Duration // how long it wants to be left alone; 0: not said
}

func (e *HandshakeError) Error() string {
	return fmt.Sprintf("hubclient: the server answered %d: %s", e.Status, e.Message)
}

// final tells whether to try again, unchanged, is of no use. Besides what a hub answers there is what
// proxies say of a server that is away (502, 504), and of a request that took too long (408).
func (e *HandshakeError) final() bool {
	switch e.Status {
	case 408, 425, 429:
		return false
	}
	return e.Status < 500 || e.Status == 501
}

// A CloseError says how the server ended a connection.
type CloseError struct {
	Code   int // RFC 6455 section 7.4; 1006: it broke
	Reason string
	err    error
}

func (e *CloseError) Error() string {
	if e.Code == 1006 && e.err != nil {
		return fmt.Sprintf("hubclient: connection lost: %v", e.err)
	}
	return fmt.Sprintf("hubclient: the server closed the connection: %d %s", e.Code, e.Reason)
}

// Unwrap returns what broke the connection, if it broke.
func (e *CloseError) Unwrap() error { return e.err }

// final tells whether the code means not to come back (docs/protocol.md section 10, RFC 6455 section 7.4.1).
func (e *CloseError) final() bool {
	switch e.Code {
	case 1000, 1002, 1003, 1007, 1008, 1010:
		return true
	}
	return false
}

// isFinal tells whether err, of a dial or a connection, ends the client.
func isFinal(err error) bool {
	if h, ok := errors.AsType[*HandshakeError](err); ok {
		return h.final()
	}
	if c, ok := errors.AsType[*CloseError](err); ok {
		return c.final()
	}
	return false
}

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// retryable tells whether a command that got this error may be sent again. An unknown code may not.
func retryable(code string) bool { return wire.Retryable[code] }
