package wsconn

import (
	"context"
)

// smallInput is what a connection without a descriptor of its own (TLS, and in tests) holds
// to wait for input with.
const smallInput = 256

// await waits until a frame arrives that a reader is needed for. Pings and pongs that come
// whole it deals with itself: they are most of what a connection at rest gets, and a reader,
// once it has begun, waits for a message. Reading goroutine only.
func (c *Conn) await(ctx context.Context) error {
	if ctx.Done() != nil {
		defer context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(past) })()
	}
	for {
		for len(c.input) > 0 {
			n := c.control(c.input)
			if n == 0 {
				return nil
			}
			c.consume(n)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.receive(); err != nil {
			return err
		}
	}
}

// control deals with a ping or pong that is there whole at the beginning of p, and returns
// its size; 0 for anything else, which is a reader's to judge.
func (c *Conn) control(p []byte) int {
	const (
		header  = 2
		key     = 4
		maskBit = 0x80
	)
	if len(p) < header+key || p[0] != finBit|opPing && p[0] != finBit|opPong || p[1] < maskBit || p[1] > maskBit|125 {
		return 0
	}
	n := header + key + int(p[1]&^maskBit)
	if len(p) < n {
		return 0
	}
	if p[0] == finBit|opPing {
		pong := appendHeader(make([]byte, 0, header+125), opPong, n-header-key)
		for i, b := range p[header+key : n] {
			pong = append(pong, b^p[header+i%key])
		}
		c.sendPong(pong)
	}
	return n
}

// receive waits for input. Where the descriptor is at hand, the wait holds no buffer.
func (c *Conn) receive() error {
	if c.socket != nil {
		buf, n, err := c.socket.read()
		if n, err = c.arrived(n, err); err != nil {
			return err
		}
		c.input, c.inputBuf = (*buf)[:n], buf
		return nil
	}
	if c.small == nil {
		c.small = make([]byte, smallInput)
	}
	n, err := c.conn.Read(c.small)
	if n, err = c.arrived(n, err); err != nil {
		return err
	}
	c.input = c.small[:n]
	return nil
}

// consume takes n bytes from the input.
func (c *Conn) consume(n int) {
	if c.input = c.input[n:]; len(c.input) > 0 {
		return
	}
	c.input = nil
	if c.inputBuf != nil {
		freeMessage(c.inputBuf)
		c.inputBuf = nil
	}
}

// attach sees to it that the connection has a reader.
func (c *Conn) attach() error {
	var err error
	switch {
	case c.reader != nil:
		return nil
	case c.deflates || c.readers == nil:
		c.reader, err = newReader(c.deflates)
	default:
		c.reader, err = c.readers.get()
	}
	if err != nil {
		c.reader = nil
		return err
	}
	c.reader.t.c = c
	c.reader.ws.SetReadLimit(c.readLimit)
	return nil
}

// detach gives the reader back where it stands between two messages and has nothing more
// of this connection.
func (c *Conn) detach() {
	r := c.reader
	switch {
	case len(c.input) > 0 || r.br.Buffered() > 0:
		return
	case c.deflates || c.readers == nil:
		r.close()
	default:
		r.t.c = nil
		c.readers.put(r)
	}
	c.reader = nil
}

// dropReader ends the reader: it failed, or the connection is over.
func (c *Conn) dropReader() {
	if c.reader != nil {
		c.reader.close()
		c.reader = nil
	}
}
