package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/internal/wsconn"
)

// A plain client speaks the plain door: what it misses while it is away it never hears of.
type plain struct {
	w      *world
	number int
	name   string
	home   string
	author author
	plan   []act

	mu    sync.Mutex // guards what follows
	ws    *wsconn.ClientConn
	said  bool
	lines [][]string // of each connection
	dials int
}

func newPlain(w *world, number int, r *rand.Rand) *plain {
	c := &plain{w: w, number: number, name: fmt.Sprint("plain", number), home: w.room(r)}
	c.author = author{name: c.name, rnd: r, big: w.p.big}
	w.ledger.free[c.name] = true // and there are no acks: its order is not known
	for range r.IntN(w.p.talk * 2) {
		c.plan = append(c.plan, act{at: time.Duration(r.Int64N(int64(w.p.load))), say: c.author.message(c.home)})
	}
	return c
}

func (c *plain) String() string { return c.name }

func (c *plain) run() {
	var wg sync.WaitGroup
	wg.Go(c.say)
	for !c.w.over() {
		c.dials++
		c.connect(rand.New(rand.NewPCG(c.w.p.seed, uint64(c.number)<<32|uint64(c.dials)<<8|'q')))
	}
	wg.Wait()
}

func (c *plain) say() {
	start := time.Now()
	for _, a := range c.plan {
		c.w.until(start.Add(a.at))
		c.mu.Lock()
		ws := c.ws
		c.mu.Unlock()
		if ws == nil {
			continue // it says nothing when there is nobody to hear it
		}
		c.w.ledger.add(a.say)
		op := wsconn.OpText
		if a.say.kind == broker.KindBinary {
			op = wsconn.OpBinary
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		_ = ws.Write(ctx, op, a.say.data)
		cancel()
	}
	c.mu.Lock()
	c.said = true
	c.mu.Unlock()
}

func (c *plain) connect(r *rand.Rand) {
	hub, compress, life, end, pause, list := r.IntN(c.w.p.hubs), r.IntN(2) == 0, r.Float64(), r.IntN(3), r.Float64(), lulls(r)
	ws, l, err := c.w.dial(hub, c.number, c.dials, c.home, url.Values{"name": {c.name}}, false, compress)
	if err == nil {
		c.mu.Lock()
		c.ws, c.lines = ws, append(c.lines, nil)
		c.mu.Unlock()
		c.stay(ws, l, life, end, list)
	}
	if c.w.calm() {
		pause *= 0.02
	}
	c.w.pause(time.Duration(pause * pause * float64(5*time.Second)))
}

func (c *plain) stay(ws *wsconn.ClientConn, l *link, life float64, end int, list []lull) {
	done := make(chan struct{})
	c.w.go_(func() {
		if life < 0.5 {
			wait(time.Duration(life*float64(8*time.Second)), done)
			if !c.w.calm() {
				switch end {
				case 0:
					_ = ws.Close(1000, "")
				case 1:
					l.Cut()
				case 2:
					l.abandon(20 * time.Second)
				}
				ws.CloseNow()
				return
			}
		}
		select {
		case <-done:
		case <-c.w.done:
			_ = ws.Close(1000, "")
			ws.CloseNow()
		}
	})
	for lines := 0; ; lines++ {
		for _, l := range list {
			if l.after == lines {
				c.w.pauseUntilCalm(l.long)
			}
		}
		// Who hears nothing for long does not know whether it still would.
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		op, p, err := ws.Read(ctx)
		cancel()
		if err != nil {
			break
		}
		line := string(p)
		if op == wsconn.OpBinary {
			line = "binary " + line
		}
		c.mu.Lock()
		c.lines[len(c.lines)-1] = append(c.lines[len(c.lines)-1], line)
		c.mu.Unlock()
	}
	close(done)
	ws.CloseNow()
	c.mu.Lock()
	c.ws = nil
	c.mu.Unlock()
}

func (c *plain) settled() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.said:
		return "has more to say"
	case c.ws == nil:
		return "not connected"
	}
	return ""
}

func (c *plain) present(where map[string][]string) { where[c.home] = append(where[c.home], c.name) }
func (c *plain) view() map[string][]string         { return nil }

func (c *plain) finish() {
	c.w.e.mu.Lock()
	defer c.w.e.mu.Unlock()
	s := c.w.e.shelf(c.home)
	for n, lines := range c.lines {
		if why := checkLines(lines, s, n == len(c.lines)-1); why != "" {
			c.w.fail("%s in %s: %s", c.name, c.home, why)
		}
	}
}

// A place is one in a room's histories: before their message n.
type place struct{ history, n int }

// checkLines holds what a plain client saw on a connection against the room: each line is the message
// after the one before it, or it was told how many were missed. Of the whole of it, it must have the end.
func checkLines(lines []string, s *shelf, whole bool) string {
	at := map[place]bool{}
	for h := range s.histories {
		for n := range len(s.histories[h].log) + 1 {
			at[place{h, n}] = true
		}
	}
	var last string
	for i, line := range lines {
		next := map[place]bool{}
		var missed int
		_, err := fmt.Sscanf(line, "* %d message", &missed)
		switch {
		case strings.HasPrefix(line, "* ") && strings.HasSuffix(line, "missed") && err == nil:
			count("gap told in plain")
			for p := range at {
				if p.n+missed <= len(s.histories[p.history].log) {
					next[place{p.history, p.n + missed}] = true
				}
			}
		case line == "* messages were missed":
			for p := range at {
				for n := p.n; n <= len(s.histories[p.history].log); n++ {
					next[place{p.history, n}] = true
				}
				for h := p.history + 1; h < len(s.histories); h++ {
					for n := range len(s.histories[h].log) + 1 {
						next[place{h, n}] = true
					}
				}
			}
		case strings.HasPrefix(line, "* "): // joined, left, the server restarts
			continue
		default:
			for p := range at {
				if log := s.histories[p.history].log; p.n < len(log) && render(log[p.n]) == line {
					next[place{p.history, p.n + 1}] = true
				}
			}
		}
		if len(next) == 0 {
			return fmt.Sprintf("line %d, %.60q, does not follow %.60q", i, line, last)
		}
		at, last = next, line
	}
	end := len(s.histories) - 1
	if whole && !at[place{end, len(s.histories[end].log)}] {
		return fmt.Sprintf("it does not have the end of the room; its last line is %.60q", last)
	}
	return ""
}

// render is how the plain door shows a message.
func render(m *broker.Message) string {
	if m.Kind == broker.KindBinary {
		return "binary " + string(m.Data)
	}
	return m.From.Name + ": " + string(m.Data)
}
