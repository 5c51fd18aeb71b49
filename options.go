package hub

import (
	"fmt"
	"log/slog"
	"path"
	"strings"
	"time"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/internal/wire"
	"github.com/chathub-go/hub/internal/wsconn"
)

// A HubOption configures a [Hub], and whatever is made from it.
type HubOption interface{ applyToHub(*config) }

// A RoomOption configures one [Room], and its clients.
type RoomOption interface{ applyToRoom(*config) }

// A ClientOption configures one [Client].
type ClientOption interface{ applyToClient(*config) }

// An Option works at every level; what a hub or a room sets is the default below it.
type Option interface {
	HubOption
	RoomOption
	ClientOption
}

// A SharedOption works for a hub and for a room.
type SharedOption interface {
	HubOption
	RoomOption
}

type (
	option       func(*config)
	sharedOption func(*config)
	hubOption    func(*config)
	clientOption func(*config)
)

func (o option) applyToHub(c *config)          { o(c) }
func (o option) applyToRoom(c *config)         { o(c) }
func (o option) applyToClient(c *config)       { o(c) }
func (o sharedOption) applyToHub(c *config)    { o(c) }
func (o sharedOption) applyToRoom(c *config)   { o(c) }
func (o hubOption) applyToHub(c *config)       { o(c) }
func (o clientOption) applyToClient(c *config) { o(c) }

// config holds every option's value; each level has its own copy.
type config struct {
	// all levels
	messageLimit               int
	rate                       float64
	burst                      int
	queueMessages, queueBytes  int
	pingAfter, deadAfter       time.Duration
	writeTimeout, closeTimeout time.Duration
	publishTimeout             time.Duration
	logger                     *slog.Logger
	handler                    func(*Incoming) error
	onJoin                     func(*Client, *Room)
	onLeave                    func(*Client, *Room, error)
	blocking                   bool
	roomsPerClient             int

	// hub and room
	slow         wsconn.Policy
	compress     int // from how many bytes on; 0: never
	origins      []string
	text         TextFormat
	history      int
	unsetHistory func() // of a room
	historyAge   time.Duration
	historySet   bool
	resumeWindow time.Duration
	maxMembers   int
	idleAfter    time.Duration
	authorize    func(*Client, string) error

	// hub
	broker      broker.Broker
	dedupWindow time.Duration
	maxClients  int
	maxRooms    int
	queueTotal  int

	// client
	user, name       string
	hasUser, hasName bool

	forClients *config // of a room: what its clients begin with
}

// ready completes a room's config.
func (c *config) ready() *config {
	clients := *c
	clients.handler, clients.onJoin, clients.onLeave = nil, nil, nil // each room's, unless the client has its own
	c.forClients = &clients
	return c
}

func defaults() config {
	return config{
		messageLimit:   64 << 10,
		rate:           20,
		burst:          40,
		queueMessages:  256,
		queueBytes:     1 << 20,
		pingAfter:      30 * time.Second,
		deadAfter:      60 * time.Second,
		writeTimeout:   10 * time.Second,
		closeTimeout:   2 * time.Second,
		publishTimeout: 10 * time.Second,
		logger:         slog.Default(),
		roomsPerClient: 16,
		slow:           wsconn.Disconnect,
		text:           DefaultText(),
		history:        256,
		historyAge:     time.Hour,
		resumeWindow:   10 * time.Second,
		maxMembers:     100_000,
		idleAfter:      30 * time.Second,
		dedupWindow:    10 * time.Minute,
		maxClients:     100_000,
		maxRooms:       100_000,
		queueTotal:     256 << 20,
	}
}

// need panics where an option's value is nonsense: that is a mistake in the
// program, not something that happens to it.
func need(ok bool, format string, args ...any) {
	if !ok {
		panic("hub: " + fmt.Sprintf(format, args...))
	}
}

// WithMessageLimit sets the size of the largest message that a client may send, in
// bytes of the WebSocket message (on the JSON door: of the whole command). A larger
// one closes it with 1009. The default is 64 KiB; at least 1.
func WithMessageLimit(bytes int) Option {
	need(bytes >= 1, "WithMessageLimit(%d): at least 1", bytes)
	return option(func(c *config) { c.messageLimit = bytes })
}

