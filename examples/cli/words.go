package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/hubclient"
)

// event shows what happened.
func (c *chat) event(e *hubclient.Event) {
	switch e.Type {
	case hubclient.EventWelcome:
		c.welcome(e.Welcome)
	case hubclient.EventMessage:
		if e.Message.From.User == c.user {
			c.echoed = e.Message.ID
		}
		c.say(said(e.Message))
	case hubclient.EventDirect:
		c.say("* " + called(e.Message.From) + " (to you): " + clean(e.Message.Text()))
	case hubclient.EventSignal:
		c.say("* " + clean(e.Message.Text()))
	case hubclient.EventJoined:
		if e.Member.User != c.user {
			c.say("* " + called(e.Member) + " joined")
		}
	case hubclient.EventLeft:
		if e.Member.User != c.user {
			c.say("* " + called(e.Member) + " left")
		}
	case hubclient.EventPresence: // many came or went at once
		c.say(fmt.Sprintf("* many came or went: %d are here", e.Count))
	case hubclient.EventGap:
		if e.Gap.Missed >= 0 {
			c.say(fmt.Sprintf("* missed here: %d, no longer kept by the server", e.Gap.Missed))
		} else {
			c.say("* some messages are missing here: the server no longer has them")
		}
	case hubclient.EventLeftRoom:
		c.note("* the room was closed")
	case hubclient.EventError:
		c.note("* the server says: " + why(e.Err))
	case hubclient.EventDisconnected:
		if c.online { // else it was an attempt to come back
			c.online = false
			c.state(false)
			c.note(fmt.Sprintf("* connection lost: %s; trying to connect again", why(e.Err)))
		}
	}
}

func (c *chat) welcome(w *hubclient.Welcome) {
	switch w.Recovery {
	case hubclient.RecoveryNew:
		c.note(fmt.Sprintf("* connected to %s as %s%s", cleanName(w.Room), cleanName(w.Name), company(w)))
	case hubclient.RecoveryReset:
		c.note("* connected again, but the room's history is another one: messages may be missing")
	case hubclient.RecoveryGap:
		c.note("* connected again")
	default:
		c.note("* connected again, nothing was missed")
	}
	c.user = w.User
	if w.Limits.Rate > 0 {
		pace := time.Duration(min(1/w.Limits.Rate, 3600) * float64(time.Second))
		if pace != c.pace { // who is leaving already counted on another one
			c.pace = pace
			c.patience()
		}
	}
	c.online = true
	c.state(true)
}

// company says who else is in the room.
func company(w *hubclient.Welcome) string {
	const most = 8
	var names []string
	more := w.MemberCount - len(w.Members) // the list has a bound
	for _, m := range w.Members {
		switch {
		case m.User == w.User:
		case len(names) < most:
			names = append(names, called(m))
		default:
			more++
		}
	}
	switch {
	case len(names) == 0:
		return ", nobody else is here"
	case more > 0:
		return fmt.Sprintf(", with %s and %d more", strings.Join(names, ", "), more)
	}
	return ", with " + strings.Join(names, ", ")
}

// said is a line of a conversation. Nobody's name begins with "*".
func said(m *hubclient.Received) string {
	if m.From == (broker.Member{}) { // the service itself
		return "* " + clean(m.Text())
	}
	return called(m.From) + ": " + clean(m.Text())
}

func called(m broker.Member) string {
	if m.Name == "" {
		return cleanName(m.User)
	}
	return cleanName(m.Name)
}

// failure is the end of a client, or of a dial, in a person's words.
func failure(u *url.URL, err error) error {
	if h, ok := errors.AsType[*hubclient.HandshakeError](err); ok {
		if h.Status < 400 {
			return fmt.Errorf("%s is no hub: %s", u.Host, why(err))
		}
		return fmt.Errorf("%s says: %s", u.Host, why(err))
	}
	if ce, ok := errors.AsType[*hubclient.CloseError](err); ok && ce.Code != 1006 {
		return fmt.Errorf("the server closed the connection: %s", why(err))
	}
	return fmt.Errorf("can't reach %s: %s", u.Host, why(err))
}

// why is the part of an error that tells something to a person.
func why(err error) string {
	if e, ok := errors.AsType[*hubclient.Error](err); ok {
		return cleanName(e.Message)
	}
	if e, ok := errors.AsType[*hubclient.HandshakeError](err); ok {
		return cleanName(e.Message)
	}
	if e, ok := errors.AsType[*hubclient.CloseError](err); ok && e.Code != 1006 {
		if e.Reason == "" {
			return fmt.Sprintf("code %d", e.Code)
		}
		return cleanName(e.Reason)
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e.Error()
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the server closed it without a word"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer"
	}
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return cleanName(strings.TrimPrefix(err.Error(), "hubclient: "))
}

func shorten(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}
