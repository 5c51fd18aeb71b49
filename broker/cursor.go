package broker

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
)

// MaxEpoch is the longest epoch, in bytes.
const MaxEpoch = 32

// A Cursor is a position in a room's history: after the message with that seq.
type Cursor struct {
	// Epoch names the history: 1 to MaxEpoch bytes, unique to the room and to the
	// life of its history. Seqs of two epochs can't be compared.
	Epoch string
	Seq   uint64
	// Tag tells the message at Seq from another that took its place after a loss;
	// each broker derives it in its own way, and none is 0. With 0, the message at Seq is
	// not known: a position just before another message, which is not compared.
	Tag uint64
}

var errCursor = errors.New("hub: cursor is not one that this hub gave")

// cursorVersion is the first byte of a token; another layout takes another.
const cursorVersion = 1

// String returns the cursor as an opaque token of URL-safe characters, at most 70
// bytes long; the zero Cursor is "".
func (c Cursor) String() string {
	if c == (Cursor{}) {
		return ""
	}
	var b [1 + binary.MaxVarintLen64 + 8 + MaxEpoch]byte
	p := append(b[:0], cursorVersion)
	p = binary.AppendUvarint(p, c.Seq)
	p = binary.BigEndian.AppendUint64(p, c.Tag)
	p = append(p, c.Epoch...)
	return base64.RawURLEncoding.EncodeToString(p)
}

// ParseCursor reads a token that String wrote. The empty token is the zero Cursor.
func ParseCursor(s string) (Cursor, error) {
	if s == "" {
		return Cursor{}, nil
	}
	if len(s) > 70 {
		return Cursor{}, errCursor
	}
	p, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(p) == 0 || p[0] != cursorVersion {
		return Cursor{}, errCursor
	}
	seq, n := binary.Uvarint(p[1:])
	if n <= 0 || len(p) < 1+n+8+1 || len(p) > 1+n+8+MaxEpoch {
		return Cursor{}, errCursor
	}
	p = p[1+n:]
	c := Cursor{Epoch: string(p[8:]), Seq: seq, Tag: binary.BigEndian.Uint64(p)}
	if c.String() != s { // one token for one cursor: no overlong varint
		return Cursor{}, errCursor
	}
	return c, nil
}