// WithPublishRate sets how many messages a second one client may publish, and how
// many at once after a pause. The default is 20 with a burst of 40; 0 a second is no
// limit. Past it a JSON client gets the error "rate" with a time to wait, and from a
// plain one the hub reads no faster. Commands other than publish have the same
// limit again, counted apart.
func WithPublishRate(perSecond float64, burst int) Option {
	need(perSecond >= 0, "WithPublishRate(%v, %d): not below 0", perSecond, burst)
	need(perSecond == 0 || burst >= 1, "WithPublishRate(%v, %d): a burst of at least 1", perSecond, burst)
	return option(func(c *config) { c.rate, c.burst = perSecond, burst })
}

// WithQueue bounds what waits for a client that reads slower than its rooms talk,
// in messages and in bytes ([WithQueueTotal] bounds it for all of them together); at the
// first of the two that is reached the room's slow policy decides. The defaults are 256
// messages and 1 MiB, at least 2 messages and 1,024 bytes. A message larger than the bound
// is taken where nothing else waits. Answers to the client's own commands, and the history
// that it asked for, are not dropped and don't count: while more than half of a bound waits,
// the hub reads no further commands from that client, and what it is owed comes in portions
// of half the bound.
func WithQueue(messages, bytes int) Option {
	need(messages >= 2 && bytes >= 1024, "WithQueue(%d, %d): at least 2 messages and 1,024 bytes", messages, bytes)
	return option(func(c *config) { c.queueMessages, c.queueBytes = messages, bytes })
}

// WithPing sets after how much silence from a client the hub sends a ping, and
// after how much it takes the client for lost. The defaults are 30 s and 60 s. The
// hub looks at each client once in an eighth of the time set for the hub itself, at a moment
// of its own: pings may come that much early, and the end that much late. While something
// waits for a client that reads slowly, [WithWriteTimeout] alone judges whether it lives.
func WithPing(after, dead time.Duration) Option {
	need(after >= time.Millisecond && dead > after, "WithPing(%v, %v): at least 1 ms, and dead after the ping", after, dead)
	return option(func(c *config) { c.pingAfter, c.deadAfter = after, dead })
}

// WithWriteTimeout sets how long a client may take no byte at all while something
// waits for it. The default is 10 s. A slow client that takes some is not cut: it has as long
// again from the end of the time in which it did.
func WithWriteTimeout(d time.Duration) Option {
	need(d > 0, "WithWriteTimeout(%v): above 0", d)
	return option(func(c *config) { c.writeTimeout = d })
}

// WithCloseTimeout sets how long the hub waits for the other side of the close
// handshake, where the hub closes first or the client broke the protocol. The default is
// 2 s.
func WithCloseTimeout(d time.Duration) Option {
	need(d > 0, "WithCloseTimeout(%v): above 0", d)
	return option(func(c *config) { c.closeTimeout = d })
}

// WithPublishTimeout sets how long one publish of a client may wait for the broker,
// after which the client gets the retryable error "unavailable". The default is 10 s.
func WithPublishTimeout(d time.Duration) Option {
	need(d > 0, "WithPublishTimeout(%v): above 0", d)
	return option(func(c *config) { c.publishTimeout = d })
}

// WithLogger sets the logger; message bodies and session tokens are never logged.
// The default is [slog.Default].
func WithLogger(l *slog.Logger) Option {
	need(l != nil, "WithLogger(nil)")
	return option(func(c *config) { c.logger = l })
}

// handshake are the socket's options for the hub's part of a handshake.
func (c *config) handshake() *wsconn.Options {
	return &wsconn.Options{
		Subprotocols:  []string{wire.Subprotocol},
		Origins:       c.origins,
		ReadLimit:     int64(c.messageLimit),
		QueueMessages: c.queueMessages,
		QueueBytes:    c.queueBytes,
		WriteTimeout:  c.writeTimeout,
		CloseTimeout:  c.closeTimeout,
		Compress:      c.compress > 0,
	}
}

