package wsconn

import (
	"context"
	"encoding/binary"
)

// smallInput is what a connection without a descriptor of its own (TLS, and in tests) holds
// to wait for input with.
const smallInput = 256

// await waits until a frame arrives that a reader is needed for, or a message that came
// whole. Small messages, pings and pongs that are there whole it deals with itself: they are
// nearly all that a chat's clients send, and a reader costs 2 µs a message, most of it for
// telling a goroutine of its deadlines. Reading goroutine only.
func (c *Conn) await(ctx context.Context) (op Opcode, message []byte, err error) {
	if ctx.Done() != nil {
		defer context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(past) })()
	}
	for {
		for len(c.input) > 0 {
			head, payload, n := wholeFrame(c.input, c.deflates)
			switch head {
			case 0:
				if isControl(c.input) {
					if err := c.receiveMore(ctx); err != nil {
						return 0, nil, err
					}
					continue
				}
				c.beginDeflated()
				return 0, nil, nil
			case finBit | opPing:
				c.sendPong(append(appendHeader(make([]byte, 0, 2+125), opPong, len(payload)), payload...))
			case finBit | rsv1Bit | byte(OpText), finBit | rsv1Bit | byte(OpBinary):
				message, err := c.inflate(payload)
				c.consume(n)
				return Opcode(head &^ (finBit | rsv1Bit)), message, err
			case finBit | byte(OpText), finBit | byte(OpBinary):
				if int64(len(payload)) > c.readLimit {
					c.nhooyr = tooBig
					return 0, nil, errTooBig
				}
				c.message = newMessage(len(payload))
				message = (*c.message)[:copy(*c.message, payload)]
				c.consume(n)
				return Opcode(head &^ finBit), message, nil
			}
			c.consume(n)
		}
		if ctx.Done() == nil {
			return 0, nil, errNoMessage
		}
		if err := ctx.Err(); err != nil {
			return 0, nil, err
		}
		if err := c.receive(); err != nil {
			return 0, nil, err
		}
	}
}

// wholeFrame unmasks the frame at the beginning of p, if it is there whole and one of those
// that need no reader: a ping, a pong or an unfragmented message, with no reserved bit (but that
// of a deflated message, where there may be such) and the shortest length that it can have. It
// returns the frame's first byte, 0 for any other frame, the payload and the size of it all.
func wholeFrame(p []byte, deflates bool) (head byte, payload []byte, size int) {
	const (
		maskBit = 0x80
		keySize = 4
	)
	if len(p) < 2 || p[1] < maskBit {
		return 0, nil, 0
	}
	begin, n := 2, int(p[1]&^maskBit)
	data := p[0]
	if deflates {
		data &^= rsv1Bit
	}
	switch head = p[0]; {
	case head == finBit|opPing || head == finBit|opPong:
		if n > 125 {
			return 0, nil, 0
		}
	case data != finBit|byte(OpText) && data != finBit|byte(OpBinary) || n == 127:
		return 0, nil, 0
	case n == 126:
		if len(p) < 4 {
			return 0, nil, 0
		}
		if begin, n = 4, int(binary.BigEndian.Uint16(p[2:])); n < 126 {
			return 0, nil, 0
		}
	}
	size = begin + keySize + n
	if len(p) < size {
		return 0, nil, 0
	}
	payload = p[begin+keySize : size]
	unmask(payload, [keySize]byte(p[begin:]))
	return head, payload, size
}

// isControl tells whether p is the beginning of a ping or a pong that is valid so far.
func isControl(p []byte) bool {
	return (p[0] == finBit|opPing || p[0] == finBit|opPong) && (len(p) < 2 || p[1] >= 0x80 && p[1] <= 0x80|125)
}

// receiveMore waits for more of a ping or a pong. Nhooyr would take it for the beginning of a
// message, and close a peer that needs more than five seconds for it.
func (c *Conn) receiveMore(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	begun := append(make([]byte, 0, 2+4+125), c.input...)
	c.consume(len(c.input))
	if err := c.receive(); err != nil {
		return err
	}
	c.unread(begun)
	return nil
}

// unmask is RFC 6455, section 5.3.
func unmask(p []byte, key [4]byte) {
	k := uint64(binary.LittleEndian.Uint32(key[:]))
	k |= k << 32
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^k)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= key[i%4]
	}
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
	case c.readers == nil:
		c.reader, err = newReader()
	default:
		c.reader, err = c.readers.get()
	}
	if err != nil {
		c.reader = nil
		return err
	}
	c.reader.t.c.Store(c)
	limit := c.readLimit
	if c.deflated {
		limit = deflatedLimit(limit)
	}
	c.reader.ws.SetReadLimit(limit)
	return nil
}

// detach takes back what the reader has of the messages that follow, and gives it up where
// it stands between two messages.
func (c *Conn) detach() {
	r := c.reader
	c.reader = nil
	if ahead, _ := r.br.Peek(r.br.Buffered()); len(ahead) > 0 {
		c.unread(ahead)
		_, _ = r.br.Discard(len(ahead))
	}
	if c.readers == nil {
		r.close()
		return
	}
	r.t.c.Store(nil)
	c.readers.put(r)
}

// unread puts p before what has arrived.
func (c *Conn) unread(p []byte) {
	n := len(p) + len(c.input)
	buf := newMessage(n)
	copy((*buf)[copy(*buf, p):], c.input)
	c.consume(len(c.input))
	c.input, c.inputBuf = (*buf)[:n], buf
}

// dropReader ends the reader: it failed, or the connection is over.
func (c *Conn) dropReader() {
	if c.reader != nil {
		c.reader.close()
		c.reader = nil
	}
}
