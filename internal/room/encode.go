package room

import (
	"sync"
	"sync/atomic"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/internal/fanout"
	"github.com/chathub-go/hub/internal/wire"
	"github.com/chathub-go/hub/internal/wsconn"
)

// The doors, as indices of fanout.Batches. A client that agreed on permessage-deflate
// takes its door's frames deflated: Plain|Deflated, JSON|Deflated.
const (
	Plain    = 0
	JSON     = 1
	Deflated = 2
)

// The types of signals between hubs.
const (
	SignalBroadcast = "broadcast" // from the service, to everyone in the room
	SignalDirect    = "direct"    // from one member to another
	SignalTyping    = "typing"    // Data is "on" or "off"
)

var scratch = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// maxScratch is the largest buffer that goes back to the pool: a message at the
// default limit with its envelope.
const maxScratch = 72 << 10

// Encode makes a text frame of what fill appends.
func Encode(fill func([]byte) []byte) *wsconn.Frame {
	b := scratch.Get().(*[]byte)
	*b = fill((*b)[:0])
	f := wsconn.NewFrame(wsconn.OpText, *b)
	if cap(*b) <= maxScratch {
		scratch.Put(b)
	}
	return f
}

// text makes a text frame of a line; none of an empty one.
func text(line string) *wsconn.Frame {
	if line == "" {
		return nil
	}
	return wsconn.NewFrame(wsconn.OpText, []byte(line))
}

// A Stream is one history of a room as clients see it: it encodes what they get.
// Frames of its messages carry it, so that a slow policy can tell rooms apart. It is
// not changed, and safe for concurrent use.
type Stream struct {
	Room  string
	Epoch string
	Text  wire.TextFormat
	// Compress is from how many bytes on a message is deflated, for doors that are.
	Compress int
	Counts   *Counts
}

// Counts are how much was encoded, by all rooms of a hub.
type Counts struct{ Encoded, Deflated atomic.Uint64 }

// deflate returns the frame of a door for the same door, deflated.
func (s *Stream) deflate(f *wsconn.Frame) *wsconn.Frame {
	if f == nil {
		return nil
	}
	g := f.Deflate(s.Compress)
	if g != f {
		s.Counts.Deflated.Add(1)
	}
	return g
}

// Message encodes a message for a door; nil where the door shows nothing of it.
func (s *Stream) Message(door int, m *broker.Message) *wsconn.Frame {
	if door&Deflated != 0 {
		return s.deflate(s.Message(door&^Deflated, m))
	}
	s.Counts.Encoded.Add(1)
	var f *wsconn.Frame
	switch {
	case door == JSON:
		f = Encode(func(b []byte) []byte { return wire.AppendMessage(b, m) })
	case m.Kind == broker.KindBinary:
		f = wsconn.NewFrame(wsconn.OpBinary, m.Data)
	case s.Text.Message != nil:
		f = wsconn.NewFrame(wsconn.OpText, []byte(s.Text.Message(m))) // also where that is empty: it has a seq
	}
	if f != nil {
		f.Stream, f.Prev, f.Seq, f.Key = s, m.Prev, m.Cursor.Seq, scoped(keyRoom, m.From.User, m.Key)
	}
	return f
}

// gap encodes that messages are missing. The cursor has no tag: which message stood
// at its seq is not known any more.
func (s *Stream) gap(door int, g broker.GapBounds, reset bool) *wsconn.Frame {
	if door&JSON != 0 {
		e := wire.Gap{Room: s.Room, After: g.After, Before: g.Before, Missed: g.Missed, Reset: reset}
		if g.Before > 0 {
			e.Cursor = broker.Cursor{Epoch: s.Epoch, Seq: g.Before - 1}.String()
		}
		return Encode(func(b []byte) []byte { return wire.AppendGap(b, &e) })
	}
	if s.Text.Gap == nil {
		return nil
	}
	return text(s.Text.Gap(s.Room, g.Missed))
}

// GapFrame is a wsconn.Options.GapFrame for clients of a door.
func GapFrame(door int) func(stream any, after, before uint64, missed int) *wsconn.Frame {
	return func(stream any, after, before uint64, missed int) *wsconn.Frame {
		return stream.(*Stream).gap(door, broker.GapBounds{After: after, Before: before, Missed: missed}, false)
	}
}

// signal encodes a signal; nil where the door shows nothing of it.
func (s *Stream) signal(door int, sig *broker.Signal) *wsconn.Frame {
	if door&Deflated != 0 {
		return s.deflate(s.signal(door&^Deflated, sig))
	}
	s.Counts.Encoded.Add(1)
	f := s.mark(s.encodeSignal(door, sig))
	if f == nil {
		return nil
	}
	switch sig.Type {
	case SignalBroadcast:
		f.Key = scoped(keyRoom, sig.From.User, sig.Key)
	case SignalDirect:
		f.Key = scoped(keyDirect, sig.From.User, sig.Key)
	case SignalTyping: // of one who types only the last word waits
		f.Key = scoped(keyTyping, sig.From.User, "typing")
	}
	return f
}

