package hub

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	mrand "math/rand/v2"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/internal/deadline"
	"github.com/chathub-go/hub/internal/gate"
	"github.com/chathub-go/hub/internal/room"
	"github.com/chathub-go/hub/internal/wire"
	"github.com/chathub-go/hub/internal/wsconn"
)

// A Client is one connection, on the server's side. [Room.NewClient] makes it, and its
// ServeHTTP serves one request.
type Client struct {
	hub    *Hub
	room   *Room   // of the URL
	cfg    *config // not the client's own where it has no options
	served atomic.Bool
	busy   atomic.Int64 // when its reader last went back to reading, as UnixNano; -1: it is not reading
	done   chan struct{}

	callback chan struct{} // holds a value while OnJoin or OnLeave runs

	// Set by ServeHTTP before the client's first goroutine, and then not changed.
	who     Member // under mu too: ID, User and Name may be called at any time
	session string // secret; "" where the service gave the user
	query   wire.Query
	door    int
	key     uint32 // chooses the fan-out's worker
	phase   uint32 // when in a tick the sweeper looks at it

	// The reading goroutine only.
	gate  *gate.Gate
	keyed bool // key is chosen

	// The sweeper only.
	pinged  time.Time // silence since when was answered with a ping
	writing time.Time // when something was last seen to wait for the socket

	settling sync.WaitGroup // catch-ups

	mu      sync.Mutex // guards what follows
	ctx     context.Context
	cancel  context.CancelCauseFunc
	conn    *wsconn.Conn // nil before the upgrade
	closing *CloseError  // what Close was called with first
	cut     bool
	stays   map[string]*stay
	entered bool // has had a welcome
	err     error
}

// A stay is a client's membership of a room, from before it is let in until the service
// was told that it left.
type stay struct {
	c      *Client
	r      *Room
	cfg    *config // the room's
	loop   *room.Loop
	m      *room.Member
	home   bool // the room of the URL
	ctx    context.Context
	cancel context.CancelFunc

	settled chan struct{} // closed when it is live, or never will be, and OnJoin has returned
	told    bool          // OnJoin was called; set before settled is closed
	leaving bool          // under the client's mu
	gone    chan struct{} // closed when it has left and OnLeave has returned
}

// ServeHTTP upgrades the request and makes the client a member of its room. It returns
// after the upgrade, unless [WithBlocking] is set: Done and Err tell the rest. A client
// serves one request; another one gets 500.
//
// It answers without an upgrade: 400 for a request that is not a valid WebSocket
// handshake, an invalid name, cursor or subprotocol; 403 for a foreign origin, or where
// [WithAuthorize] refuses; 404 where that says [ErrNoRoom]; 426 for a plain request; 429
// at [WithMaxClients]; 501 where the server can't hand over the connection; 503, with
// Retry-After, while shutting down or at another bound.
func (c *Client) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !c.served.CompareAndSwap(false, true) {
		c.cfg.logger.Error("hub: a client was given a second request")
		http.Error(w, ErrServed.Error(), http.StatusInternalServerError)
		return
	}
	// net/http ends the request's context when this returns; the client lives on.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(r.Context()))
	c.mu.Lock()
	early := c.cancel
	c.ctx, c.cancel = ctx, cancel
	if early != nil { // somebody has that context
		c.cancel = func(cause error) { cancel(cause); early(cause) }
	}
	if c.closing != nil { // Close came first
		cancel(c.closing)
	}
	c.mu.Unlock()

	st, err := c.accept(w, r)
	if err != nil {
		c.end(err)
		return
	}
	c.hub.goroutines.Go(func() { c.run(st) })
	if c.cfg.blocking {
		<-c.done
	}
}

