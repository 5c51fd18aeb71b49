// Package hub gives a Go service chat rooms over WebSocket: people join, talk,
// leave, drop off the network, come back, and miss nothing.
//
//	h := hub.New()
//	http.Handle("/room/{room}", h)
//	log.Fatal(http.ListenAndServe(":8000", nil))
//
// A client connects to ws://host:8000/room/lobby?name=alice. It speaks plain text, one
// line a message, or, with the subprotocol hub.v1.json, JSON with acks, cursors and
// presence; docs/protocol.md specifies both. A service that knows its users says who
// a client is:
//
//	room.NewClient(hub.WithUser(u.ID), hub.WithName(u.Name)).ServeHTTP(w, r)
//
// # Promises
//
//   - Order: the members of a room see its messages in one order, that of their seq.
//     One publisher's messages keep the order in which it sent them.
//   - Once: a publish repeated with the same id, by the same user, has one effect.
//   - Resume with a verdict: a client that comes back with its cursor gets every
//     message after it exactly once, and is told whether that worked (recovered), what is
//     no longer kept (gap), or that the history is another one (reset).
//   - Acked means kept, against the failures that the broker in use documents.
//   - Bounded: what a client, a room and the hub hold in memory is bounded, by options
//     with stated defaults. A stalled client delays nobody else.
//   - Nobody's input hurts others: what reaches a member is valid for it, and a panic in a
//     callback of the service closes that one client.
//   - Nothing is left behind: when [Hub.Shutdown] has returned, no goroutine, timer or
//     connection of the hub is left.
//
// # Concurrency
//
// All methods of [Hub], [Room] and [Client] may be called concurrently, and from every
// callback, but for Shutdown and Room.Close: they wait for callbacks to return.
// Callbacks run outside every lock, on a goroutine of the client they are about.
package hub

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	mrand "math/rand/v2"
	"net/http"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/internal/catchup"
	"github.com/chathub-go/hub/internal/fanout"
	"github.com/chathub-go/hub/internal/room"
	"github.com/chathub-go/hub/internal/wire"
	"github.com/chathub-go/hub/internal/wsconn"
)

var (
	// ErrClosed means that the hub was shut down, or that the client has gone.
	ErrClosed = errors.New("hub: closed")
	// ErrRoomClosed means that the room's handle was closed.
	ErrRoomClosed = errors.New("hub: room closed")
	// ErrName means that a room's name is not valid.
	ErrName = errors.New("hub: invalid room name")
	// ErrNoRoom is for [WithAuthorize] to say that there is no such room: the
	// request gets 404.
	ErrNoRoom = errors.New("hub: no such room")
	// ErrServed is logged, and answered with 500, where a client is given a second request.
	ErrServed = errors.New("hub: client has served a request before")
	// ErrSlowClient means that a client's queue is full.
	ErrSlowClient = errors.New("hub: client is too slow")
	// ErrHandled is for [WithHandler] to say that it has dealt with a message, which
	// is then not published.
	ErrHandled = errors.New("hub: message handled")
	// ErrIDReused means that a message's ID was used for another payload.
	ErrIDReused = broker.ErrIDReused

	errForbidden    = errors.New("hub: not allowed")
	errHandshake    = errors.New("hub: not a valid WebSocket handshake")
	errPanic        = errors.New("hub: a callback failed")
	errTooMany      = errors.New("hub: too many connections")
	errTooManyRooms = errors.New("hub: too many rooms are open")
	errTooMuchWaits = errors.New("hub: too much waits for clients")
)

// The close codes that the hub uses (RFC 6455 section 7.4.1 and its registry).
const (
	CodeNormal    = 1000
	CodeGoingAway = 1001          // the room was closed
	CodeProtocol  = 1002          // the frames were not valid
	codeNone      = 1005          // never sent: a close frame without a code
	CodeLost      = 1006          // never sent: the connection was lost
	CodeNotUTF8   = 1007          // a text message was not UTF-8
	CodePolicy    = 1008          // kick, ban, limits: not to come back
	CodeTooBig    = 1009          // a message was larger than the limit
	CodeInternal  = 1011          // a callback panicked, or the history could not be read
	CodeRestart   = 1012          // the hub shuts down
	CodeSlow      = room.CodeSlow // too slow; may resume
)