// WithHandler sets a function that sees each message of a client before it is
// published. It may change the message, publish it itself ([Incoming.Publish]),
// answer the client ([Client.Send]), or refuse it. It runs on the goroutine that
// reads from the client: that client's next message waits, nobody else does. It may
// call any method of the hub. The default publishes every message as it is.
//
// Its result decides: nil publishes the message, unless the handler did;
// [ErrHandled] ends it there; any other error refuses it. A [*Refusal] is told to the client
// as it is, other errors are logged, and the client is told no more than "refused".
func WithHandler(f func(*Incoming) error) Option {
	need(f != nil, "WithHandler(nil)")
	return option(func(c *config) { c.handler = f })
}

// WithOnJoin sets a function that is called when a client has become a member of a
// room and gets its messages. For one client, calls of OnJoin and OnLeave come in
// order and never at the same time; they run on a goroutine of that client, outside
// every lock, and may call any method of the hub.
func WithOnJoin(f func(*Client, *Room)) Option {
	need(f != nil, "WithOnJoin(nil)")
	return option(func(c *config) { c.onJoin = f })
}

// WithOnLeave sets a function that is called when a client that OnJoin told of is no
// longer in the room. The reason is nil where the client left the room by its own
// command or closed the connection with code 1000, 1001 or none, [ErrRoomClosed] where the
// room was closed and the connection goes on, and a [*CloseError] otherwise.
func WithOnLeave(f func(c *Client, r *Room, reason error)) Option {
	need(f != nil, "WithOnLeave(nil)")
	return option(func(c *config) { c.onLeave = f })
}

// WithBlocking makes [Client.ServeHTTP] return when the client has gone, and not
// after the upgrade. Each client then holds some 12 KiB more: net/http keeps its
// buffers and stack as long as a handler runs.
func WithBlocking() Option {
	return option(func(c *config) { c.blocking = true })
}

// WithRoomsPerClient bounds how many rooms one connection may be in. The default is
// 16, at least 1.
func WithRoomsPerClient(n int) Option {
	need(n >= 1, "WithRoomsPerClient(%d): at least 1", n)
	return option(func(c *config) { c.roomsPerClient = n })
}

// A SlowPolicy decides what becomes of a client whose queue is full.
type SlowPolicy struct{ policy wsconn.Policy }

var (
	// Disconnect closes a slow client with 1013; it comes back with its cursor and
	// misses nothing. It is the default.
	Disconnect = SlowPolicy{wsconn.Disconnect}
	// DropOldest drops the room's oldest messages that wait for the client, and tells
	// it which in a gap event.
	DropOldest = SlowPolicy{wsconn.DropOldest}
	// LatestPerKey is for what only matters as it is now: cursors, prices, who types.
	//
	//	h := hub.New(hub.WithSlowPolicy(hub.LatestPerKey))
	//	...
	//	price := hub.JSON(quote)
	//	price.Key = "EURUSD"
	//	err := room.Broadcast(ctx, price)
	//
	// Of the messages that wait for a client and have the same Key (up to 64 bytes of UTF-8;
	// JSON clients give one in publish) only the latest waits, from the first on and not only
	// when the queue is full. Those that were kept are told in a gap event; signals go untold.
	// What has no key waits as ever, and at the queue's bound the policy is [DropOldest]. Of
	// each member that types, the last typing event waits.
	//
	// A key belongs to its publisher, the message's From.User, so that no client can make
	// another's messages go. Messages of the service, with no user in From, share their keys:
	// a price has one key whoever publishes it.
	LatestPerKey = SlowPolicy{wsconn.LatestPerKey}
)

// WithSlowPolicy sets what becomes of clients that are too slow for a room. The
// default is [Disconnect].
func WithSlowPolicy(p SlowPolicy) SharedOption {
	return sharedOption(func(c *config) { c.slow = p.policy })
}

// WithCompression deflates what a room says, for clients that offer permessage-deflate
// (RFC 7692), as browsers do: messages that take threshold bytes or more on their door, once
// each for all clients. No context is kept between messages, on either side, so a connection
// costs no more memory than without, and a hub some 1.2 MB for each processor that deflates.
// The room of the URL decides whether a connection agrees to it, and each room from what size
// on it deflates. Small messages win little: 512 is a good start; at least 1. The default is
// off, since a message takes some 4 µs of a core and 5 for each KiB, in the room's loop, and one
// that comes deflated 2 µs and 4 for each KiB; what is worth it depends on who pays for the bytes.
func WithCompression(threshold int) SharedOption {
	need(threshold >= 1, "WithCompression(%d): at least 1 byte", threshold)
	return sharedOption(func(c *config) { c.compress = threshold })
}

