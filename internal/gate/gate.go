// Package gate decides whether a client's command may pass: its rate, and, on an
// ordered connection, whether an earlier publish must come first.
package gate

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"github.com/chathub-go/hub/internal/wire"
)

// A Gate is one client's. It belongs to the goroutine that reads from the client.
type Gate struct {
	publishes, commands *rate.Limiter // nil: no limit
	refusals            *rate.Limiter
	ordered             bool
	blocked             string // the id of the refused publish that must come next
}

// New returns a gate for so many publishes a second, and as many other commands; 0 a
// second is no limit.
func New(perSecond float64, burst int, ordered bool) *Gate {
	g := &Gate{ordered: ordered}
	if perSecond > 0 {
		g.publishes = rate.NewLimiter(rate.Limit(perSecond), burst)
		g.commands = rate.NewLimiter(rate.Limit(perSecond), burst)
		g.refusals = rate.NewLimiter(refusals*rate.Limit(perSecond), refusals*burst)
	}
	return g
}

// Wait waits until a publish may pass, for a client that can't be told to.
func (g *Gate) Wait(ctx context.Context) error {
	if g.publishes == nil {
		return nil
	}
	return g.publishes.Wait(ctx)
}

// refusals is how many times its rate a client is told what it did wrong before the hub
// reads from it no faster.
const refusals = 5

// Refused is called for each refusal: it waits where the client has had too many.
func (g *Gate) Refused(ctx context.Context) {
	if g.refusals != nil {
		_ = g.refusals.Wait(ctx) // fails only for who is going
	}
}

// Command says whether a command other than publish may pass.
func (g *Gate) Command(cmd *wire.Command) *wire.Error { return pass(g.commands, cmd) }

// Publish says whether a publish may pass. Done is told how it ended.
func (g *Gate) Publish(cmd *wire.Command) *wire.Error {
	if g.ordered {
		switch {
		case cmd.ID == "":
			return &wire.Error{Room: cmd.Room, Code: wire.CodeBadRequest, Message: "id: needed on a connection with ordered=1"}
		case g.blocked != "" && cmd.ID != g.blocked:
			return &wire.Error{
				ID: cmd.ID, Room: cmd.Room, Code: wire.CodeOutOfOrder,
				Message: "an earlier publish was refused and must come again first",
			}
		}
	}
	err := pass(g.publishes, cmd)
	if err != nil {
		g.Done(cmd, err)
	}
	return err
}

// Done tells how a publish that passed has ended; nil is well. After a refusal that may
// be repeated nothing passes but the repetition; after a final one those behind it need
// not wait.
func (g *Gate) Done(cmd *wire.Command, err *wire.Error) {
	g.blocked = ""
	if g.ordered && err != nil && err.Retryable() {
		g.blocked = cmd.ID
	}
}

// pass is nil where l allows the command now, or else an error with the time to wait.
func pass(l *rate.Limiter, cmd *wire.Command) *wire.Error {
	if l == nil || l.Allow() {
		return nil
	}
	wait := time.Duration((1 - l.Tokens()) / float64(l.Limit()) * float64(time.Second))
	return &wire.Error{
		ID: cmd.ID, Room: cmd.Room, Code: wire.CodeRate, Message: "too many at once: slow down",
		RetryAfter: max(wait, time.Millisecond),
	}
}