// accept does all that may refuse the request, then the upgrade. Where it fails, w was
// answered.
func (c *Client) accept(w http.ResponseWriter, r *http.Request) (_ *stay, err error) {
	opts := c.cfg.handshake()
	opts.Readers = &c.hub.readers
	opts.Budget = c.hub.budget
	opts.GapFrame = func(stream any, after, before uint64, missed int) *wsconn.Frame {
		return room.GapFrame(c.door)(stream, after, before, missed)
	}
	if !wsconn.Check(w, r, opts) {
		return nil, errHandshake
	}
	if err = c.identify(r); err != nil {
		refuse(w, err)
		return nil, err
	}
	if err = c.hub.admit(c); err != nil {
		refuse(w, err)
		return nil, err
	}
	done := false
	defer func() {
		if !done { // also where the server's ResponseWriter panics
			c.hub.release(c)
		}
	}()
	if err = c.authorize(c.room); err != nil {
		refuse(w, err)
		return nil, err
	}
	st := c.newStay(c.room, true)
	if err = st.reserveFor(r.Context()); err != nil {
		st.cancel()
		refuse(w, err)
		return nil, err
	}
	defer func() {
		if !done {
			st.cancel()
			st.loop.Free()
		}
	}()
	conn, err := wsconn.Accept(w, r, opts)
	if err != nil {
		return nil, err
	}
	if conn.Subprotocol() != "" {
		c.door = room.JSON
	}
	c.mu.Lock()
	c.conn = conn
	closing, cut := c.closing, c.cut
	c.mu.Unlock()
	if closing != nil { // Close came first
		conn.Close(closing.Code, closing.Reason)
	}
	if cut {
		conn.Abort()
	}
	done = true
	return st, nil
}

// identify finds out who the client is, by option or by the query.
func (c *Client) identify(r *http.Request) error {
	values := r.URL.Query()
	if c.cfg.hasUser { // who it is comes from the service: the query does not count
		delete(values, "session")
		delete(values, "name")
	}
	if c.cfg.hasName {
		delete(values, "name")
	}
	q, err := wire.ParseQuery(values)
	if err != nil {
		return &badRequest{err}
	}
	c.query = q
	c.phase = mrand.Uint32()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.who.Client = "c-" + strings.ToLower(rand.Text()[:16]) // 80 bits
	if c.cfg.hasUser {
		if c.cfg.user == "" || len(c.cfg.user) > 256 || !utf8.ValidString(c.cfg.user) || strings.HasPrefix(c.cfg.user, wire.GuestPrefix) {
			return fmt.Errorf("%w: the service gave no valid user", errForbidden)
		}
		c.who.User, c.who.Name = c.cfg.user, c.cfg.user
	} else {
		c.session = q.Session
		if c.session == "" {
			c.session = wire.NewSession()
		}
		c.who.User, c.who.Name = wire.GuestUser(c.session), q.Name
	}
	switch {
	case c.cfg.hasName:
		c.who.Name = c.cfg.name
	case c.who.Name == "":
		c.who.Name = wire.GuestName(c.who.User)
	}
	if c.cfg.hasUser && !c.cfg.hasName {
		return nil // a user's id is the service's: it may be longer than a name
	}
	if err := wire.ValidName(c.who.Name); err != nil {
		return &badRequest{fmt.Errorf("name: %w", err)}
	}
	return nil
}

// authorize asks the service whether the client may be in a room.
func (c *Client) authorize(r *Room) (err error) {
	f := r.config().authorize
	if f == nil {
		if r.name == c.room.name {
			return nil
		}
		return errForbidden
	}
	if !c.guard("authorize", func() { err = f(c, r.name) }) {
		return errPanic
	}
	if err != nil && !errors.Is(err, ErrNoRoom) {
		return fmt.Errorf("%w: %w", errForbidden, err)
	}
	return err
}

// ID returns the connection's id, as in Member.Client; "" before ServeHTTP.
func (c *Client) ID() string { return c.identity().Client }

// User returns who the client is; "" before ServeHTTP. A guest's begins with "guest:".
func (c *Client) User() string { return c.identity().User }

// Name returns what others see; "" before ServeHTTP.
func (c *Client) Name() string { return c.identity().Name }

func (c *Client) identity() Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.who
}

// Rooms yields the rooms that the client is in, in no order.
func (c *Client) Rooms() iter.Seq[*Room] {
	return func(yield func(*Room) bool) {
		for _, st := range c.allStays() {
			if !yield(st.r) {
				return
			}
		}
	}
}