// WithOrigins allows pages of other origins to connect: host patterns as of
// [path.Match], such as "example.com" or "*.example.com", compared without case; "*"
// alone is any origin. The default is the request's own host only. Requests without
// an Origin header, from programs that are not browsers, are allowed.
func WithOrigins(patterns ...string) SharedOption {
	for _, p := range patterns {
		_, err := path.Match(p, "")
		need(err == nil && p != "" && !strings.Contains(p, "/"), "WithOrigins: %q is not a pattern for a host", p)
	}
	return sharedOption(func(c *config) { c.origins = patterns })
}

// A TextFormat is how the plain-text door words what happens. It is data, not a
// callback: the room's loop words each event once and runs no code of the service.
type TextFormat struct{ f wire.TextFormat }

// DefaultText words it in English: "alice: hello", "* alice joined", "* alice left".
func DefaultText() TextFormat { return TextFormat{wire.DefaultText()} }

// JapaneseText words joins, leaves and notices in Japanese.
func JapaneseText() TextFormat { return TextFormat{wire.JapaneseText()} }

// RawText sends a message's bytes and nothing else, for services with a wire format
// of their own.
func RawText() TextFormat { return TextFormat{wire.RawText()} }

// TextTemplates are the lines of a [TextFormat] of the service's own. In them {name}
// stands for the member's name, {user} for its user, {room} for the room, and {text} for
// what was said, with line breaks indented so that nobody can forge a line. An empty
// template sends nothing.
type TextTemplates struct {
	Message string // {name} {user} {room} {text}
	Direct  string // {name} {user} {room} {text}: a direct message
	Joined  string // {name} {user} {room}
	Left    string // {name} {user} {room}
	Missed  string // {room}: messages were dropped, or are no longer kept
	Refused string // {text}: why the client's message was not sent
	Drain   string // the server is going away
}

// TextFrom returns the format of templates.
func TextFrom(t TextTemplates) TextFormat { return TextFormat{wire.TemplateText(wire.Templates(t))} }

// WithTextFormat sets the wording of the plain-text door. The default is [DefaultText].
func WithTextFormat(f TextFormat) SharedOption {
	return sharedOption(func(c *config) { c.text = f })
}

// WithHistory sets how many messages the in-memory broker keeps of a room, and for
// how long. The defaults are 256 messages and an hour; 0 messages keeps none, so that
// every resume that missed something is a gap. Whatever is set, a room keeps at most
// 4 MiB, and all rooms 256 MiB; for other bounds give the hub a broker of
// [broker.NewMemory]. As an option of a hub with [WithBroker] it panics, and so it does for
// a room of a broker that is not one of [broker.NewMemory]: they have their own retention.
func WithHistory(messages int, age time.Duration) SharedOption {
	need(messages >= 0 && age > 0, "WithHistory(%d, %v): not below 0, and an age above 0", messages, age)
	return sharedOption(func(c *config) { c.history, c.historyAge, c.historySet = messages, age, true })
}

// WithResumeWindow sets how long a client that was cut off may take to come back
// before the others are told that it left. The default is 10 s; 0 tells them at once. At
// most as many wait in a room as may be members. It does not bound what a resume recovers:
// the history does.
func WithResumeWindow(d time.Duration) SharedOption {
	need(d >= 0, "WithResumeWindow(%v): not below 0", d)
	return sharedOption(func(c *config) { c.resumeWindow = d })
}

// WithMaxMembers bounds how many clients may be in a room on this process. At the
// bound a request gets 503. The default is 100,000, at least 1.
func WithMaxMembers(n int) SharedOption {
	need(n >= 1, "WithMaxMembers(%d): at least 1", n)
	return sharedOption(func(c *config) { c.maxMembers = n })
}

// WithIdle sets how long a room without clients keeps its loop. The default is 30 s.
// What is kept of the room is not touched by it.
func WithIdle(d time.Duration) SharedOption {
	need(d > 0, "WithIdle(%v): above 0", d)
	return sharedOption(func(c *config) { c.idleAfter = d })
}