// A CloseError is how a connection ended.
type CloseError struct {
	Code   int
	Reason string
	Remote bool // the client's own close frame
}

func (e *CloseError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("hub: connection closed with %d", e.Code)
	}
	return fmt.Sprintf("hub: connection closed with %d: %s", e.Code, e.Reason)
}

// A Refusal is for [WithHandler] to refuse a message with words for its client.
// It is final for that message: the client will not send it again by itself.
type Refusal struct {
	Message string // what the client is told
}

func (e *Refusal) Error() string { return "hub: refused: " + e.Message }

// badRequest is what the request itself has wrong.
type badRequest struct{ err error }

func (e *badRequest) Error() string { return e.err.Error() }

// closeCode is for a client that could not be let in after its upgrade.
func closeCode(err error) int {
	if errors.Is(err, ErrClosed) || errors.Is(err, ErrRoomClosed) || errors.Is(err, room.ErrClosing) || errors.Is(err, room.ErrFull) {
		return CodeRestart
	}
	return CodeInternal
}

// refuse answers a request that does not become a connection.
func refuse(w http.ResponseWriter, err error) {
	var bad *badRequest
	status, text := http.StatusServiceUnavailable, "the server is at a bound: try again"
	switch {
	case errors.As(err, &bad):
		status, text = http.StatusBadRequest, strings.ReplaceAll(bad.Error(), "hub: ", "")
	case errors.Is(err, ErrName):
		status, text = http.StatusBadRequest, strings.TrimPrefix(err.Error(), "hub: ")
	case errors.Is(err, ErrNoRoom):
		status, text = http.StatusNotFound, "no such room"
	case errors.Is(err, errForbidden):
		status, text = http.StatusForbidden, "not allowed"
	case errors.Is(err, errPanic):
		status, text = http.StatusInternalServerError, "internal error"
	case errors.Is(err, errTooMany):
		status, text = http.StatusTooManyRequests, "too many connections: try again"
	case errors.Is(err, ErrClosed), errors.Is(err, ErrRoomClosed), errors.Is(err, room.ErrClosing):
		text = "shutting down: try again"
	}
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", strconv.Itoa(1+mrand.IntN(5))) // apart, so that they don't all come at once
	}
	http.Error(w, text, status)
}

// A Hub is a set of rooms with one broker. It is an [http.Handler] that lets clients
// into the room of the URL: the path value {room} where the pattern has one, the last
// element of the path otherwise.
type Hub struct {
	cfg        config
	roomConfig *config // what rooms begin with
	broker     broker.Broker
	ownBroker  bool
	reader     *catchup.Reader
	node       string

	budget *wsconn.Budget // of what waits for clients

	inflight  atomic.Int64  // publishes under way
	refusing  atomic.Bool   // no publish may begin any more
	quiet     chan struct{} // closed when refusing and none is under way
	calm      sync.Once     // closes quiet
	published atomic.Uint64
	slow      atomic.Uint64
	counts    room.Counts
	readers   wsconn.Readers
	farewells room.Farewells

	goroutines sync.WaitGroup
	ctx        context.Context // ends when the last client has gone: the room loops, the sweeper
	stop       context.CancelFunc

	mu      sync.Mutex // guards what follows
	state   state
	rooms   map[string]*roomRef
	held    map[*Room]struct{} // open, or with options of their own: others live as long as somebody holds them
	open    int                // rooms with a loop
	clients map[*Client]struct{}
	pool    *fanout.Pool  // with the first client
	lease   broker.Lease  // with the first room
	gone    chan struct{} // closed when draining and the last client has gone
	shut    chan struct{} // closed when Shutdown is done
}

type state uint8