func (c *Client) allStays() []*stay {
	c.mu.Lock()
	defer c.mu.Unlock()
	stays := make([]*stay, 0, len(c.stays))
	for _, st := range c.stays {
		stays = append(stays, st)
	}
	return stays
}

// Send sends a message to this client alone and keeps nothing. A plain client gets its
// bytes as they are, in a text or binary frame; a JSON client a signal event. It does
// not block: a client whose queue is full is [ErrSlowClient], one that has gone or is
// not connected yet [ErrClosed]. Where the client's room has the policy [LatestPerKey], a
// message with a key replaces one of Send with the same key that still waits.
func (c *Client) Send(m Message) error {
	if err := check(&m); err != nil {
		return err
	}
	conn := c.connection()
	if conn == nil {
		return ErrClosed
	}
	f := room.RawFrame(m.Kind, m.Data)
	if c.door == room.JSON {
		s := broker.Signal{ID: m.ID, From: m.From, Kind: m.Kind, Data: m.Data, Key: m.Key, Time: time.Now()}
		f = room.Encode(func(b []byte) []byte { return wire.AppendSignal(b, &s) })
	}
	policy := wsconn.Disconnect
	if m.Key != "" && c.cfg.slow == wsconn.LatestPerKey {
		f.Key, policy = m.Key, wsconn.LatestPerKey
	}
	switch err := conn.Send(wsconn.NewBatch(f), policy); {
	case errors.Is(err, wsconn.ErrFull):
		return ErrSlowClient
	case err != nil:
		return ErrClosed
	}
	return nil
}

func (c *Client) connection() *wsconn.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn
}

// Close ends the connection with a close frame of that code and reason, after what
// already waits for the client. Codes that may be sent are 1000 to 1003, 1007 to 1014 and
// 3000 to 4999 (RFC 6455 section 7.4); any other sends a close frame without a code. The
// reason is cut to 123 bytes. It does not block; Done tells when the client has gone. The first
// call counts.
func (c *Client) Close(code int, reason string) {
	c.mu.Lock()
	conn := c.conn
	if c.closing == nil {
		c.closing = &CloseError{Code: code, Reason: reason}
	}
	cancel, err := c.cancel, c.closing
	c.mu.Unlock()
	if conn != nil {
		conn.Close(code, reason)
	}
	if cancel != nil {
		cancel(err) // whoever waits on behalf of this client
	}
}

// abort cuts the connection.
func (c *Client) abort() {
	c.mu.Lock()
	conn, cancel := c.conn, c.cancel
	c.cut = true
	c.mu.Unlock()
	if conn != nil {
		conn.Abort()
	}
	if cancel != nil {
		cancel(ErrClosed)
	}
}

// Done is closed when the client has gone: its connection is closed, it is in no room,
// and OnLeave has returned.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns how the client ended, nil before Done is closed: a [*CloseError] with the
// code and reason of whichever side closed first, 1006 for a lost connection, or why its
// request was refused.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Context carries the values of the client's request, once ServeHTTP was called, and ends
// with the client, or when Close is called. What the request's middleware released when its
// handler returned is gone, unless [WithBlocking] is set.
func (c *Client) Context() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx == nil { // before ServeHTTP
		c.ctx, c.cancel = context.WithCancelCause(context.Background())
		if c.closing != nil {
			c.cancel(c.closing)
		}
	}
	return c.ctx
}

// run makes the client a member of its room. Then another goroutine reads: with a stack
// that has not grown yet, it holds half as much while the client is at rest.
func (c *Client) run(home *stay) {
	history := c.query.History
	if history < 0 && c.door == room.JSON {
		history = joinHistory
	}
	c.busy.Store(-1)
	if err := home.enter(c.query.Since, c.query.HasSince, history); err != nil {
		c.cfg.logger.Warn("hub: a client could not enter its room", "room", c.room.name, "err", err)
		c.Close(closeCode(err), "room could not be entered")
	}
	c.busy.Store(time.Now().UnixNano())
	c.hub.goroutines.Go(c.read)
}

