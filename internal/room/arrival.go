package room

import (
	"context"
	"time"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/internal/catchup"
	"github.com/chathub-go/hub/internal/wire"
	"github.com/chathub-go/hub/internal/wsconn"
)

// lateRead is how long a catch-up waits for a message that the loop has and the
// broker's history does not show yet.
const lateRead = 10 * time.Millisecond

// An Arrival gives a member what it missed. Its methods belong to one goroutine.
type Arrival struct {
	Loop   *Loop
	Member *Member
	Reader *catchup.Reader
}

// FirstPage reads what the member gets with its welcome: the first page after a cursor,
// if it has one of this history, or else the last messages. It returns the joining, but
// for its Key and Welcome, and the word for the welcome's recovery.
func (a *Arrival) FirstPage(ctx context.Context, since broker.Cursor, resume bool, history int) (*Joining, string, error) {
	j := &Joining{Member: a.Member}
	recovery := wire.RecoveryNew
	if resume {
		page, err := a.Reader.Since(ctx, a.Loop.cfg.Name, since)
		if err != nil {
			return nil, "", err
		}
		recovery = page.Verdict.String()
		if page.Verdict != broker.Reset {
			j.Start, j.At = since, page.Next
			a.first(j, page)
			return j, recovery, nil
		}
	}
	if history <= 0 {
		j.Fresh = true
		return j, recovery, nil
	}
	page, err := a.Reader.Before(ctx, a.Loop.cfg.Name, 0, history)
	if err != nil {
		return nil, "", err
	}
	j.Start, j.At = page.Head, page.Head
	if n := len(page.Messages); n > 0 {
		// Which message stood before the first is not known: a cursor without its tag.
		j.Start = broker.Cursor{Epoch: page.Messages[0].Cursor.Epoch, Seq: page.Messages[0].Prev}
		j.At = page.Messages[n-1].Cursor
		a.first(j, page)
	}
	return j, recovery, nil
}

// first puts as much of a page into the joining as the member may be given at one time;
// the rest is for CatchUp.
func (a *Arrival) first(j *Joining, page *catchup.Page) {
	stream := a.Loop.NewStream(page.Head.Epoch) // the page's, wherever the loop is
	frames := a.frames(stream, page)
	n, some := a.Member.fit(frames)
	if n < len(frames) {
		j.At = page.Messages[n-1].Cursor
	}
	if page.Verdict == broker.Gap {
		some = append([]*wsconn.Frame{stream.gap(a.Member.Door, page.Gap, false)}, some...)
	}
	j.First = some
}

// CatchUp sends what follows a position, page after page and no faster than the client
// reads, until the loop takes over. Where it returns false, the error says whether the
// history could not be read; there is none where the member is leaving.
func (a *Arrival) CatchUp(ctx context.Context, at broker.Cursor) (live bool, err error) {
	stream := a.Loop.NewStream(at.Epoch)
	for {
		// Live with a queue that is half empty: a burst right then is no reason to be
		// taken for slow.
		if a.Member.Conn.SendWait(ctx, wsconn.NewBatch()) != nil {
			return false, nil
		}
		answer := a.Loop.live(ctx, a.Member, at)
		if answer.live || answer.err != nil {
			return answer.live, nil
		}
		if answer.part != nil { // nearly there: no need to ask the broker
			if !a.send(ctx, answer.part) {
				return false, nil
			}
			at = answer.next
			continue
		}
		page, err := a.Reader.Since(ctx, a.Loop.cfg.Name, at)
		switch {
		case ctx.Err() != nil:
			return false, nil
		case err != nil:
			return false, err
		}
		var notice *wsconn.Frame
		next := page.Next
		switch page.Verdict {
		case broker.Gap: // it fell off what is kept on the way
			notice = stream.gap(a.Member.Door, page.Gap, false)
		case broker.Reset: // the history was lost on the way: on with the new one, from its beginning
			next = broker.Cursor{Epoch: page.Head.Epoch}
			stream = a.Loop.NewStream(next.Epoch)
			notice = stream.Reset(a.Member.Door, at.Seq, 1)
		}
		if next == at && notice == nil { // a broker that shows what it kept late
			select {
			case <-time.After(lateRead):
			case <-ctx.Done():
				return false, nil
			}
		}
		at = next
		if !a.send(ctx, []*wsconn.Frame{notice}) || !a.send(ctx, a.frames(stream, page)) {
			return false, nil
		}
	}
}

// send sends frames, of which some may be nil, in portions that the member may be given;
// false where it is leaving.
func (a *Arrival) send(ctx context.Context, frames []*wsconn.Frame) bool {
	for len(frames) > 0 {
		n, some := a.Member.fit(frames)
		if len(some) > 0 && a.Member.Conn.SendWait(ctx, wsconn.NewBatch(some...)) != nil {
			return false
		}
		frames = frames[n:]
	}
	return true
}

// frames encodes a page: a frame for each message, nil where the door shows nothing.
func (a *Arrival) frames(stream *Stream, page *catchup.Page) []*wsconn.Frame {
	door := a.Member.Door
	plain := door &^ Deflated
	frames := page.Frames(plain, func(i int) *wsconn.Frame { return stream.Message(plain, page.Messages[i]) })
	if door == plain {
		return frames
	}
	return page.Frames(door, func(i int) *wsconn.Frame { return stream.deflate(frames[i]) })
}