const (
	serving state = iota
	draining
	closed
)

// New returns a hub. It starts no goroutine before its first client.
func New(opts ...HubOption) *Hub {
	cfg := defaults()
	for _, o := range opts {
		o.applyToHub(&cfg)
	}
	h := &Hub{
		cfg:     cfg,
		broker:  cfg.broker,
		node:    rand.Text(),
		budget:  wsconn.NewBudget(cfg.queueTotal),
		rooms:   map[string]*roomRef{},
		held:    map[*Room]struct{}{},
		clients: map[*Client]struct{}{},
		quiet:   make(chan struct{}),
		gone:    make(chan struct{}),
		shut:    make(chan struct{}),
	}
	h.ctx, h.stop = context.WithCancel(context.Background())
	if h.broker == nil {
		h.ownBroker = true
		h.broker = broker.NewMemory(
			broker.WithRetention(cfg.history, cfg.historyAge),
			broker.WithRooms(max(cfg.maxRooms, 100_000)),
			broker.WithDedup(cfg.dedupWindow, 1_000_000),
		)
	} else {
		need(!cfg.historySet, "WithHistory is for the in-memory broker: with WithBroker, the broker has its own retention")
	}
	h.reader = catchup.NewReader(h.broker)
	rooms := h.cfg
	rooms.historySet = false
	h.roomConfig = rooms.ready()
	return h
}

// NewRoom returns a room with a hub of its own, for a service that needs just one.
// [Room.Close] shuts that hub down. It panics if the name is not valid.
func NewRoom(name string, opts ...RoomOption) *Room {
	r, err := New().Room(name, opts...)
	if err != nil {
		panic(err)
	}
	r.ownHub = true
	return r
}

// Room returns the room of that name, 1 to 64 bytes of printable UTF-8 without "/"
// and without a space at either end. A room need not be made: it is there whenever
// somebody uses it. Options are for a room that is not open now; it then keeps them until
// it is closed, or until they are set again. Set those that matter before the hub serves.
func (h *Hub) Room(name string, opts ...RoomOption) (*Room, error) {
	if err := wire.ValidRoom(name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrName, err)
	}
	cfg := h.roomConfig // shared by all rooms without options of their own
	if len(opts) > 0 {
		own := *cfg
		for _, o := range opts {
			o.applyToRoom(&own)
		}
		cfg = own.ready()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state != serving {
		return nil, ErrClosed
	}
	ref := h.rooms[name]
	r := ref.room()
	if r != nil && len(opts) == 0 {
		return r, nil
	}
	if r != nil && ref.loops > 0 {
		return nil, fmt.Errorf("hub: room %q is open: its options can't be set now", name)
	}
	if cfg.historySet {
		m, ok := h.broker.(interface {
			Retention(room string) (messages int, age time.Duration)
			SetRetention(room string, messages int, age time.Duration) error
		})
		need(ok, "WithHistory is for the in-memory broker: with WithBroker, the broker has its own retention")
		messages, age := m.Retention(name)
		if err := m.SetRetention(name, cfg.history, cfg.historyAge); err != nil {
			return nil, fmt.Errorf("hub: room %q: %w", name, err)
		}
		if cfg.unsetHistory == nil { // on closing; not where it is set again
			cfg.unsetHistory = func() { _ = m.SetRetention(name, messages, age) }
		}
	}
	if r == nil {
		r = &Room{hub: h, name: name}
		ref = newRoomRef(r)
		h.rooms[name] = ref
	} else if was := r.config(); was.unsetHistory != nil {
		cfg.unsetHistory = was.unsetHistory
	}
	r.cfg.Store(cfg)
	if len(opts) > 0 {
		ref.pinned = true
		h.held[r] = struct{}{}
	}
	return r, nil
}

// Rooms yields the rooms that are open on this process: those with a client, or with one
// a moment ago.
func (h *Hub) Rooms() iter.Seq[*Room] {
	return func(yield func(*Room) bool) {
		for _, r := range h.openRooms() {
			if !yield(r) {
				return
			}
		}
	}
}