// read is the client's reading goroutine.
func (c *Client) read() {
	var err error
	for {
		var op wsconn.Opcode
		var p []byte
		// Not the client's context: one that ends would cut the connection before its
		// close frame.
		if op, p, err = c.conn.Read(context.Background()); err != nil {
			break
		}
		c.busy.Store(-1)
		c.frame(op, p)
		c.busy.Store(time.Now().UnixNano())
	}
	c.finish(err)
}

// joinHistory is how many messages a first join gets on the JSON door.
const joinHistory = 20

// finish takes the client out of its rooms and the connection down. Others are told at
// once, before the close handshake.
func (c *Client) finish(cause error) {
	err := c.closeError(cause)
	c.mu.Lock()
	cancel := c.cancel
	c.mu.Unlock()
	cancel(err)
	reason, linger, why := departure(err, c.door)
	for _, st := range c.allStays() {
		st.leave(reason, linger, nil, why)
	}
	c.settling.Wait()
	c.conn.Finish()
	c.hub.release(c)
	c.end(err)
}

func (c *Client) end(err error) {
	c.mu.Lock()
	c.err = err
	cancel := c.cancel
	c.mu.Unlock()
	cancel(err)
	close(c.done)
}

// closeError is how the connection ended: who closed first decides.
func (c *Client) closeError(cause error) *CloseError {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ce *wsconn.CloseError
	if errors.As(cause, &ce) && (ce.Remote || c.closing == nil) {
		return &CloseError{Code: ce.Code, Reason: ce.Reason, Remote: ce.Remote}
	}
	if c.closing != nil {
		return c.closing
	}
	return &CloseError{Code: CodeLost, Reason: "connection lost"}
}

// departure says how others see the end of a connection: the reason, whether it may come
// back first, and what OnLeave gets.
func departure(err *CloseError, door int) (reason string, linger bool, why error) {
	switch {
	case err.Remote && (err.Code == CodeNormal || err.Code == CodeGoingAway || err.Code == codeNone):
		return "", false, nil
	case err.Remote:
		return "", false, err // whatever the code, it said goodbye
	case err.Code == CodeLost:
		reason, linger = wire.ReasonLost, true
	case err.Code == CodeSlow:
		reason, linger = wire.ReasonSlow, true
	case err.Code == CodePolicy:
		reason = wire.ReasonKicked
	case err.Code == CodeGoingAway || err.Code == CodeRestart:
		reason = wire.ReasonShutdown
	case err.Code == CodeNormal:
		reason = wire.ReasonKicked
	default:
		reason = wire.ReasonError
	}
	return reason, linger && door == room.JSON, err
}

// drain tells the client that the hub is going away. To one that is still on its way in, whose first event
// is a welcome, the close frame alone has to do.
func (c *Client) drain() {
	c.mu.Lock()
	conn, entered := c.conn, c.entered
	c.mu.Unlock()
	if conn == nil {
		return
	}
	var f *wsconn.Frame
	switch {
	case c.door == room.JSON && !entered:
		return
	case c.door == room.JSON:
		d := wire.Drain{ReconnectAfterMS: mrand.Int64N(drainSpread.Milliseconds())}
		f = room.Encode(func(b []byte) []byte { return wire.AppendDrain(b, &d) })
	case c.cfg.text.f.Drain != nil:
		f = wsconn.NewFrame(wsconn.OpText, []byte(c.cfg.text.f.Drain()))
	default:
		return
	}
	_ = conn.SendNow(wsconn.NewBatch(f)) // fails for who has gone
}

// drainSpread is over how long the clients of a hub that goes away come back.
const drainSpread = 5 * time.Second

// sweep pings a silent client, and cuts one that has been silent for too long. While
// something waits to be written, it is not silence that judges but the write's deadline:
// one who takes a byte a second is alive, and will come to the ping behind what it was sent.
func (c *Client) sweep(now time.Time, tick time.Duration) {
	conn := c.connection()
	busy := c.busy.Load()
	if conn == nil || busy < 0 {
		return
	}
	last := conn.LastRead()
	if since := time.Unix(0, busy); since.After(last) { // it could not hear the client before
		last = since
	}
	if waiting, _ := conn.Queued(); waiting > 0 {
		c.writing = now
	}
	alive := last
	if c.writing.After(alive) {
		alive = c.writing
	}
	if now.Sub(alive) >= c.cfg.deadAfter {
		conn.Abort()
	} else if now.Sub(last) > c.cfg.pingAfter-tick && !c.pinged.Equal(last) { // the next look would be late
		c.pinged = last
		conn.Ping()
	}
}

