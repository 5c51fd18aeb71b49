package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/chathub-go/hub/broker"
)

// An event is any event of the JSON door; fields that it lacks are zero.
type event struct {
	Type, Room, ID, Cursor, Recovery, Code, Reason, Message, Key string
	Session, User, Name                                          string
	Seq, Prev, After, Before                                     uint64
	Missed                                                       *int
	Members                                                      []broker.Member
	MemberCount                                                  int `json:"member_count"`
	Count                                                        int
	Member, From                                                 broker.Member
	Data                                                         json.RawMessage
	DataBase64                                                   []byte `json:"data_base64"`
	Duplicate, Reset                                             bool
	RetryAfterMS                                                 int64 `json:"retry_after_ms"`
	ReconnectAfterMS                                             int64 `json:"reconnect_after_ms"`
}

// item is what the event says of a position.
func (e *event) item() (i item, err error) {
	i = item{prev: e.Prev, id: e.ID, user: e.From.User, after: e.After, before: e.Before, missed: -1, reset: e.Reset, recovery: e.Recovery}
	if i.cursor, err = broker.ParseCursor(e.Cursor); err != nil {
		return i, err
	}
	switch e.Type {
	case "welcome":
		i.kind = itemWelcome
	case "gap":
		i.kind = itemGap
		if e.Missed != nil {
			i.missed = *e.Missed
		}
	case "message":
		i.kind = itemMessage
		m := &broker.Message{Kind: broker.KindBinary, Data: e.DataBase64, Key: e.Key}
		if e.DataBase64 == nil {
			m.Kind, m.Data = broker.KindJSON, e.Data
			if strings.HasPrefix(string(e.Data), `"`) {
				var text string
				err = json.Unmarshal(e.Data, &text)
				m.Kind, m.Data = broker.KindText, []byte(text)
			}
		}
		i.sum = sum(m)
	}
	if e.Type != "gap" && i.cursor.Seq != e.Seq {
		err = fmt.Errorf("seq %d with cursor %s", e.Seq, position(i.cursor))
	}
	return i, err
}

// read takes what comes until the connection ends.
func (n *rawConn) read() error {
	for events := 0; ; events++ {
		for _, l := range n.pause {
			if l.after == events && !n.c.w.calm() {
				count("slow reader")
				n.lull(true)
				n.c.w.pauseUntilCalm(l.long)
				n.lull(false)
			}
		}
		_, p, err := n.ws.Read(context.Background())
		if err != nil {
			return err
		}
		var e event
		if err := json.Unmarshal(p, &e); err != nil {
			n.c.w.fail("%s: an event that can't be read: %v: %.100q", n.c.name, err, p)
			continue
		}
		n.take(&e)
		n.c.poke()
	}
}

func (n *rawConn) lull(on bool) {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	n.lulled, n.heard = on, time.Now()
}

// take does what an event means.
func (n *rawConn) take(e *event) {
	c := n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	n.heard, n.pinged = time.Now(), false
	if c.conn == nil && e.Type != "welcome" {
		c.w.fail("%s: %s before the welcome", c.name, e.Type)
		return
	}
	r := c.rooms[e.Room]
	switch e.Type {
	case "welcome":
		n.welcome(e, r)
	case "message", "gap":
		if r == nil || !r.in {
			c.w.fail("%s: %s of %q, in which it is not", c.name, e.Type, e.Room)
			return
		}
		r.note(c.w, e)
		if e.Type == "gap" {
			count("gap")
			n.ask(e.Room, r) // what was dropped may have been joins and leaves
			if e.Reset {
				c.doubt(e.Room)
			}
		}
	case "ack":
		n.acked(e)
	case "error":
		n.refused(e)
	case "joined", "left", "presence":
		n.presence(e, r)
	case "left_room":
		if r != nil {
			r.in, r.asked = false, time.Time{}
			if e.ID == "" {
				count("left room by the service")
				c.later(time.Second, e.Room, r)
			}
		}
	case "drain":
		count("drain")
		if c.obeys {
			c.notFor = time.Duration(e.ReconnectAfterMS) * time.Millisecond
		}
	}
}

// later lets the client ask for a room again after a pause. c.mu is held.
func (c *raw) later(d time.Duration, room string, r *rawRoom) {
	conn := c.conn
	asked := time.Now()
	r.asked = asked
	c.w.go_(func() {
		c.w.pause(d)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.conn == conn && !r.in && r.asked.Equal(asked) {
			r.asked = time.Time{}
			c.poke()
		}
	})
}

func (r *rawRoom) note(w *world, e *event) {
	i, err := e.item()
	if err != nil {
		w.fail("%s: %s: %v", r.track.who, e.Type, err)
		return
	}
	if e.Type == "welcome" {
		i.asked = r.asked
		i.since, _ = broker.ParseCursor(r.since)
	}
	r.track.add(i)
	if e.Cursor != "" {
		r.cursor = e.Cursor
	}
}

// welcome takes the client into a room. c.mu is held, as for all below.
func (n *rawConn) welcome(e *event, r *rawRoom) {
	c := n.c
	if r == nil || r.in || r.asked.IsZero() {
		c.w.fail("%s: a welcome to %q, for which it did not ask", c.name, e.Room)
		return
	}
	if c.conn == nil {
		if e.Room != c.home {
			c.w.fail("%s: the first welcome is to %q", c.name, e.Room)
		}
		if c.user != "" && (c.user != e.User || c.session != e.Session) {
			c.w.fail("%s: it is %s now, and was %s", c.name, e.User, c.user)
		}
		c.conn, c.session, c.user = n, e.Session, e.User
		c.w.known(c.name, e.User)
	}
	r.note(c.w, e)
	if e.Recovery == "reset" {
		c.doubt(e.Room)
	}
	r.in = true
	r.members, r.sure = map[string]string{}, len(e.Members) == e.MemberCount
	for _, m := range e.Members {
		r.members[m.User] = m.Name
	}
	if !r.wanted { // it had left while this was under way
		n.out = append(n.out, []byte(fmt.Sprintf(`{"type":"leave","id":"leave","room":%q}`, e.Room)))
	}
}

