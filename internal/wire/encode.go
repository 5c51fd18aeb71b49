package wire

import (
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/chathub-go/hub/broker"
)

// AppendMessage appends m as a message event. It allocates nothing beyond dst.
func AppendMessage(dst []byte, m *broker.Message) []byte {
	dst = append(dst, `{"type":"message",`...)
	return append(appendMessageFields(dst, m), '}')
}

func appendMessageFields(dst []byte, m *broker.Message) []byte {
	dst = append(dst, `"room":`...)
	dst = appendString(dst, m.Room)
	dst = append(dst, `,"seq":`...)
	dst = strconv.AppendUint(dst, m.Cursor.Seq, 10)
	dst = append(dst, `,"prev":`...)
	dst = strconv.AppendUint(dst, m.Prev, 10)
	dst = append(dst, `,"cursor":"`...)
	dst = appendCursor(dst, m.Cursor)
	dst = append(dst, '"')
	dst = appendOptional(dst, `,"id":`, m.ID)
	dst = append(dst, `,"from":`...)
	dst = appendMember(dst, m.From)
	dst = appendOptional(dst, `,"key":`, m.Key)
	dst = appendTime(dst, m.Time)
	return appendData(dst, m.Kind, m.Data)
}

// AppendDirect appends s as a direct event.
func AppendDirect(dst []byte, s *broker.Signal) []byte {
	dst = append(dst, `{"type":"direct"`...)
	dst = appendOptional(dst, `,"room":`, s.Room)
	dst = appendOptional(dst, `,"id":`, s.ID)
	dst = append(dst, `,"from":`...)
	dst = appendMember(dst, s.From)
	dst = append(dst, `,"to":{`...)
	if s.To.Client != "" {
		dst = append(dst, `"client":`...)
		dst = appendString(dst, s.To.Client)
	} else {
		dst = append(dst, `"user":`...)
		dst = appendString(dst, s.To.User)
	}
	dst = append(dst, '}')
	dst = appendOptional(dst, `,"key":`, s.Key)
	dst = appendTime(dst, s.Time)
	return append(appendData(dst, s.Kind, s.Data), '}')
}

// AppendSignal appends s as a signal event: from the service, to a room or, where
// s.Room is "", to one client. Id, From, Key and Time are left out where they are zero.
func AppendSignal(dst []byte, s *broker.Signal) []byte {
	dst = append(dst, `{"type":"signal"`...)
	dst = appendOptional(dst, `,"room":`, s.Room)
	dst = appendOptional(dst, `,"id":`, s.ID)
	if s.From != (broker.Member{}) {
		dst = append(dst, `,"from":`...)
		dst = appendMember(dst, s.From)
	}
	dst = appendOptional(dst, `,"key":`, s.Key)
	if !s.Time.IsZero() {
		dst = appendTime(dst, s.Time)
	}
	return append(appendData(dst, s.Kind, s.Data), '}')
}

// appendData appends the field data or data_base64, the comma before it included.
func appendData(dst []byte, k broker.Kind, data []byte) []byte {
	switch {
	case k == broker.KindBinary:
		dst = append(dst, `,"data_base64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, data)
		return append(dst, '"')
	case k == broker.KindJSON && len(data) > 0:
		dst = append(dst, `,"data":`...)
		return append(dst, data...)
	default:
		dst = append(dst, `,"data":`...)
		return appendString(dst, data)
	}
}

// appendMember appends a publisher. What is not known is left out.
func appendMember(dst []byte, m broker.Member) []byte {
	dst = append(dst, '{')
	if m.Client != "" {
		dst = append(dst, `"id":`...)
		dst = appendString(dst, m.Client)
	}
	return append(appendUser(dst, m), '}')
}

// appendMembers appends the first most members, without their connections.
func appendMembers(dst []byte, members []broker.Member, most int) []byte {
	dst = append(dst, `,"members":[`...)
	for i, m := range members[:min(len(members), most)] {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, '{')
		dst = append(appendUser(dst, m), '}')
	}
	return append(dst, ']')
}

// appendUser appends user and name to an object that was begun.
func appendUser(dst []byte, m broker.Member) []byte {
	for _, f := range [2]struct{ name, value string }{{`"user":`, m.User}, {`"name":`, m.Name}} {
		if f.value == "" {
			continue
		}
		if dst[len(dst)-1] != '{' {
			dst = append(dst, ',')
		}
		dst = append(dst, f.name...)
		dst = appendString(dst, f.value)
	}
	return dst
}

// appendTime appends the field time: RFC 3339 with milliseconds, UTC.
func appendTime(dst []byte, t time.Time) []byte {
	dst = append(dst, `,"time":"`...)
	dst = t.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
	return append(dst, '"')
}

// appendCursor appends what c.String returns, without its allocations; a test holds the
// two together.
func appendCursor(dst []byte, c broker.Cursor) []byte {
	if c == (broker.Cursor{}) {
		return dst
	}
	var b [1 + binary.MaxVarintLen64 + 8 + broker.MaxEpoch]byte
	p := append(b[:0], 1)
	p = binary.AppendUvarint(p, c.Seq)
	p = binary.BigEndian.AppendUint64(p, c.Tag)
	p = append(p, c.Epoch...)
	return base64.RawURLEncoding.AppendEncode(dst, p)
}

// appendOptional appends a field whose name is given ready, unless value is "".
func appendOptional(dst []byte, name, value string) []byte {
	if value == "" {
		return dst
	}
	dst = append(dst, name...)
	return appendString(dst, value)
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string. What is not UTF-8 becomes U+FFFD; U+2028 and
// U+2029 are escaped, since JavaScript before 2019 takes them for line ends.
func appendString[T string | []byte](dst []byte, s T) []byte {
	dst = append(dst, '"')
	done := 0 // s[:done] is appended
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
			switch {
			case r == utf8.RuneError && size == 1:
				dst = append(dst, s[done:i]...)
				dst = append(dst, "\ufffd"...)
				done = i + 1
			case r == '\u2028' || r == '\u2029':
				dst = append(dst, s[done:i]...)
				dst = append(dst, `\u202`...)
				dst = append(dst, hexDigits[r&0xf])
				done = i + size
			}
			i += size
			continue
		}
		i++
		if c >= ' ' && c != '"' && c != '\\' && c != 0x7f {
			continue
		}
		dst = append(dst, s[done:i-1]...)
		done = i
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
		}
	}
	dst = append(dst, s[done:]...)
	return append(dst, '"')
}