func (h *Hub) openRooms() []*Room {
	h.mu.Lock()
	defer h.mu.Unlock()
	rooms := make([]*Room, 0, h.open)
	for r := range h.held {
		if ref := h.rooms[r.name]; ref.room() == r && ref.loops > 0 {
			rooms = append(rooms, r)
		}
	}
	return rooms
}

// ServeHTTP lets a client into the room of the URL, under a guest name or that of the
// query. It answers 400 where there is no valid room name.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("room")
	if name == "" {
		name = path.Base(r.URL.Path)
	}
	h.mu.Lock()
	rm := h.rooms[name].room()
	h.mu.Unlock()
	if rm == nil {
		// No handle for what is no handshake: the first room of that name is another's.
		if !wsconn.Check(w, r, h.cfg.handshake()) {
			return
		}
		var err error
		if rm, err = h.Room(name); err != nil {
			refuse(w, err)
			return
		}
	}
	rm.ServeHTTP(w, r)
}

// Stats are counts of one process.
type Stats struct {
	Clients   int    // connected now
	Rooms     int    // open now
	Published uint64 // messages that were kept, since the hub was made
	Batches   uint64 // offered to clients by the fan-out, of one message or more, since the hub was made
	Slow      uint64 // clients closed for being slow, since the hub was made
	Encoded   uint64 // messages and signals encoded: one for each door that needed it
	Deflated  uint64 // of those, made smaller for clients with compression
	Queued    int    // bytes that wait for clients now, as WithQueueTotal counts them
}

// Stats returns the counts of this moment.
func (h *Hub) Stats() Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := Stats{
		Clients:   len(h.clients),
		Rooms:     h.open,
		Published: h.published.Load(),
		Slow:      h.slow.Load(),
		Encoded:   h.counts.Encoded.Load(),
		Deflated:  h.counts.Deflated.Load(),
		Queued:    h.budget.Used(),
	}
	if h.pool != nil {
		s.Batches = h.pool.Sent()
	}
	return s
}

// Shutdown ends the hub in good order: nobody is let in any more (503) and publishes
// are refused; what was accepted reaches its members; they are told that the hub goes
// away, and JSON clients when to come back (drain); then every client gets a close frame
// with 1012, and Shutdown waits until all have gone and no goroutine of the hub is left. If
// ctx ends first, the remaining connections are cut, and its error is returned once nothing
// is left. Other calls wait for the first. It must not be called from a callback.
func (h *Hub) Shutdown(ctx context.Context) error {
	h.mu.Lock()
	if h.state != serving {
		h.mu.Unlock()
		select {
		case <-h.shut:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	h.state = draining
	h.refusing.Store(true)
	if h.inflight.Load() == 0 {
		h.calm.Do(func() { close(h.quiet) })
	}
	if len(h.clients) == 0 {
		close(h.gone)
	}
	h.mu.Unlock()
	defer close(h.shut)

	select {
	case <-h.quiet:
	case <-ctx.Done():
	}
	drained, cancel := context.WithTimeout(ctx, h.cfg.publishTimeout) // a broker may never hand out what it has
	h.drainRooms(drained)
	cancel()
	for _, c := range h.snapshot() {
		c.drain()
		c.Close(CodeRestart, "server is restarting")
	}
	select {
	case <-h.gone:
	case <-ctx.Done():
		h.reader.Cancel()
		for _, c := range h.snapshot() {
			c.abort()
		}
		<-h.gone
	}
	err := ctx.Err()

	h.stop()
	h.goroutines.Wait()
	h.reader.Close()
	h.readers.Close()
	h.mu.Lock()
	h.state = closed
	clear(h.rooms)
	clear(h.held)
	lease, pool := h.lease, h.pool
	h.mu.Unlock()
	if pool != nil {
		pool.Close()
	}
	if lease != nil {
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseTimeout)
		err = errors.Join(err, lease.Close(release))
		cancel()
	}
	if h.ownBroker {
		err = errors.Join(err, h.broker.Close())
	}
	return err
}

// leaseTimeout bounds what Shutdown waits for the broker to take back the process's
// presence, after its own context has ended perhaps.
const leaseTimeout = 5 * time.Second

// drainRooms waits until what was kept is on its way to every member.
func (h *Hub) drainRooms(ctx context.Context) {
	var wg sync.WaitGroup
	for _, r := range h.openRooms() {
		l := r.current()
		if l == nil {
			continue
		}
		wg.Add(1)
		h.goroutines.Go(func() {
			defer wg.Done()
			head, err := h.broker.Head(ctx, r.name)
			if err != nil {
				return
			}
			done := make(chan struct{})
			if l.Drain(ctx, head, func() { close(done) }) != nil {
				return
			}
			select {
			case <-done:
			case <-l.Done():
			case <-ctx.Done():
			}
		})
	}
	wg.Wait()
}

func (h *Hub) snapshot() []*Client {
	h.mu.Lock()
	defer h.mu.Unlock()
	clients := make([]*Client, 0, len(h.clients))
	for c := range h.clients {
		clients = append(clients, c)
	}
	return clients
}

// admit counts a client in, and starts what the first one needs.
func (h *Hub) admit(c *Client) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state != serving {
		return ErrClosed
	}
	if len(h.clients) >= h.cfg.maxClients {
		return errTooMany
	}
	if h.budget.Spent() {
		return errTooMuchWaits
	}
	if h.pool == nil {
		h.pool = fanout.NewPool(0)
		h.goroutines.Go(h.sweep)
	}
	h.clients[c] = struct{}{}
	return nil
}