// What a key is of: keys of different kinds are different keys.
const (
	keyRoom   = 'r'
	keyDirect = 'd'
	keyTyping = 't'
)

// scoped is a message's key among all of its room: a user's keys are its own, so that nobody
// makes another's messages go; those of the service, which has no user, are the room's.
func scoped(kind byte, user, key string) string {
	if key == "" {
		return ""
	}
	return string([]byte{kind, byte(min(len(key), 255))}) + key + user // the length marks where the user begins
}

func (s *Stream) encodeSignal(door int, sig *broker.Signal) *wsconn.Frame {
	switch sig.Type {
	case SignalBroadcast:
		if door == JSON {
			return Encode(func(b []byte) []byte { return wire.AppendSignal(b, sig) })
		}
		return RawFrame(sig.Kind, sig.Data)
	case SignalDirect:
		if door == JSON {
			return Encode(func(b []byte) []byte { return wire.AppendDirect(b, sig) })
		}
		if sig.Kind == broker.KindBinary {
			return wsconn.NewFrame(wsconn.OpBinary, sig.Data)
		}
		if s.Text.Direct != nil {
			return wsconn.NewFrame(wsconn.OpText, []byte(s.Text.Direct(sig)))
		}
	case SignalTyping:
		if door == JSON {
			t := wire.Typing{Room: s.Room, Member: sig.From, On: string(sig.Data) == "on"}
			return Encode(func(b []byte) []byte { return wire.AppendTyping(b, &t) })
		}
	}
	return nil
}

// RawFrame is a frame of the bytes as they are.
func RawFrame(k broker.Kind, data []byte) *wsconn.Frame {
	if k == broker.KindBinary {
		return wsconn.NewFrame(wsconn.OpBinary, data)
	}
	return wsconn.NewFrame(wsconn.OpText, data)
}

func (s *Stream) joined(door int, m broker.Member) *wsconn.Frame {
	switch {
	case door&JSON != 0:
		return s.mark(Encode(func(b []byte) []byte {
			return wire.AppendJoined(b, &wire.Joined{Room: s.Room, Member: m})
		}))
	case s.Text.Joined != nil:
		return s.mark(text(s.Text.Joined(s.Room, m)))
	}
	return nil
}

func (s *Stream) left(door int, m broker.Member, reason string) *wsconn.Frame {
	switch {
	case door&JSON != 0:
		return s.mark(Encode(func(b []byte) []byte {
			return wire.AppendLeft(b, &wire.Left{Room: s.Room, Member: m, Reason: reason})
		}))
	case s.Text.Left != nil:
		return s.mark(text(s.Text.Left(s.Room, m, reason)))
	}
	return nil
}

// presence encodes who is in the room; the plain door shows nothing of it.
func (s *Stream) presence(door int, members []broker.Member, count int) *wsconn.Frame {
	if door&JSON == 0 {
		return nil
	}
	p := wire.Presence{Room: s.Room, Members: members, Count: count}
	return s.mark(Encode(func(b []byte) []byte { return wire.AppendPresence(b, &p) }))
}

// mark makes a frame one that a slow policy may drop, with no gap told.
func (s *Stream) mark(f *wsconn.Frame) *wsconn.Frame {
	if f != nil {
		f.Stream = s
	}
	return f
}

// batches gathers frames for each door.
type batches [fanout.Doors][]*wsconn.Frame

func (b *batches) add(door int, f *wsconn.Frame) {
	if f != nil {
		b[door] = append(b[door], f)
	}
}

func (b *batches) addAll(frames *[fanout.Doors]*wsconn.Frame) {
	for door, f := range frames {
		b.add(door, f)
	}
}

// take returns what was gathered, nil where nothing was, and empties b for reuse.
func (b *batches) take() *fanout.Batches {
	var out *fanout.Batches
	for door, frames := range b {
		if len(frames) == 0 {
			continue
		}
		if out == nil {
			out = new(fanout.Batches)
		}
		out[door] = wsconn.NewBatch(append([]*wsconn.Frame(nil), frames...)...)
		clear(frames)
		b[door] = frames[:0]
	}
	return out
}

// forDoor is a batch for a client of one door; nil without frames.
func forDoor(door int, frames ...*wsconn.Frame) *fanout.Batches {
	kept := frames[:0:0]
	for _, f := range frames {
		if f != nil {
			kept = append(kept, f)
		}
	}
	if len(kept) == 0 {
		return nil
	}
	out := new(fanout.Batches)
	out[door] = wsconn.NewBatch(kept...)
	return out
}

// Reset encodes, for a door, that another history follows: s is its stream, after the
// last seq of the one before, and before its first.
func (s *Stream) Reset(door int, after, before uint64) *wsconn.Frame {
	return s.gap(door, broker.GapBounds{After: after, Before: before, Missed: -1}, true)
}