// guard runs a callback of the service. Where it panics, the client is closed with
// 1011, nothing else.
func (c *Client) guard(what string, callback func()) bool {
	ok := c.caught(what, callback)
	if !ok {
		c.Close(CodeInternal, "internal error")
	}
	return ok
}

// caught runs a callback of the service and says whether it did not panic.
func (c *Client) caught(what string, callback func()) (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			c.cfg.logger.Error("hub: panic in a callback", "callback", what, "client", c.who.Client,
				"room", c.room.name, "panic", p, "stack", string(debug.Stack()))
			ok = false
		}
	}()
	callback()
	return true
}

// inTurn is guard for OnJoin and OnLeave, of which one client has one at a time.
func (c *Client) inTurn(what string, callback func()) {
	c.callback <- struct{}{}
	defer func() { <-c.callback }()
	c.guard(what, callback)
}

// An Incoming is a message that a client sent, before it is published.
type Incoming struct {
	Client *Client
	Room   *Room
	// Message is what will be published. A handler may change its Kind, Data and Key; its
	// From is the client, and its ID and Key those that the client gave, if any. The key is the
	// client's user's own, whoever sets it; for one of the room's, see [Room.Publish].
	Message Message
	// ToUser or ToClient is set where the message is for one user or one connection
	// only. It is then not kept.
	ToUser, ToClient string

	ack *wire.Ack // set once it was published
}

// Publish publishes the message now; its client gets the ack when the handler has
// returned, whatever that returns. It is for the handler's goroutine only.
func (in *Incoming) Publish(ctx context.Context) error {
	if in.ack != nil {
		return nil
	}
	if err := check(&in.Message); err != nil {
		return err
	}
	m := in.Message
	to := broker.Target{User: in.ToUser, Client: in.ToClient}
	if to != (broker.Target{}) {
		n, err := in.Room.signal(ctx, &broker.Signal{
			Type: room.SignalDirect, To: to, ID: m.ID, From: m.From, Kind: m.Kind, Data: m.Data, Key: m.Key,
		})
		if err != nil {
			return err
		}
		in.ack = &wire.Ack{ID: m.ID, Room: in.Room.name, Reached: &n}
		return nil
	}
	receipt, err := in.Room.publish(ctx, &m)
	if err != nil {
		return err
	}
	in.ack = &wire.Ack{
		ID: m.ID, Room: in.Room.name, Seq: receipt.Cursor.Seq, Cursor: receipt.Cursor.String(),
		Duplicate: receipt.Duplicate,
	}
	return nil
}

// frame handles one message of the client. Reading goroutine only, as all below.
func (c *Client) frame(op wsconn.Opcode, p []byte) {
	if c.gate == nil { // most clients of a large room never say a thing
		c.gate = gate.New(c.cfg.rate, c.cfg.burst, c.query.Ordered && c.door == room.JSON)
	}
	if c.door == room.JSON {
		c.command(op, p)
		return
	}
	kind := KindText
	if op == wsconn.OpBinary {
		kind = KindBinary
	}
	if c.gate.Wait(c.Context()) != nil {
		return // it is closing
	}
	c.publish(&wire.Command{Type: wire.CommandPublish, Kind: kind, Data: append([]byte(nil), p...)})
}

func (c *Client) command(op wsconn.Opcode, p []byte) {
	if op != wsconn.OpText {
		c.refused(&wire.Error{Code: wire.CodeBadJSON, Message: "binary frame: commands are text; publish with data_base64"})
		return
	}
	var cmd wire.Command
	if err := wire.Decode(p, &cmd); err != nil {
		c.refused(err)
		return
	}
	pass := c.gate.Command
	if cmd.Type == wire.CommandPublish {
		pass = c.gate.Publish
	}
	if err := pass(&cmd); err != nil {
		if cmd.Type != wire.CommandTyping { // it will type again
			c.refused(err)
		}
		return
	}
	switch cmd.Type {
	case wire.CommandPublish:
		c.publish(&cmd)
	case wire.CommandJoin:
		c.join(&cmd)
	case wire.CommandLeave:
		c.leaveRoom(&cmd)
	case wire.CommandTyping:
		c.typing(&cmd)
	case wire.CommandPresence:
		c.presence(&cmd)
	case wire.CommandHistory:
		c.history(&cmd)
	case wire.CommandPing:
		c.reply(room.Encode(func(b []byte) []byte { return wire.AppendPong(b, &wire.Pong{ID: cmd.ID}) }))
	}
}

