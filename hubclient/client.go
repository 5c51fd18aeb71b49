// Package hubclient is a client of a hub's rooms that loses nothing.
//
//	c, err := hubclient.Dial(ctx, "wss://chat.example.com/room/lobby", hubclient.WithName("alice"))
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	if _, err := c.Publish(ctx, hubclient.Text("hello")); err != nil {
//		return err
//	}
//	for e := range c.Events() {
//		if e.Type == hubclient.EventMessage {
//			fmt.Println(e.Message.From.Name, e.Message.Text())
//		}
//	}
//	return c.Err() // the server won't have us any more
//
// # What it promises
//
//   - It comes back. A lost connection is made again, with growing, random pauses, no earlier than the server asks for, until
//     [Client.Close], or until the server says not to: [Client.Err] tells.
//   - Nothing is missed silently. Each connection goes on where the one before ended: every message of a room comes as an event,
//     once, in the room's order, or an [EventGap], or a [Welcome] whose Recovery is [RecoveryReset], says which do not. The client checks
//     that itself; a server that breaks it is an error ([ErrProtocol]), and the connection is renewed.
//   - A publish has one effect. It is repeated under its ID, in order with the others, until it is acked, refused, or so old
//     that the server may not know it any more ([ErrUncertain]). What the server refuses for a moment (its rate, a
//     broker that is away) is sent again later; the client keeps to the server's limits.
//   - Bounded. The outbox and the queue of events have bounds ([WithOutbox], [WithQueue]). A caller who reads no events
//     can publish all the same.
//   - It leaves nothing behind. When [Client.Close] returns, its goroutines and connections are gone.
//
// All methods may be called concurrently, but [Client.Events] and [Client.Next] from one goroutine at a time, if the order of events
// is to mean something. What a client keeps is in memory: over a restart of its process only [WithSession] and [WithSince] carry
// what the caller has stored.
package hubclient

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/chathub-go/hub/internal/wire"
)

// A Client is a member of a room, over as many connections as it takes. [Dial] makes one.
type Client struct {
	o      options
	url    *url.URL
	events *queue
	places *semaphore.Weighted // of the outbox

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wake   chan struct{} // has a value when the connection's goroutine may have something to do
	ended  chan struct{} // closed when the client has ended, for good
	done   chan struct{} // closed when its goroutines are gone too
	first  chan struct{} // closed with the first welcome

	mu       sync.Mutex // guards what follows; never held over I/O or a wait
	err      error      // why it ended
	closed   bool       // by Close
	welcomed bool       // first is closed
	session  string
	user     string
	name     string
	home     string // the URL's room, once known
	link     *link  // nil while there is none
	rooms    map[string]*room
	outbox   outbox
	requests []*request
	typing   map[string]bool // to be told to the server
	notFor   time.Duration   // what the server asked for, before the next connection
}

// Dial connects to a room. url is where the service has the room: ws, wss, http or https. It returns when the server has let the
// client in. Without [WithDialRetry] one attempt is made, of at most 20 s. ctx is that of Dial alone.
//
// The error is a [*HandshakeError] where the server answered with something else than a connection.
func Dial(ctx context.Context, url string, opts ...Option) (*Client, error) {
	u, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	c := &Client{
		o: newOptions(opts), url: u,
		wake: make(chan struct{}, 1), ended: make(chan struct{}), done: make(chan struct{}), first: make(chan struct{}),
		rooms: make(map[string]*room), typing: make(map[string]bool),
	}
	c.o.since = cmp.Or(c.o.since, u.Query().Get("since"))
	c.session = cmp.Or(c.o.session, u.Query().Get("session"))
	c.places = semaphore.NewWeighted(int64(c.o.outboxBytes))
	c.outbox = outbox{byID: make(map[string]*Publication), rooms: c.inRoom}
	c.events = newQueue(&c.o, c.ended, c.wake)
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if c.o.http == nil {
		c.o.http = &http.Client{} // with http.DefaultTransport, where that was replaced
		if t, ok := http.DefaultTransport.(*http.Transport); ok {
			t = t.Clone()
			t.DisableKeepAlives = true // a refused handshake leaves nothing behind
			c.o.http.Transport = t
		}
	}

	var wg sync.WaitGroup
	wg.Go(c.run)
	select {
	case <-c.first:
	case <-c.ended:
		if !c.wasWelcomed() { // and sent away
			err = c.Err()
		}
	case <-ctx.Done():
		err = fmt.Errorf("hubclient: dial: %w", ctx.Err())
	}
	if err != nil {
		_ = c.Close()
		wg.Wait()
		close(c.done)
		return nil, err
	}
	if c.o.callback != nil { // from here on: it may wait for what Dial returns
		wg.Go(c.callback)
	}
	go func() {
		wg.Wait()
		close(c.done)
	}()
	return c, nil
}

