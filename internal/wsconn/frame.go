package wsconn

import (
	"encoding/binary"
	"strings"
	"sync/atomic"
	"unicode/utf8"
)

// An Opcode says what a data message is (RFC 6455, section 5.2).
type Opcode byte

const (
	OpText   Opcode = 1 // UTF-8 text
	OpBinary Opcode = 2 // any bytes
)

const (
	opClose = 0x8
	opPing  = 0x9
	opPong  = 0xA

	finBit = 0x80

	// maxHeader is the longest header of an unmasked frame: two bytes and a 64-bit length.
	maxHeader = 2 + 8

	// maxReason is what a close frame holds beside its code: a control frame's
	// payload is at most 125 bytes (RFC 6455, section 5.5).
	maxReason = 125 - 2
)

// pingFrame is a ping with no payload.
var pingFrame = []byte{finBit | opPing, 0}

// A Frame is one encoded WebSocket message (header and payload, unmasked), shared by
// every connection that gets it, and not changed once made.
type Frame struct {
	Bytes []byte

	// Stream, where not nil, marks a room's message, which a slow policy may drop.
	// It is compared with ==: a pointer in practice.
	Stream any

	// Seq is the message's position in the stream and Prev the one before it. A
	// frame with Seq 0 is a signal: it may be dropped with no gap told.
	Prev, Seq uint64

	// Key, where not "", lets LatestPerKey drop the frame for a newer one of the same key
	// and stream. Without a stream the key is the connection's own.
	Key string

	holders atomic.Int32 // connections that it waits for, where a Budget counts them
}

// NewFrame encodes a message, with one allocation for its bytes.
func NewFrame(op Opcode, payload []byte) *Frame {
	return &Frame{Bytes: AppendFrame(make([]byte, 0, maxHeader+len(payload)), op, payload)}
}

// AppendFrame appends an encoded message to dst.
func AppendFrame(dst []byte, op Opcode, payload []byte) []byte {
	return append(appendHeader(dst, byte(op), len(payload)), payload...)
}

func appendHeader(dst []byte, op byte, n int) []byte {
	dst = append(dst, finBit|op)
	switch {
	case n <= 125:
		return append(dst, byte(n))
	case n <= 0xFFFF:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
	}
}

// closeFrame encodes a close frame. A code that may not be sent becomes a close frame
// without one.
func closeFrame(code int, reason string) []byte {
	if !sendable(code) {
		return []byte{finBit | opClose, 0}
	}
	reason = cutReason(reason)
	dst := appendHeader(nil, opClose, 2+len(reason))
	dst = binary.BigEndian.AppendUint16(dst, uint16(code))
	return append(dst, reason...)
}

// sendable tells whether a close frame may carry the code: it is one that RFC 6455 (section
// 7.4.1) or the IANA registry defines for the wire, which 1004 "reserved", 1005 "none", 1006
// "lost" and 1015 "TLS" are not, or one of the ranges for libraries and applications
// (section 7.4.2).
func sendable(code int) bool {
	return code >= 1000 && code <= 1003 || code >= 1007 && code <= 1014 || code >= 3000 && code <= 4999
}

// cutReason makes a close reason valid UTF-8 of at most maxReason bytes, cut where a rune ends.
func cutReason(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxReason {
		return s
	}
	n := maxReason
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// A Batch is several frames that go out together. It is shared like they are.
type Batch struct {
	Frames []*Frame
	Bytes  []byte // the frames' bytes, one after another
}

// NewBatch joins frames. For a single one, Bytes are the frame's own.
func NewBatch(frames ...*Frame) *Batch {
	if len(frames) == 1 {
		return &Batch{Frames: frames, Bytes: frames[0].Bytes}
	}
	n := 0
	for _, f := range frames {
		n += len(f.Bytes)
	}
	all := make([]byte, 0, n)
	for _, f := range frames {
		all = append(all, f.Bytes...)
	}
	return &Batch{Frames: frames, Bytes: all}
}