// doubt gives up what was sent to a room whose history is another now.
func (c *raw) doubt(room string) {
	c.drop(func(m *outgoing) bool { return m.room == room && !m.maybe.IsZero() && !m.flying })
}

func (n *rawConn) ask(room string, r *rawRoom) {
	r.sure = false
	n.out = append(n.out, []byte(fmt.Sprintf(`{"type":"presence","id":"who","room":%q}`, room)))
}

func (n *rawConn) presence(e *event, r *rawRoom) {
	if r == nil || !r.in {
		n.c.w.fail("%s: %s of %q, in which it is not", n.c.name, e.Type, e.Room)
		return
	}
	switch e.Type {
	case "joined":
		r.members[e.Member.User] = e.Member.Name
	case "left":
		delete(r.members, e.Member.User)
	default:
		r.members, r.sure = map[string]string{}, e.Count == len(e.Members)
		for _, m := range e.Members {
			r.members[m.User] = m.Name
		}
		if e.ID != "" {
			r.answers++
		}
	}
}

// find returns the message under way with that id.
func (c *raw) find(id string) *outgoing {
	for _, m := range c.outbox {
		if m.id == id && m.flying {
			return m
		}
	}
	return nil
}

func (n *rawConn) acked(e *event) {
	m := n.c.find(e.ID)
	if m == nil {
		n.c.w.fail("%s: an ack of %q, which was not sent", n.c.name, e.ID)
		return
	}
	m.outcome, m.seq, m.cursor, m.duplicate = acked, e.Seq, e.Cursor, e.Duplicate
	count("acked")
	if e.Duplicate {
		count("acked as a duplicate")
	}
	n.c.drop(func(o *outgoing) bool { return o == m })
}

var retryable = []string{"rate", "busy", "unavailable", "out_of_order", "draining"}

func (n *rawConn) refused(e *event) {
	c := n.c
	count("error " + e.Code)
	after := time.Duration(max(e.RetryAfterMS, 20)) * time.Millisecond
	again := slices.Contains(retryable, e.Code)
	if m := c.find(e.ID); m != nil {
		m.flying = false
		if again {
			m.doubtful = m.doubtful || e.Code == "unavailable"
			if n.holding = c.ordered; e.Code != "out_of_order" {
				m.notBefore = time.Now().Add(after)
				if c.ordered {
					n.held = m
				}
			}
			return
		}
		if m.why = e.Code; !m.doubtful {
			m.outcome = refused
		}
		if e.Code != "not_in_room" {
			c.w.fail("%s: message %s was refused: %s %s", c.name, m.token, e.Code, e.Message)
		}
		c.drop(func(o *outgoing) bool { return o == m })
		return
	}
	r := c.rooms[e.Room]
	switch {
	case e.ID == "who" && e.Code == "not_in_room": // it has left meanwhile
	case e.ID == "who" && again && (r == nil || !r.in):
	case e.ID == "who" && again:
		time.AfterFunc(after, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.conn == n && r.in {
				n.ask(e.Room, r)
				c.poke()
			}
		})
	case e.ID == "leave" && e.Code == "not_in_room": // the service was faster
	case e.ID == "leave" && again && r != nil:
		time.AfterFunc(after, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.conn == n && r.in && !r.wanted {
				n.out = append(n.out, []byte(fmt.Sprintf(`{"type":"leave","id":"leave","room":%q}`, e.Room)))
				c.poke()
			}
		})
	case e.ID == "" && again && r != nil && !r.in: // join
		c.later(after, e.Room, r)
	case e.ID == "" && again: // ping
	default:
		c.w.fail("%s: an error that it did not expect: %+v", c.name, e)
	}
}

// twin is another connection with the same session and cursor, as a browser's second tab makes one.
func (c *raw) twin(r *rand.Rand, q url.Values) {
	count("twin")
	hub, long, how := r.IntN(c.w.p.hubs), r.Float64(), r.IntN(2)
	asked := time.Now()
	ws, l, err := c.w.dial(hub, c.number, c.dials+1<<16, c.home, q, true, false)
	if err != nil {
		return
	}
	room := &rawRoom{track: &track{who: c.name + "'s twin", room: c.home}, asked: asked, since: q.Get("since")}
	c.w.tracked(room.track)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			_, p, err := ws.Read(context.Background())
			if err != nil {
				return
			}
			var e event
			_ = json.Unmarshal(p, &e)
			if e.Type == "welcome" || e.Type == "message" || e.Type == "gap" {
				room.note(c.w, &e)
			}
		}
	}()
	c.w.pauseUntilCalm(time.Duration(long * float64(4*time.Second)))
	if how == 0 {
		_ = ws.Close(1000, "")
	} else {
		l.Cut()
	}
	ws.CloseNow()
	<-done
}

// settled tells what the client still waits for.
func (c *raw) settled() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.planned:
		return "has more to say"
	case len(c.outbox) > 0:
		return fmt.Sprintf("%d messages without an ack", len(c.outbox))
	case c.conn == nil:
		return "not connected"
	}
	for name, r := range c.rooms {
		if r.wanted && !r.in {
			return "not in " + name
		}
		if why := c.w.behind(name, r.cursor); r.wanted && why != "" {
			return why
		}
		if r.wanted && !r.sure {
			return "does not know who is in " + name
		}
	}
	return ""
}