// release is the end of an admitted client: none of its goroutines is left.
func (h *Hub) release(c *Client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.clients, c)
	if h.state == draining && len(h.clients) == 0 {
		close(h.gone)
	}
}

// begin counts a publish in; each is ended with end.
func (h *Hub) begin() error {
	h.inflight.Add(1)
	if h.refusing.Load() {
		h.end()
		return ErrClosed
	}
	return nil
}

func (h *Hub) end() {
	if h.inflight.Add(-1) == 0 && h.refusing.Load() {
		h.calm.Do(func() { close(h.quiet) })
	}
}

// sweepPhases are the moments of a tick at which the sweeper looks at some of the clients:
// those that came in one moment are not pinged in one moment.
const sweepPhases = 32

// sweep looks for silent clients, at each once a tick, and for those that hold too much of
// what may wait, until the hub ends. One goroutine does it for all: a client at rest has no
// timer.
func (h *Hub) sweep() {
	tick := max(h.cfg.pingAfter/8, time.Millisecond)
	phases := min(sweepPhases, tick/time.Millisecond)
	t := time.NewTicker(tick / phases)
	defer t.Stop()
	clients := make([][]*Client, phases)
	for phase := 0; ; phase = (phase + 1) % len(clients) {
		select {
		case now := <-t.C:
			if phase == 0 {
				for _, c := range h.snapshot() {
					i := c.phase % uint32(phases)
					clients[i] = append(clients[i], c)
				}
			}
			for _, c := range clients[phase] {
				c.sweep(now, tick)
			}
			clients[phase] = nil
			h.relieve() // what was begun may have kept it from getting far
		case <-h.budget.Pressed():
			h.relieve()
		case <-h.ctx.Done():
			return
		}
	}
}

// relieve makes room where too much waits for clients.
func (h *Hub) relieve() {
	closed := h.budget.Relieve(func(yield func(*wsconn.Conn) bool) {
		for _, c := range h.snapshot() {
			if conn := c.connection(); conn != nil && !yield(conn) {
				return
			}
		}
	}, CodeSlow, room.TooSlow)
	h.slow.Add(uint64(closed))
}