// callback hands out the events.
func (c *Client) callback() {
	for {
		e, err := c.events.next(context.Background())
		if err != nil {
			return
		}
		c.o.callback(e)
	}
}

func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("hubclient: %w", err)
	}
	switch u.Scheme {
	case "ws", "wss", "http", "https":
	default:
		return nil, fmt.Errorf("hubclient: url %q: the scheme must be ws, wss, http or https", s)
	}
	if u.Host == "" {
		return nil, fmt.Errorf("hubclient: url %q has no host", s)
	}
	return u, nil
}

// Publish sends a message and waits for its receipt. If the context ends first, the error wraps the context's, and
//
//   - [ErrOutboxFull] or [ErrNotSent]: the message was not sent, and won't be;
//   - [ErrUncertain]: it was sent, or another call has published it too, and it stays in the outbox until its outcome is known. To
//     publish it again with the same ID and payload is to wait for it again.
//
// Other errors: [*Error], the server refused it for good; [ErrUncertain], it was sent and its outcome will not be known;
// [ErrClosed] with [ErrNotSent] or ErrUncertain; a message that is malformed.
func (c *Client) Publish(ctx context.Context, m Message) (Receipt, error) {
	p, err := c.publish(ctx, m)
	if err != nil {
		return Receipt{}, err
	}
	select {
	case <-p.done:
		return p.Result()
	case <-ctx.Done():
		return c.abandon(p, ctx.Err())
	}
}

// PublishAsync puts a message into the outbox, which may mean to wait for a place, and returns. Messages of one goroutine to one room are
// sent, and kept by the server, in the order of these calls; those to a room that is still to be joined again do not hold up
// others. Its errors are [ErrOutboxFull], [ErrClosed], [ErrNotSent] where ctx has ended before,
// [ErrIDReused], and a message that is malformed or larger than the server takes.
func (c *Client) PublishAsync(ctx context.Context, m Message) (*Publication, error) {
	return c.publish(ctx, m)
}

// ID returns the message's ID.
func (p *Publication) ID() string { return p.id }

// Done returns a channel that is closed when the outcome is known.
func (p *Publication) Done() <-chan struct{} { return p.done }

// Result returns the outcome, as [Client.Publish] does. Before Done is closed it waits.
func (p *Publication) Result() (Receipt, error) {
	<-p.done
	return p.receipt, p.err
}

// Wait waits for the outcome, or until ctx ends, which changes nothing for the message.
func (p *Publication) Wait(ctx context.Context) (Receipt, error) {
	select {
	case <-p.done:
		return p.Result()
	case <-ctx.Done():
		return Receipt{}, ctx.Err()
	}
}

func (c *Client) publish(ctx context.Context, m Message) (*Publication, error) {
	if m.ID == "" {
		m.ID = rand.Text()
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	c.mu.Lock()
	home := c.home
	c.mu.Unlock()
	cmd, err := m.command(home)
	if err != nil {
		return nil, err
	}
	p := &Publication{
		c: c, id: m.ID, room: cmd.Room, direct: m.To.Client != "" || m.To.User != "",
		command: wire.AppendCommand(nil, cmd), done: make(chan struct{}), wanted: 1,
	}
	c.mu.Lock()
	same, err := c.same(p)
	c.mu.Unlock()
	if same != nil || err != nil {
		return same, err
	}
	if err := c.acquire(ctx, p); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if same, err = c.same(p); same != nil || err != nil { // another call was faster
		c.places.Release(c.weight(p))
		return same, err
	}
	if c.err != nil || c.closed {
		c.places.Release(c.weight(p))
		return nil, fmt.Errorf("%w: %w", ErrNotSent, ErrClosed)
	}
	c.outbox.add(p)
	signal(c.wake)
	return p, nil
}

// same returns the message with p's ID that is in the outbox already. c.mu is held: until p is in it, where there is none.
func (c *Client) same(p *Publication) (*Publication, error) {
	if err := c.fits(p); err != nil {
		return nil, err
	}
	old := c.outbox.byID[p.id]
	if old == nil {
		return nil, nil
	}
	if !old.same(p.command) {
		return nil, ErrIDReused
	}
	old.wanted++
	return old, nil
}

// fits refuses what the server would close the connection for. c.mu is held.
func (c *Client) fits(p *Publication) *Error {
	if most := c.outbox.limits.MessageBytes; most > 0 && int64(len(p.command)) > most {
		return &Error{ID: p.id, Room: p.room, Code: wire.CodeTooLarge,
			Message: fmt.Sprintf("longer than the server takes (%d bytes)", most)}
	}
	return nil
}

// weight is what p takes of places: all of the bytes are as much as all of the messages.
func (c *Client) weight(p *Publication) int64 {
	return int64(min(max(p.size(), c.o.outboxBytes/c.o.outboxMessages), c.o.outboxBytes))
}

// acquire waits for a place in the outbox, behind those who came before.
func (c *Client) acquire(ctx context.Context, p *Publication) error {
	if c.places.TryAcquire(c.weight(p)) {
		return nil
	}
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(c.ctx, stop)() // Close, or the end
	if err := c.places.Acquire(waiting, c.weight(p)); err == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrOutboxFull, err)
	}
	return fmt.Errorf("%w: %w", ErrNotSent, ErrClosed)
}

