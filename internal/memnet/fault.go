package memnet

// Cut breaks the connection as a reset does: what is buffered is lost, and from now on reads and
// writes at both ends fail with ECONNRESET, those that wait at once. Each end is still to be closed.
func (c *Conn) Cut() {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	c.link.cut()
}

// CutAfter cuts the connection, as [Conn.Cut] does, when the peer has read n more bytes of what this
// end writes, those included that wait to be read now; the peer never reads another. 0 cuts at once,
// a negative n takes back a CutAfter that has not come to pass.
func (c *Conn) CutAfter(n int64) { c.link.cutAfter(c.out, n) }

// CutAfterRead is [Conn.CutAfter] of the peer: the connection is cut when this end has read n more bytes.
func (c *Conn) CutAfterRead(n int64) { c.link.cutAfter(c.in, n) }

func (l *link) cutAfter(h *half, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h.cutAfter = max(n, -1)
	if n == 0 {
		l.cut()
	}
}

func (l *link) cut() {
	if l.reset {
		return
	}
	l.reset = true
	for _, c := range l.ends {
		c.in.buf, c.in.off = nil, 0
		c.in.readDeadline.stop()
		c.in.writeDeadline.stop()
		c.in.wake()
	}
}

// Stall stops the connection, in both directions, or lets it go on. While it is stopped, writes are
// taken as far as the buffer goes, but no byte arrives, and neither end hears that the other closed.
// Deadlines and cuts work as ever.
func (c *Conn) Stall(on bool) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	c.link.stalled = on
	c.link.resetUnread()
	for _, c := range c.link.ends {
		c.in.wake()
	}
}
