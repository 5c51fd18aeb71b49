// Package deadline is context.WithTimeout for calls that hardly ever wait: no timer is
// started before somebody waits.
package deadline

import (
	"context"
	"sync"
	"time"
)

// A Context ends at its deadline, with its parent, or with Cancel.
type Context struct {
	parent context.Context
	by     time.Time

	mu     sync.Mutex         // guards what follows
	timed  context.Context    // nil: nobody has waited yet
	cancel context.CancelFunc // of timed
	over   bool               // Cancel was called
}

// WithTimeout returns a context that ends after d. Cancel must be called.
func WithTimeout(parent context.Context, d time.Duration) *Context {
	return &Context{parent: parent, by: time.Now().Add(d)}
}

// Cancel ends the context.
func (c *Context) Cancel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.cancel != nil {
		c.cancel()
	}
}

// Done starts the timer.
func (c *Context) Done() <-chan struct{} { return c.context().Done() }

func (c *Context) context() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timed == nil {
		c.timed, c.cancel = context.WithDeadline(c.parent, c.by)
		if c.over {
			c.cancel()
		}
	}
	return c.timed
}

// Err is that of the context whose Done somebody has; before that it looks at the clock.
func (c *Context) Err() error {
	c.mu.Lock()
	timed, over := c.timed, c.over
	c.mu.Unlock()
	switch {
	case timed != nil:
		return timed.Err()
	case over:
		return context.Canceled
	case c.parent.Err() != nil:
		return c.parent.Err()
	case !time.Now().Before(c.by):
		return context.DeadlineExceeded
	}
	return nil
}

// Deadline implements context.Context.
func (c *Context) Deadline() (time.Time, bool) {
	if by, ok := c.parent.Deadline(); ok && by.Before(c.by) {
		return by, true
	}
	return c.by, true
}

// Value implements context.Context.
func (c *Context) Value(key any) any { return c.parent.Value(key) }
