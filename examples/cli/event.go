package main

import (
	"fmt"
	"strings"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/hubclient"
)

// show tells the user what has happened.
func (c *client) show(e hubclient.Event) {
	switch e.Type {
	case hubclient.EventWelcome:
		c.welcome(e.Welcome)
	case hubclient.EventDisconnected:
		if c.ready { // else it is one more attempt
			c.note(fmt.Sprintf("* connection lost: %s; trying to connect again", cause(e.Err)))
		}
		c.ready = false
		c.state(false)
	case hubclient.EventMessage:
		c.seq = e.Message.Seq
		c.say(said(e.Message))
	case hubclient.EventDirect:
		c.say("* " + nameOf(e.Message.From) + " (to you): " + clean(e.Message.Text()))
	case hubclient.EventSignal:
		c.say("* " + clean(e.Message.Text()))
	case hubclient.EventJoined:
		if e.Member.User != c.room.User() {
			c.say("* " + nameOf(e.Member) + " joined")
		}
	case hubclient.EventLeft:
		if e.Member.User != c.room.User() {
			c.say("* " + nameOf(e.Member) + " left")
		}
	case hubclient.EventPresence: // where many came or went at once
		c.say(fmt.Sprintf("* many came or went: %d are here", e.Count))
	case hubclient.EventGap:
		if e.Gap.Reset { // another history
			c.acked = 0
		}
		c.seq = e.Gap.Before - 1
		if e.Gap.Missed >= 0 {
			c.say(fmt.Sprintf("* missed here: %d, no longer kept by the server", e.Gap.Missed))
		} else {
			c.say("* some messages are missing here: the server no longer has them")
		}
	case hubclient.EventLeftRoom:
		c.note("* the room was closed")
	case hubclient.EventError:
		c.note("* the server says: " + cause(e.Err))
	}
}

// welcome opens the door.
func (c *client) welcome(w *hubclient.Welcome) {
	switch w.Recovery {
	case hubclient.RecoveryNew:
		c.note(fmt.Sprintf("* connected to %s as %s%s", cleanName(w.Room), cleanName(w.Name), company(w)))
	case hubclient.RecoveryReset:
		c.note("* connected again, but the room's history is another one: messages may be missing")
		c.acked = 0 // seqs of two histories can't be compared
	case hubclient.RecoveryGap:
		c.note("* connected again")
	default:
		c.note("* connected again, nothing was missed")
	}
	c.seq, c.ready = w.Seq, true
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
			names = append(names, nameOf(m))
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
	return nameOf(m.From) + ": " + clean(m.Text())
}

func nameOf(m broker.Member) string {
	if m.Name == "" {
		return cleanName(m.User)
	}
	return cleanName(m.Name)
}