// stay returns the client's stay in a room, nil where there is none or it is leaving.
func (c *Client) stay(name string) *stay {
	c.mu.Lock()
	defer c.mu.Unlock()
	if st := c.stays[name]; st != nil && !st.leaving {
		return st
	}
	return nil
}

// awaitLeft waits until a stay that is ending has ended: a client that was told so may be back before OnLeave has returned.
func (c *Client) awaitLeft(name string) {
	c.mu.Lock()
	st := c.stays[name]
	if st == nil || !st.leaving {
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	select {
	case <-st.gone:
	case <-c.Context().Done():
	}
}

// stayIn returns the client's stay in the room of a command; where there is none, the
// command was answered.
func (c *Client) stayIn(cmd *wire.Command) *stay {
	name := cmd.Room
	if name == "" {
		name = c.room.name
	}
	st := c.stay(name)
	if st == nil {
		c.refused(&wire.Error{ID: cmd.ID, Room: name, Code: wire.CodeNotInRoom, Message: "not in that room"})
	}
	return st
}

// publish handles a publish of either door that may pass.
func (c *Client) publish(cmd *wire.Command) {
	err := c.tryPublish(cmd)
	c.gate.Done(cmd, err)
	if err != nil {
		c.refused(err)
	}
}

func (c *Client) tryPublish(cmd *wire.Command) *wire.Error {
	if cmd.Room == "" {
		cmd.Room = c.room.name
	}
	name := cmd.Room
	st := c.stay(name)
	if st == nil {
		return &wire.Error{ID: cmd.ID, Room: name, Code: wire.CodeNotInRoom, Message: "not in that room"}
	}
	in := &Incoming{
		Client: c, Room: st.r, ToUser: cmd.To.User, ToClient: cmd.To.Client,
		Message: Message{Room: name, ID: cmd.ID, From: c.who, Kind: cmd.Kind, Data: cmd.Data, Key: cmd.Key},
	}
	h := c.cfg.handler
	if h == nil {
		h = st.cfg.handler
	}
	if h != nil {
		var err error
		if !c.caught("handler", func() { err = h(in) }) {
			// What made the handler panic is not to come again.
			c.refused(&wire.Error{ID: cmd.ID, Room: name, Code: wire.CodeInternal, Message: "the server failed on this message"})
			c.Close(CodeInternal, "internal error")
			return nil
		}
		if errors.Is(err, ErrHandled) {
			if in.ack == nil {
				in.ack = &wire.Ack{ID: cmd.ID, Room: name}
			}
			err = nil
		}
		if err != nil && in.ack != nil {
			c.cfg.logger.Error("hub: the handler failed after it had published", "room", name, "client", c.who.Client, "err", err)
		} else if err != nil {
			return c.explain(cmd, err, true)
		}
	}
	if c.hub.begin() == nil { // else Publish says so
		defer c.hub.end() // Shutdown waits for the ack too
	}
	ctx := deadline.WithTimeout(c.Context(), c.cfg.publishTimeout)
	defer ctx.Cancel()
	if err := in.Publish(ctx); err != nil {
		return c.explain(cmd, err, false)
	}
	if c.door == room.JSON && cmd.ID != "" {
		c.reply(room.Encode(func(b []byte) []byte { return wire.AppendAck(b, in.ack) }))
	}
	return nil
}

// retryBusy is what a client is told to wait where a bound was reached.
const retryBusy = time.Second

// explain turns an error, the handler's own or another, into what the client is told.
func (c *Client) explain(cmd *wire.Command, err error, handler bool) *wire.Error {
	e := &wire.Error{ID: cmd.ID, Room: cmd.Room}
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		e.Code, e.Message = wire.CodeRefused, refusal.Message
	case errors.Is(err, broker.ErrIDReused):
		e.Code, e.Message = wire.CodeIDReused, "this id was used for another message"
	case errors.Is(err, broker.ErrTooLarge):
		e.Code, e.Message = wire.CodeTooLarge, "larger than what can be kept"
	case errors.Is(err, broker.ErrBusy), errors.Is(err, room.ErrFull), errors.Is(err, errTooManyRooms):
		e.Code, e.Message, e.RetryAfter = wire.CodeBusy, "at a bound: try again", retryBusy
	case errors.Is(err, ErrClosed), errors.Is(err, ErrRoomClosed), errors.Is(err, room.ErrClosing):
		e.Code, e.Message, e.RetryAfter = wire.CodeDraining, "shutting down", retryBusy
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, broker.ErrClosed):
		e.Code, e.Message, e.RetryAfter = wire.CodeUnavailable, "could not be kept in time: send it again with the same id", retryBusy
	case errors.Is(err, errForbidden), errors.Is(err, ErrNoRoom):
		e.Code, e.Message = wire.CodeForbidden, "not allowed"
	case handler:
		c.cfg.logger.Info("hub: the handler refused a message", "room", cmd.Room, "client", c.who.Client, "err", err)
		e.Code, e.Message = wire.CodeRefused, "refused"
	default:
		c.cfg.logger.Error("hub: a command failed", "type", cmd.Type, "room", cmd.Room, "client", c.who.Client, "err", err)
		e.Code, e.Message, e.RetryAfter = wire.CodeUnavailable, "failed on the server's side: try again", retryBusy
	}
	return e
}