// abandon is what Publish does when its context ends first.
func (c *Client) abandon(p *Publication, cause error) (Receipt, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-p.done:
		return p.receipt, p.err
	default:
	}
	if p.wanted--; p.wanted == 0 && p.sentAt.IsZero() {
		err := fmt.Errorf("%w: %w", ErrNotSent, cause)
		c.resolve(p, Receipt{}, err)
		return Receipt{}, err
	}
	return Receipt{}, fmt.Errorf("%w: %w", ErrUncertain, cause)
}

// resolve ends p. c.mu is held.
func (c *Client) resolve(p *Publication, r Receipt, err error) {
	c.outbox.remove(p)
	c.places.Release(c.weight(p))
	p.receipt, p.err = r, err
	p.command = nil
	close(p.done)
}

// Flush waits until the outbox is empty: each message in it was acked, refused or given up.
func (c *Client) Flush(ctx context.Context) error {
	c.mu.Lock()
	if len(c.outbox.list) == 0 {
		c.mu.Unlock()
		return nil
	}
	if c.outbox.idle == nil {
		c.outbox.idle = make(chan struct{})
	}
	idle := c.outbox.idle
	c.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("hubclient: flush: %w", ctx.Err())
	}
}

// Events returns the client's events, as they come. It ends when the client has ended and all events that came before were taken;
// after [Client.Close] at once. Who stops early may call it again.
//
// Who takes no events is waited for: at the bounds of [WithQueue] the socket is not read any more, and the server then treats the client as
// a slow one. If an answer is waited for meanwhile, to a publish say, the client reads on after a second, lets the events go by
// ([ErrLagged]), and has the rooms' messages sent again, on a new connection, once the caller has taken what is queued.
func (c *Client) Events() iter.Seq[Event] {
	return func(yield func(Event) bool) {
		for {
			e, err := c.Next(context.Background())
			if err != nil || !yield(e) {
				return
			}
		}
	}
}

// Next waits for the next event. It returns io.EOF at the end of [Client.Events].
func (c *Client) Next(ctx context.Context) (Event, error) {
	if c.o.callback != nil {
		return Event{}, errors.New("hubclient: the events go to the callback")
	}
	e, err := c.events.next(ctx)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("hubclient: next: %w", err)
	}
	return e, err
}

// Session returns the secret by which the server knows a guest, for [WithSession]; "" where it knows its users.
func (c *Client) Session() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session
}

// User returns who the client is.
func (c *Client) User() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.user
}

// Name returns the name that others see.
func (c *Client) Name() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.name
}

// Room returns the name of the URL's room.
func (c *Client) Room() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.home
}

// Rooms returns the rooms that the client is in, or goes back to when it is connected again.
func (c *Client) Rooms() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	for name, r := range c.rooms {
		if r.wanted && r.hello != nil {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// Close ends the client: it says goodbye to the server, which takes 2 s at most, and waits for the client's goroutines, but for a
// callback that is running. What is in the outbox is given up, with [ErrClosed] and [ErrNotSent] or [ErrUncertain]: call [Client.Flush] before.
// Events that were not taken are dropped. To call it again waits, too.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = c.closed || c.err == nil
	c.mu.Unlock()
	c.cancel()
	<-c.ended
	c.events.drop()
	return nil
}

// Done returns a channel that is closed when the client has ended, by Close or by the server, and its goroutines with the callback's
// last call are gone.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why the client has ended: nil while it has not, and where Close ended it; else a [*CloseError] or a [*HandshakeError].
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	return c.err
}