// tryOpen is openLoop; a broker's panic is an error.
func (h *Hub) tryOpen(ctx context.Context, r *Room) (l *room.Loop, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("hub: room %q could not be opened: panic: %v", r.name, p)
			h.cfg.logger.Error("hub: panic in the broker", "room", r.name, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	return h.openLoop(ctx, r)
}

// openLoop opens a room's loop. It is called by one goroutine a room at a time.
func (h *Hub) openLoop(ctx context.Context, r *Room) (*room.Loop, error) {
	h.mu.Lock()
	ref := h.rooms[r.name]
	switch {
	case h.state != serving:
		h.mu.Unlock()
		return nil, ErrClosed
	case ref == nil || ref.room() != r:
		h.mu.Unlock()
		return nil, ErrRoomClosed
	case h.open >= h.cfg.maxRooms:
		h.mu.Unlock()
		return nil, errTooManyRooms
	}
	if h.pool == nil { // asked for its members before any client came
		h.pool = fanout.NewPool(0)
		h.goroutines.Go(h.sweep)
	}
	h.open++
	ref.loops++
	h.held[r] = struct{}{}
	pool, lease := h.pool, h.lease
	h.goroutines.Add(1) // until the loop has a goroutine of its own, or it is known that there will be none
	h.mu.Unlock()

	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(h.ctx, cancel)()
	defer cancel()
	opened := false
	defer func() {
		if !opened { // also where the broker panics
			h.retired(r)
		}
		h.goroutines.Done()
	}()
	l, err := h.subscribe(ctx, r, pool, lease)
	if err != nil {
		return nil, err
	}
	opened = true
	l.Start(func() {
		r.drop(l)
		h.retired(r)
	})
	return l, nil
}

func (h *Hub) subscribe(ctx context.Context, r *Room, pool *fanout.Pool, lease broker.Lease) (*room.Loop, error) {
	if lease == nil {
		var err error
		if lease, err = h.takeLease(ctx); err != nil {
			return nil, err
		}
	}
	cfg := r.config()
	return room.Open(ctx, room.Config{
		Name:         r.name,
		Broker:       h.broker,
		Lease:        lease,
		Farewells:    &h.farewells,
		Pool:         pool,
		Text:         cfg.text.f,
		Compress:     cfg.compress,
		Counts:       &h.counts,
		MaxMembers:   cfg.maxMembers,
		ResumeWindow: cfg.resumeWindow,
		Idle:         cfg.idleAfter,
		Logger:       cfg.logger,
		Go:           h.goroutines.Go,
		Stop:         h.ctx.Done(),
		Retire:       r.retire,
		Failed:       r.failed,
	})
}

// takeLease opens the process's presence. Two rooms may try at once: the first lease
// stays, the other is closed.
func (h *Hub) takeLease(ctx context.Context) (broker.Lease, error) {
	lease, err := h.broker.Lease(ctx, h.node+"-"+rand.Text()[:4])
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lease == nil {
		h.lease = lease
		return lease, nil
	}
	h.goroutines.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), leaseTimeout)
		defer cancel()
		if err := lease.Close(ctx); err != nil {
			h.cfg.logger.Warn("hub: spare presence lease could not be closed", "err", err)
		}
	})
	return h.lease, nil
}

// retired is the end of a room's loop.
func (h *Hub) retired(r *Room) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open--
	ref := h.rooms[r.name]
	if ref.room() != r {
		delete(h.held, r) // it was closed
		return
	}
	if ref.loops--; ref.loops == 0 && !ref.pinned {
		delete(h.held, r)
	}
}

// dedupWindow is for how long the broker remembers ids; 0 where it does not say.
func (h *Hub) dedupWindow() time.Duration {
	if b, ok := h.broker.(interface{ DedupWindow() time.Duration }); ok {
		return b.DedupWindow()
	}
	return 0
}

// history is how many messages the broker keeps of a room; 0 where it does not say.
func (h *Hub) history(room string) int {
	b, ok := h.broker.(interface {
		Retention(room string) (messages int, age time.Duration)
	})
	if !ok {
		return 0
	}
	n, _ := b.Retention(room)
	return n
}