// join handles a client's wish to be in another room.
func (c *Client) join(cmd *wire.Command) {
	if cmd.Room == "" {
		cmd.Room = c.room.name
	}
	c.awaitLeft(cmd.Room)
	c.mu.Lock()
	_, in := c.stays[cmd.Room]
	n := len(c.stays)
	c.mu.Unlock()
	switch {
	case in:
		c.refused(&wire.Error{ID: cmd.ID, Room: cmd.Room, Code: wire.CodeAlreadyInRoom, Message: "already in that room"})
		return
	case n >= c.cfg.roomsPerClient:
		c.refused(&wire.Error{ID: cmd.ID, Room: cmd.Room, Code: wire.CodeRoomLimit, Message: "in as many rooms as one connection may be"})
		return
	}
	if err := c.tryJoin(cmd); err != nil {
		c.refused(c.explain(cmd, err, false))
	}
}

func (c *Client) tryJoin(cmd *wire.Command) error {
	r := c.room
	if cmd.Room != r.name || r.usable() != nil { // the room of the URL may have been closed, and be another now
		var err error
		if r, err = c.hub.Room(cmd.Room); err != nil {
			return err
		}
	}
	if err := c.authorize(r); err != nil {
		return err
	}
	// What waits for the client goes first: each join may owe it half a queue more.
	if err := c.conn.SendWait(c.Context(), wsconn.NewBatch()); err != nil {
		return ErrClosed
	}
	st := c.newStay(r, cmd.Room == c.room.name)
	if err := st.reserveFor(c.Context()); err != nil {
		st.cancel()
		return err
	}
	since, _ := broker.ParseCursor(cmd.Since) // Decode has checked it
	history := cmd.History
	if history < 0 {
		history = joinHistory
	}
	return st.enter(since, cmd.HasSince && cmd.Since != "", history)
}

func (c *Client) leaveRoom(cmd *wire.Command) {
	c.awaitLeft(cmd.Room) // what still comes of the room comes before the answer
	st := c.stayIn(cmd)
	if st == nil {
		return
	}
	st.leave("", false, room.Encode(func(b []byte) []byte {
		return wire.AppendLeftRoom(b, &wire.LeftRoom{ID: cmd.ID, Room: st.r.name})
	}), nil)
}