// WithAuthorize sets a function that allows a client into a room (nil) or refuses
// it: the room of the URL, before the upgrade, with 403, or 404 for an error that
// wraps [ErrNoRoom]; and rooms that the client asks to join. It runs on the request's
// or the client's goroutine. Without it, the room of the URL is allowed to anyone and
// no other room to a connection. The function of the room in question is asked. The
// client's [Client.Context] carries the values of its request.
func WithAuthorize(f func(c *Client, room string) error) SharedOption {
	need(f != nil, "WithAuthorize(nil)")
	return sharedOption(func(c *config) { c.authorize = f })
}

// WithBroker sets what orders, keeps and carries the messages. The hub does not close
// it. The default is an in-memory broker of the hub's own, see [broker.NewMemory].
func WithBroker(b broker.Broker) HubOption {
	need(b != nil, "WithBroker(nil)")
	return hubOption(func(c *config) { c.broker = b })
}

// WithDedupWindow sets for how long the in-memory broker remembers the ids of
// messages, so that a repeated publish has one effect. The default is 10 minutes.
func WithDedupWindow(d time.Duration) HubOption {
	need(d > 0, "WithDedupWindow(%v): above 0", d)
	return hubOption(func(c *config) { c.dedupWindow = d })
}

// WithMaxClients bounds the hub's connections. At the bound a request gets 429 with
// Retry-After. The default is 100,000, at least 1.
func WithMaxClients(n int) HubOption {
	need(n >= 1, "WithMaxClients(%d): at least 1", n)
	return hubOption(func(c *config) { c.maxClients = n })
}

// WithMaxRooms bounds the rooms that are open at the same time. At the bound a
// request for one more gets 503. The default is 100,000, at least 1.
func WithMaxRooms(n int) HubOption {
	need(n >= 1, "WithMaxRooms(%d): at least 1", n)
	return hubOption(func(c *config) { c.maxRooms = n })
}

// WithQueueTotal bounds what waits for all clients of the hub, in bytes. The default is 256
// MiB, at least 1 MiB; it should be many times what [WithQueue] lets wait for one.
//
// A message counts once for each way in which it is encoded (door, compression), however many
// clients it waits for, with about 100 bytes for what surrounds it; besides, each place in a
// client's queue counts 64 bytes, with a key 128, and 192 where it is a gap. It counts until
// it is written. What clients take at once never counts; nor do histories ([WithHistory]),
// what is on its way from rooms to clients (about 512 messages or 1 MiB for each room and
// worker), and the system's buffers. [Stats] has the present figure.
//
// Up to 3/4 of the bound nobody notices it. Above, no client may queue more than its share of
// the last quarter, and those that hold most lose it until half is free, by the slow policy:
// with [Disconnect] the client is closed with 1013, and comes back with its cursor; otherwise
// what waits is dropped, and it is told the gap. At the bound nothing more of what rooms say
// is queued, and new clients get 503. So those that are stalled don't hurt those that are not.
//
// Answers and the history that a client asked for count as well, but are not refused: above
// 3/4, as above half of [WithQueue], the hub waits with more until they are read, and of those
// that hold most it closes who has nothing else to lose. The bound may be passed by these (at
// most half a queue for each client), by a gap for each client and room, and by a batch for
// each processor.
func WithQueueTotal(bytes int) HubOption {
	need(bytes >= 1<<20, "WithQueueTotal(%d): at least 1 MiB", bytes)
	return hubOption(func(c *config) { c.queueTotal = bytes })
}

// WithUser sets who the client is, for a service that knows its users: up to 256
// bytes, not empty. Several clients of one user are one member of a room. Ids that
// begin with "guest:" are the hub's own. Without it the client is a guest: its user
// comes from its session, and its name from the query.
func WithUser(id string) ClientOption {
	return clientOption(func(c *config) { c.user, c.hasUser = id, true })
}

// WithName sets the name that others see; the name in the query is then ignored. The
// default for a client with a user is the user's id.
func WithName(name string) ClientOption {
	return clientOption(func(c *config) { c.name, c.hasName = name, true })
}
