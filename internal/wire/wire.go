// Package wire is what goes over a connection: the JSON door (subprotocol
// hub.v1.json), in which commands come in and events go out, and the plain-text door.
// docs/protocol.md specifies both; a test of this package holds every example in it.
//
// [Decode] reads one command. For each event there is a function that appends it to a
// buffer; none of them keeps what it is given, and all may be called concurrently.
package wire

import (
	"time"

	"github.com/chathub-go/hub/broker"
)

// Subprotocol is the name of the JSON door in Sec-WebSocket-Protocol.
const Subprotocol = "hub.v1.json"

// The types of commands.
const (
	CommandPublish  = "publish"
	CommandJoin     = "join"
	CommandLeave    = "leave"
	CommandTyping   = "typing"
	CommandPresence = "presence"
	CommandHistory  = "history"
	CommandPing     = "ping"
)

// The types of events.
const (
	EventWelcome  = "welcome"
	EventMessage  = "message"
	EventDirect   = "direct"
	EventSignal   = "signal"
	EventAck      = "ack"
	EventError    = "error"
	EventJoined   = "joined"
	EventLeft     = "left"
	EventTyping   = "typing"
	EventPresence = "presence"
	EventGap      = "gap"
	EventHistory  = "history"
	EventLeftRoom = "left_room"
	EventDrain    = "drain"
	EventPong     = "pong"
)

// RecoveryNew is the recovery of a welcome to a client that came without a cursor.
// The others are broker.Verdict's words.
const RecoveryNew = "new"

// Why a member left, or why a connection is no longer in a room. A clean close, or the
// client's own leave, has no reason.
const (
	ReasonLost     = "lost"     // cut off, and the resume window has passed
	ReasonSlow     = "slow"     // it could not keep up
	ReasonKicked   = "kicked"   // the service, or a limit, closed it
	ReasonShutdown = "shutdown" // the room or the hub was closed
	ReasonError    = "error"    // it broke the protocol, or a callback panicked
)

// Bounds of the fields of commands, and of the lists in events.
const (
	MaxDepth          = 64   // nesting of a command's JSON, its own object included
	MaxJoinHistory    = 1000 // of history in join and in the URL
	MaxHistoryLimit   = 100  // of limit in history
	HistoryLimit      = 50   // where history has no limit
	MaxWelcomeMembers = 100  // of members in welcome
	MaxListMembers    = 1000 // of members in presence
)

// A Command is what a client wants. Which fields matter depends on Type.
type Command struct {
	Type string // one of the Command constants
	ID   string // echoed in the answer; "" where the client gave none
	Room string // "" is the room of the connection's URL

	// Of join. An empty since counts as none.
	Since    string // a cursor that parses
	HasSince bool
	History  int // 0 to MaxJoinHistory; -1 where not given

	// Of publish. Data belongs to the caller of Decode.
	Kind broker.Kind
	Data []byte
	To   broker.Target // zero: everyone in the room
	Key  string        // ""; or what ValidKey allows

	On bool // of typing

	// Of history. Before is 0 for the newest page.
	Before uint64
	Limit  int // 1 to MaxHistoryLimit
}

// The codes of errors.
const (
	CodeBadJSON       = "bad_json"        // not one JSON object
	CodeBadCommand    = "bad_command"     // an unknown type
	CodeBadRequest    = "bad_request"     // a field is missing or invalid
	CodeTooLarge      = "too_large"       // more than can be kept
	CodeRate          = "rate"            // faster than the limit
	CodeBusy          = "busy"            // the server is at a bound
	CodeOutOfOrder    = "out_of_order"    // ordered=1, and an earlier publish must come first
	CodeIDReused      = "id_reused"       // the id was used for another payload
	CodeForbidden     = "forbidden"       // this client may not do that
	CodeNotInRoom     = "not_in_room"     // the connection is not in that room
	CodeAlreadyInRoom = "already_in_room" // it is
	CodeRoomLimit     = "room_limit"      // it is in as many rooms as it may be
	CodeRefused       = "refused"         // the service refused the message
	CodeDraining      = "draining"        // the server is going away
	CodeInternal      = "internal"        // the server failed
	CodeUnavailable   = "unavailable"     // the broker can't be reached, or took too long
)

// Retryable tells for each code whether the same command may succeed later. A publish
// is repeated under the same id: whether the first one was kept may not be known.
var Retryable = map[string]bool{
	CodeBadJSON:       false,
	CodeBadCommand:    false,
	CodeBadRequest:    false,
	CodeTooLarge:      false,
	CodeRate:          true,
	CodeBusy:          true,
	CodeOutOfOrder:    true,
	CodeIDReused:      false,
	CodeForbidden:     false,
	CodeNotInRoom:     false,
	CodeAlreadyInRoom: false,
	CodeRoomLimit:     false,
	CodeRefused:       false,
	CodeDraining:      true,
	CodeInternal:      false,
	CodeUnavailable:   true,
}

// An Error is the answer to a command that was not done.
type Error struct {
	ID      string `json:"id,omitempty"`   // the command's, where it had a valid one
	Room    string `json:"room,omitempty"` // the command's, where it had a valid one
	Code    string `json:"code"`           // one of the Code constants
	Message string `json:"message"`        // for people; names the field that is wrong

	// RetryAfter is how long to wait before the same command; 0 is not said.
	RetryAfter time.Duration `json:"-"`
}

func (e *Error) Error() string { return "hub: " + e.Code + ": " + e.Message }

// Retryable tells whether the same command may succeed later.
func (e *Error) Retryable() bool { return Retryable[e.Code] }
