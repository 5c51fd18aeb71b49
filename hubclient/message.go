package hubclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/internal/wire"
)

// A Message is what a client publishes. [Text], [JSON] and [Binary] make one.
type Message struct {
	Room string        // "": the room of the URL
	ID   string        // 1 to 64 bytes of printable UTF-8, never used before; "": one is made
	Key  string        // at most 64 bytes of UTF-8: what this tells the newest of; "" is none
	To   broker.Target // a direct message to one client or one user; zero: everyone in the room
	Kind broker.Kind
	Data []byte // as Kind says: UTF-8, one JSON value, or any bytes
}

// Text returns a message of text.
func Text(s string) Message { return Message{Kind: broker.KindText, Data: []byte(s)} }

// JSON returns a message of one JSON value. One that is a string is the same as [Text].
func JSON(value []byte) Message { return Message{Kind: broker.KindJSON, Data: value} }

// Binary returns a message of bytes.
func Binary(b []byte) Message { return Message{Kind: broker.KindBinary, Data: b} }

// command checks m, and returns it as a command. Its errors say what is wrong.
func (m *Message) command(room string) (*wire.Command, error) {
	c := &wire.Command{Type: wire.CommandPublish, ID: m.ID, Room: m.Room, Key: m.Key, To: m.To, Kind: m.Kind, Data: m.Data}
	if c.Room == "" {
		c.Room = room
	}
	field, err := "ID", wire.ValidID(c.ID)
	if err == nil {
		field, err = "Key", wire.ValidKey(c.Key)
	}
	if err == nil && c.Room != "" {
		field, err = "Room", wire.ValidRoom(c.Room)
	}
	if err == nil && c.To.Client != "" && c.To.User != "" {
		field, err = "To", errors.New("has both a client and a user")
	}
	if err == nil {
		field, err = "Data", validData(c)
	}
	if err != nil {
		return nil, fmt.Errorf("hubclient: message: %s %w", field, err)
	}
	return c, nil
}

func validData(c *wire.Command) (err error) {
	switch c.Kind {
	case broker.KindText:
		if !utf8.Valid(c.Data) {
			return errors.New("is not UTF-8")
		}
	case broker.KindJSON:
		if c.Kind, c.Data, err = wire.DecodeData(c.Data); err != nil {
			return fmt.Errorf("is %w", err)
		}
	case broker.KindBinary:
	default:
		return errors.New("has no Kind: make the message with Text, JSON or Binary")
	}
	return nil
}

// A Receipt says what became of a message that was published.
type Receipt struct {
	ID   string // of the message
	Room string

	// Where the message is kept. Seq is 0 for a direct message, and where the service took the
	// message itself. The cursor is not one to resume from: others' messages before it may not have come yet.
	Seq    uint64
	Cursor string

	Duplicate bool // an earlier message with this ID had been kept, and this is its position
	Reached   int  // of a direct message: how many clients got it; -1 of others
}

// An EventType says what an [Event] is.
type EventType uint8

const (
	// EventWelcome: the client is in a room, for the first time or again; Welcome is set. Its
	// Recovery is the verdict on what may have been missed.
	EventWelcome EventType = iota + 1
	// EventMessage: Message is set.
	EventMessage
	// EventGap: messages are missing here, and will not come; Gap is set.
	EventGap
	// EventDirect and EventSignal: Message is set, with no Seq and Cursor. The one is from a
	// member to this client or its user, the other from the service.
	EventDirect
	EventSignal
	// EventJoined and EventLeft: Member has come or gone, and may have been known as such.
	EventJoined
	EventLeft
	// EventPresence: Members replace what was known of who is in the room.
	EventPresence
	// EventTyping: Member began or stopped typing, as On says.
	EventTyping
	// EventLeftRoom: the client is in Room no more. The service took it out (Reason), or did
	// not let it in again (Err).
	EventLeftRoom
	// EventDisconnected: the connection is lost, as Err says, and the client tries again in
	// RetryIn. Several in a row may come as one.
	EventDisconnected
	// EventError: the server answered with an error that belongs to no call; Err is an [*Error].
	EventError
)

var eventNames = [...]string{
	EventWelcome: "welcome", EventMessage: "message", EventGap: "gap", EventDirect: "direct", EventSignal: "signal",
	EventJoined: "joined", EventLeft: "left", EventPresence: "presence", EventTyping: "typing",
	EventLeftRoom: "left room", EventDisconnected: "disconnected", EventError: "error",
}

func (t EventType) String() string {
	if int(t) < len(eventNames) && eventNames[t] != "" {
		return eventNames[t]
	}
	return fmt.Sprintf("EventType(%d)", uint8(t))
}

// An Event is what happens in a room, or to the connection. Which fields are set depends on
// Type.
type Event struct {
	Type EventType
	Room string // "" where it is about the connection

	Message *Received
	Welcome *Welcome
	Gap     *Gap

	Member  broker.Member   // without Client
	Members []broker.Member // the first 1000
	Count   int             // of Members, all of them
	On      bool
	Reason  string // lost, slow, kicked, shutdown or error; "": it left by itself

	Err     error
	RetryIn time.Duration

	size int // in the queue
}

