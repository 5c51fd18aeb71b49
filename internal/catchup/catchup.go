// Package catchup reads rooms' histories for clients that come back, so that a
// thousand of them cost the broker little more than one.
package catchup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/internal/fanout"
	"github.com/chathub-go/hub/internal/wsconn"
)

const (
	// PageSize is how many messages one read asks for: a quarter of the default
	// queue of a client, so that a page fits while the one before it still waits.
	PageSize = 64

	// maxReads is how many reads of the broker run at the same time, for a whole hub.
	maxReads = 64

	// maxBytes bounds the data of one page, but for its one message where that is larger:
	// the default bound of a client's queue.
	maxBytes = 1 << 20

	// timeout bounds one read, with the wait for its turn.
	timeout = 10 * time.Second
)

// A Page is a page of history, and its encodings, made once for all who share it.
type Page struct {
	broker.Page
	once   [fanout.Doors]sync.Once
	frames [fanout.Doors][]*wsconn.Frame
}

// Frames returns the page's messages as encode made them for a door, message i as frame i;
// nil where the door shows nothing. All callers for a door must pass an encode that does the
// same.
func (p *Page) Frames(door int, encode func(i int) *wsconn.Frame) []*wsconn.Frame {
	p.once[door].Do(func() {
		p.frames[door] = make([]*wsconn.Frame, len(p.Messages))
		for i := range p.Messages {
			p.frames[door][i] = encode(i)
		}
	})
	return p.frames[door]
}

// A Reader reads histories. Its methods may be called concurrently; callers that
// ask for the same page at the same time share one read.
type Reader struct {
	broker broker.Broker
	turns  chan struct{}
	ctx    context.Context // ends with Cancel
	cancel context.CancelFunc
	flying sync.WaitGroup

	mu      sync.Mutex // guards flights
	flights map[string]*flight
}

// A flight is one read under way. Its page and err are set before done is closed.
type flight struct {
	done chan struct{}
	page *Page
	err  error
}

// NewReader returns a reader of b.
func NewReader(b broker.Broker) *Reader {
	r := &Reader{broker: b, turns: make(chan struct{}, maxReads), flights: map[string]*flight{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Cancel ends the reads under way: they fail.
func (r *Reader) Cancel() { r.cancel() }

// Close is Cancel, and waits for the reads. No read may begin after it.
func (r *Reader) Close() {
	r.cancel()
	r.flying.Wait()
}

// Since returns the page after a cursor.
func (r *Reader) Since(ctx context.Context, room string, after broker.Cursor) (*Page, error) {
	key := fmt.Sprintf("since %s %s", after, room)
	return r.share(ctx, key, func(ctx context.Context) (broker.Page, error) {
		page, err := r.broker.Since(ctx, room, after, PageSize)
		if n := fit(len(page.Messages), func(i int) *broker.Message { return page.Messages[i] }); n < len(page.Messages) {
			page.Messages, page.More = page.Messages[:n], true
			page.Next = page.Messages[n-1].Cursor
		}
		return page, err
	})
}

// fit returns how many of n messages go into one page, at least 1.
func fit(n int, at func(int) *broker.Message) int {
	size := 0
	for i := range n {
		if size += len(at(i).Data); size > maxBytes && i > 0 {
			return i
		}
	}
	return n
}

// Before returns the newest messages before a seq, at most limit and maxBytes; 0 is
// the end.
func (r *Reader) Before(ctx context.Context, room string, before uint64, limit int) (*Page, error) {
	key := fmt.Sprintf("before %d %d %s", before, limit, room)
	return r.share(ctx, key, func(ctx context.Context) (broker.Page, error) {
		page, err := r.broker.Before(ctx, room, before, limit)
		last := len(page.Messages) - 1
		if n := fit(last+1, func(i int) *broker.Message { return page.Messages[last-i] }); n <= last {
			page.Messages, page.More = page.Messages[last+1-n:], true
		}
		return page, err
	})
}

// share joins the flight for key, or starts it. A flight has a goroutine of its own:
// who asked first may leave as the others may.
func (r *Reader) share(ctx context.Context, key string, read func(context.Context) (broker.Page, error)) (*Page, error) {
	r.mu.Lock()
	f := r.flights[key]
	if f == nil {
		f = &flight{done: make(chan struct{}), err: errFailed}
		r.flights[key] = f
		r.flying.Go(func() { r.fly(key, f, read) })
	}
	r.mu.Unlock()
	select {
	case <-f.done:
		return f.page, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *Reader) fly(key string, f *flight, read func(context.Context) (broker.Page, error)) {
	defer func() {
		if p := recover(); p != nil { // a broker's bug fails the read, not the process
			f.err = fmt.Errorf("%w: panic: %v", errFailed, p)
		}
		r.mu.Lock()
		delete(r.flights, key)
		r.mu.Unlock()
		close(f.done)
	}()
	f.page, f.err = r.read(read)
}

var errFailed = errors.New("hub: history could not be read")

// read has a deadline of its own and not the caller's context: those who joined
// the flight must not fail because its first client went away.
func (r *Reader) read(read func(context.Context) (broker.Page, error)) (*Page, error) {
	ctx, cancel := context.WithTimeout(r.ctx, timeout)
	defer cancel()
	select {
	case r.turns <- struct{}{}:
		defer func() { <-r.turns }()
	case <-ctx.Done():
		return nil, fmt.Errorf("hub: too many clients read history: %w", ctx.Err())
	}
	page, err := read(ctx)
	if err != nil {
		return nil, err
	}
	return &Page{Page: page}, nil
}
