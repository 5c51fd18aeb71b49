// Package compat tests the hub with what others wrote: routers, proxies, clients, a browser. It is a
// module of its own, so that who imports the hub need not know any of them.
package compat

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/chathub-go/hub"
)

// A door is how to talk to the hub through one of its subprotocols.
type door struct {
	subprotocol string
	publish     func(id, text string) string
	welcome     string // the first message, "" for none
	joined      func(name string) string
	left        func(name string) string
	message     func(from, text string) string
	ack         func(id string) string // "" for none
}

// On the JSON door a message is known by the fields that are given here.
var doors = map[string]door{
	"plain": {
		publish: func(_, text string) string { return text },
		joined:  func(name string) string { return "* " + name + " joined" },
		left:    func(name string) string { return "* " + name + " left" },
		message: func(from, text string) string { return from + ": " + text },
		ack:     func(string) string { return "" },
	},
	"json": {
		subprotocol: "hub.v1.json",
		publish: func(id, text string) string {
			return jsonText(map[string]any{"type": "publish", "id": id, "data": text})
		},
		welcome: `{"type":"welcome"}`,
		joined:  func(name string) string { return memberEvent("joined", name) },
		left:    func(name string) string { return memberEvent("left", name) },
		message: func(from, text string) string {
			return jsonText(map[string]any{"type": "message", "from": map[string]any{"name": from}, "data": text})
		},
		ack: func(id string) string { return jsonText(map[string]any{"type": "ack", "id": id}) },
	},
}

func jsonText(v any) string {
	p, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(p)
}

func memberEvent(event, name string) string {
	return jsonText(map[string]any{"type": event, "room": "lobby", "member": map[string]any{"name": name}})
}

// expect reads until all of the messages have come, in any order; others between them are ignored.
func (d door) expect(t *testing.T, p peer, want ...string) {
	t.Helper()
	missing := map[string]bool{}
	for _, w := range want {
		if w != "" {
			missing[w] = true
		}
	}
	for len(missing) > 0 {
		got, err := p.Recv()
		require.NoError(t, err, "while waiting for %.200v", missing)
		for w := range missing {
			if d.matches(t, got, w) {
				delete(missing, w)
			}
		}
	}
}

func (d door) matches(t *testing.T, got, want string) bool {
	if d.subprotocol == "" {
		return got == want
	}
	var g, w map[string]any
	require.NoError(t, json.Unmarshal([]byte(got), &g), "the hub sent %.200q", got)
	require.NoError(t, json.Unmarshal([]byte(want), &w))
	return contains(g, w)
}

// contains tells if got has every field of want, with the same value.
func contains(got, want any) bool {
	w, ok := want.(map[string]any)
	if !ok {
		return got == want
	}
	g, ok := got.(map[string]any)
	for name, value := range w {
		ok = ok && contains(g[name], value)
	}
	return ok
}

// A witness is what the service saw of its clients.
type witness struct {
	joined chan *hub.Client
	left   chan string
}

func newHub(opts ...hub.HubOption) (*hub.Hub, *witness) {
	saw := &witness{joined: make(chan *hub.Client, 10), left: make(chan string, 10)}
	return hub.New(append(opts,
		hub.WithMessageLimit(128<<10),
		hub.WithOnJoin(func(c *hub.Client, _ *hub.Room) { saw.joined <- c }),
		hub.WithOnLeave(func(c *hub.Client, _ *hub.Room, _ error) { saw.left <- c.Name() }),
	)...), saw
}

// converse is the whole of what a chat needs: join, publish, receive, a large message, and leaving
// from either side with a code that both know.
func converse(t *testing.T, to target, h *hub.Hub, saw *witness, d door, dial dialer) {
	enter := func(name string) (peer, *hub.Client) {
		p := dial(t, to, "?name="+name, d.subprotocol)
		d.expect(t, p, d.welcome)
		c := <-saw.joined
		require.Equal(t, name, c.Name())
		return p, c
	}
	alice, aliceAtHub := enter("alice")
	defer alice.Drop()
	bob, bobAtHub := enter("bob")
	defer bob.Drop()
	d.expect(t, alice, d.joined("bob"))

	for i, text := range []string{"hello", "héllo \"<&>\" 世界 🙂", strings.Repeat("0123456789abcdef", 4096)} {
		id := fmt.Sprint("m", i)
		require.NoError(t, alice.Send(d.publish(id, text)))
		d.expect(t, alice, d.message("alice", text), d.ack(id))
		d.expect(t, bob, d.message("alice", text))
		require.NoError(t, bob.Send(d.publish(id, text)))
		d.expect(t, bob, d.message("bob", text), d.ack(id))
		d.expect(t, alice, d.message("bob", text))
	}

	// The client closes, with a code of its own.
	code, err := bob.Close(4001, "later")
	require.NoError(t, err)
	if code != 0 {
		require.Equal(t, 4001, code, "the hub's answer")
	}
	require.Equal(t, "bob", <-saw.left)
	require.Equal(t, closed{4001, "later"}, howEnded(t, bobAtHub))
	d.expect(t, alice, d.left("bob"))

	// The hub closes.
	aliceAtHub.Close(4002, "moderated")
	_, err = answeredWith(alice)
	require.Equal(t, closed{4002, "moderated"}, err)
	require.Equal(t, closed{4002, "moderated"}, howEnded(t, aliceAtHub))
	require.Equal(t, "alice", <-saw.left)

	// The hub shuts down.
	carol, _ := enter("carol")
	defer carol.Drop()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	down := make(chan error, 1)
	go func() { down <- h.Shutdown(ctx) }()
	code, _ = answeredWith(carol)
	require.Equal(t, hub.CodeRestart, code)
	require.NoError(t, <-down)
}

// howEnded waits for the client's end and returns what the hub knows of it.
func howEnded(t *testing.T, c *hub.Client) closed {
	t.Helper()
	<-c.Done()
	var ce *hub.CloseError
	require.ErrorAs(t, c.Err(), &ce)
	return closed{ce.Code, ce.Reason}
}

// answeredWith reads up to the hub's close frame; the error is that frame.
func answeredWith(p peer) (int, error) {
	for {
		if _, err := p.Recv(); err != nil {
			c, _ := err.(closed)
			return c.Code, err
		}
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConversation(t *testing.T) {
	for where, mount := range mounts {
		for what, dial := range dialers {
			for how, door := range doors {
				t.Run(where+"/"+what+"/"+how, func(t *testing.T) {
					if what == "node ws" {
						needs(t, "node", "-e", "require('ws')")
					}
					defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
					t.Run("", func(t *testing.T) { // its cleanups run before the check
						h, saw := newHub()
						converse(t, mount(t, h), h, saw, door, dial)
					})
				})
			}
		}
	}
}