func (c *Client) typing(cmd *wire.Command) {
	st := c.stayIn(cmd)
	if st == nil {
		return
	}
	on := "off"
	if cmd.On {
		on = "on"
	}
	ctx, cancel := context.WithTimeout(c.Context(), typingTimeout)
	defer cancel()
	s := &broker.Signal{Type: room.SignalTyping, From: c.who, Kind: KindText, Data: []byte(on)}
	_, _ = st.r.signal(ctx, s) // worth nothing later
}

// typingTimeout is how long a room may be too busy to be told who types.
const typingTimeout = 100 * time.Millisecond

func (c *Client) presence(cmd *wire.Command) {
	st := c.stayIn(cmd)
	if st == nil {
		return
	}
	// The list goes the way of the joins and leaves, so that it is never older than one that was told before it.
	// What waits for the client goes first, as with any answer.
	if c.conn.SendWait(c.Context(), wsconn.NewBatch()) != nil {
		return
	}
	ctx, cancel := context.WithTimeout(c.Context(), c.cfg.publishTimeout)
	defer cancel()
	err := st.loop.TellMembers(ctx, st.m, wire.MaxListMembers, func(members []broker.Member, count int) *wsconn.Frame {
		p := wire.Presence{ID: cmd.ID, Room: st.r.name, Members: members, Count: count}
		return room.Encode(func(b []byte) []byte { return wire.AppendPresence(b, &p) })
	})
	switch {
	case errors.Is(err, room.ErrNotMember):
		c.refused(&wire.Error{ID: cmd.ID, Room: st.r.name, Code: wire.CodeNotInRoom, Message: "not in that room"})
	case err != nil:
		c.refused(c.explain(cmd, err, false))
	}
}

func (c *Client) history(cmd *wire.Command) {
	st := c.stayIn(cmd)
	if st == nil {
		return
	}
	page, err := c.hub.reader.Before(c.Context(), st.r.name, cmd.Before, cmd.Limit)
	if err != nil {
		c.refused(c.explain(cmd, err, false))
		return
	}
	h := wire.History{ID: cmd.ID, Room: st.r.name, Messages: page.Messages, More: page.More}
	f := room.Encode(func(b []byte) []byte { return wire.AppendHistory(b, &h) })
	if st.door()&room.Deflated != 0 {
		f = f.Deflate(st.cfg.compress)
	}
	c.reply(f)
}

// limits are what a welcome tells of them.
func (c *Client) limits(st *stay) wire.Limits {
	return wire.Limits{
		MessageBytes:   int64(c.cfg.messageLimit),
		Rate:           c.cfg.rate,
		Burst:          c.cfg.burst,
		DedupWindowMS:  c.hub.dedupWindow().Milliseconds(),
		ResumeWindowMS: st.cfg.resumeWindow.Milliseconds(),
		PingMS:         c.cfg.pingAfter.Milliseconds(),
		History:        c.hub.history(st.r.name),
		Rooms:          c.cfg.roomsPerClient,
	}
}

// welcome makes the first event in a room; none on the plain door. It runs on the
// room's loop.
func (c *Client) welcome(name, recovery string, limits wire.Limits, start broker.Cursor, members []broker.Member, count int) *wsconn.Frame {
	if c.door != room.JSON {
		return nil
	}
	w := wire.Welcome{
		Client: c.who.Client, Session: c.session, User: c.who.User, Name: c.who.Name,
		Room: name, Cursor: start.String(), Seq: start.Seq, Recovery: recovery,
		Members: members, MemberCount: count,
		Limits: limits,
	}
	return room.Encode(func(b []byte) []byte { return wire.AppendWelcome(b, &w) })
}

// refused tells the client that a command was not done.
func (c *Client) refused(e *wire.Error) {
	if c.door == room.JSON {
		c.gate.Refused(c.Context())
		c.reply(room.Encode(func(b []byte) []byte { return wire.AppendError(b, e) }))
		return
	}
	if say := c.cfg.text.f.Error; say != nil {
		c.reply(wsconn.NewFrame(wsconn.OpText, []byte(say(e))))
	}
}

// reply queues an answer; it waits while the client does not read.
func (c *Client) reply(f *wsconn.Frame) {
	_ = c.conn.SendWait(c.Context(), wsconn.NewBatch(f)) // fails only for who is going
}