// A Received is a message from a room, from its history, or from a member to this one.
type Received struct {
	Room   string
	Seq    uint64        // its place in the room's order; grows, not always by one
	Prev   uint64        // the room's message before it
	Cursor string        // the position after it, for [WithSince]
	ID     string        // the publisher's
	From   broker.Member // zero: the service itself
	To     broker.Target // of a direct message
	Key    string
	Time   time.Time // when it was kept, by the server's clock
	Kind   broker.Kind
	Data   []byte
}

// Text returns the message as a person would read it: text as it is, JSON compact, binary data
// as its length.
func (m *Received) Text() string {
	if m.Kind == broker.KindBinary {
		return fmt.Sprintf("(%d bytes of binary data)", len(m.Data))
	}
	return string(m.Data)
}

// How a stay in a room began, in [Welcome].
const (
	RecoveryNew       = wire.RecoveryNew // without a cursor: the room's last messages follow
	RecoveryRecovered = "recovered"      // nothing was lost: every message after the cursor follows
	RecoveryGap       = "gap"            // the oldest ones are gone: an [EventGap] follows, and all after it
	RecoveryReset     = "reset"          // the cursor is from another history: as with new, and what was known is void
)

// A Welcome says how a stay in a room begins.
type Welcome struct {
	Client      string // this connection
	Session     string // of a guest: the secret that makes it the same user again; see [WithSession]
	User, Name  string
	Room        string
	Cursor      string // where the stream begins
	Seq         uint64 // of Cursor
	Recovery    string
	Members     []broker.Member // the first 100
	MemberCount int
	Limits      Limits
}

// Limits are the server's; docs/protocol.md says what each means.
type Limits struct {
	MessageBytes int64   // of a frame
	Rate         float64 // publishes a second; 0: no limit
	Burst        int     // publishes at once
	DedupWindow  time.Duration
	ResumeWindow time.Duration
	Ping         time.Duration
	History      int // messages kept in the room
	Rooms        int // at once on a connection
}

func newWelcome(w *wire.Welcome) *Welcome {
	ms := func(n int64) time.Duration { return time.Duration(max(min(n, 1<<40), 0)) * time.Millisecond }
	return &Welcome{
		Client: w.Client, Session: w.Session, User: w.User, Name: w.Name, Room: w.Room, Cursor: w.Cursor, Seq: w.Seq,
		Recovery: w.Recovery, Members: w.Members, MemberCount: w.MemberCount,
		Limits: Limits{
			MessageBytes: w.Limits.MessageBytes, Rate: w.Limits.Rate, Burst: w.Limits.Burst,
			DedupWindow: ms(w.Limits.DedupWindowMS), ResumeWindow: ms(w.Limits.ResumeWindowMS),
			Ping: ms(w.Limits.PingMS), History: w.Limits.History, Rooms: w.Limits.Rooms,
		},
	}
}

// A Gap says that every message with a seq between After and Before, neither included, is missing.
type Gap struct {
	Room          string
	After, Before uint64
	Missed        int    // how many; -1: not known
	Reset         bool   // the history began anew: what follows is another one
	Cursor        string // the position just before Before
}

// A frame is any event of the wire.
type frame struct {
	Type   string          `json:"type"`
	ID     string          `json:"id"`
	Room   string          `json:"room"`
	Seq    uint64          `json:"seq"`
	Prev   uint64          `json:"prev"`
	Cursor string          `json:"cursor"`
	From   broker.Member   `json:"from"`
	To     broker.Target   `json:"to"`
	Key    string          `json:"key"`
	Time   time.Time       `json:"time"`
	Data   json.RawMessage `json:"data"`
	Base64 *[]byte         `json:"data_base64"`

	Client      string          `json:"client"` // welcome
	Session     string          `json:"session"`
	User        string          `json:"user"`
	Name        string          `json:"name"`
	Recovery    string          `json:"recovery"`
	Members     []broker.Member `json:"members"`
	MemberCount int             `json:"member_count"`
	Limits      wire.Limits     `json:"limits"`

	Duplicate bool `json:"duplicate"` // ack
	Reached   *int `json:"reached"`

	Code         string `json:"code"` // error
	Message      string `json:"message"`
	RetryAfterMS int64  `json:"retry_after_ms"`

	Member broker.Member `json:"member"` // joined, left, typing
	Reason string        `json:"reason"`
	On     bool          `json:"on"`
	Count  int           `json:"count"` // presence

	After  uint64 `json:"after"` // gap
	Before uint64 `json:"before"`
	Missed *int   `json:"missed"`
	Reset  bool   `json:"reset"`

	Messages []json.RawMessage `json:"messages"` // history; each a frame
	More     bool              `json:"more"`

	ReconnectAfterMS int64 `json:"reconnect_after_ms"` // drain
}

// received returns the message in f.
func (f *frame) received() (*Received, error) {
	m := &Received{
		Room: f.Room, Seq: f.Seq, Prev: f.Prev, Cursor: f.Cursor, ID: f.ID, From: f.From, To: f.To, Key: f.Key, Time: f.Time,
	}
	if f.Base64 != nil {
		m.Kind, m.Data = broker.KindBinary, *f.Base64
		return m, nil
	}
	if f.Data == nil {
		return nil, errors.New("a message without data")
	}
	var err error
	m.Kind, m.Data, err = wire.DecodeData(f.Data)
	return m, err
}
