package wsconn

import (
	"compress/flate"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// rsv1Bit marks a message that is deflated (RFC 7692, section 6).
const rsv1Bit = 0x40

// syncTail ends what a deflater flushes, and is left out of a message (RFC 7692, section
// 7.2.1).
const syncTail = "\x00\x00\xff\xff"

// A deflater is 1.2 MB, whatever it deflates. Its level is the fastest: a message is
// deflated once for all, so time on a room's loop counts for more than some bytes.
type deflater struct {
	w   *flate.Writer
	out sliceWriter
}

type sliceWriter []byte

func (s *sliceWriter) Write(p []byte) (int, error) {
	*s = append(*s, p...)
	return len(p), nil
}

var deflaters = sync.Pool{New: func() any {
	d := new(deflater)
	d.w, _ = flate.NewWriter(&d.out, flate.BestSpeed) // fails for an unknown level only
	return d
}}

// Deflate returns the frame deflated, for connections whose Deflates is true, with no
// context of messages before it. It returns f itself where its payload has less than
// threshold bytes, or would not become smaller.
func (f *Frame) Deflate(threshold int) *Frame {
	payload := f.Bytes[headerSize(f.Bytes):]
	if len(payload) < threshold {
		return f
	}
	d := deflaters.Get().(*deflater)
	defer deflaters.Put(d)
	d.out = d.out[:0]
	if cap(d.out) > messageSizes[len(messageSizes)-1] {
		d.out = nil // a large message is no reason to hold its memory
	}
	d.w.Reset(&d.out)
	_, _ = d.w.Write(payload) // nothing that can fail is below it
	_ = d.w.Flush()
	deflated := d.out[:len(d.out)-len(syncTail)]
	if len(deflated) >= len(payload) {
		return f
	}
	g := NewFrame(Opcode(f.Bytes[0]&0x0F), deflated)
	g.Bytes[0] |= rsv1Bit
	g.Stream, g.Prev, g.Seq, g.Key = f.Stream, f.Prev, f.Seq, f.Key
	return g
}

// headerSize is the length of an unmasked frame's header.
func headerSize(frame []byte) int {
	switch frame[1] {
	case 126:
		return 2 + 2
	case 127:
		return 2 + 8
	default:
		return 2
	}
}

// deflatedLimit bounds the size of a deflated message, which may inflate to limit at most. What
// can't be made smaller grows by an eighth with the worst of the usual encodings (RFC 1951,
// section 3.2.6: nine bits for a byte).
func deflatedLimit(limit int64) int64 { return limit + limit/4 + 64 }

// beginDeflated notes whether the message that begins in the input is deflated, and takes the mark
// away: nhooyr's readers read all as it is. They would take what follows a stream that ended early
// for frames, and what was cut short for a whole message. Reading goroutine only.
func (c *Conn) beginDeflated() {
	switch first := c.input[0]; Opcode(first & 0x0F) {
	case OpText, OpBinary:
		if c.deflates && first&rsv1Bit != 0 {
			c.input[0] &^= rsv1Bit
			c.deflated = true
		}
	}
}

// An inflater reads one message; 40 KB, whatever it inflates.
type inflater struct {
	r       io.ReadCloser
	in      deflateInput
	limited io.LimitedReader
}

var inflaters = sync.Pool{New: func() any {
	i := new(inflater)
	i.r = flate.NewReader(&i.in)
	return i
}}

// Read goes on after a last block, as there may be more (RFC 7692, section 7.2.1). The flate
// reader knows no other end of a stream: here a message ends where its bytes do.
func (i *inflater) Read(p []byte) (int, error) {
	n, err := i.r.Read(p)
	switch {
	case err == io.ErrUnexpectedEOF:
		err = io.EOF
	case err == io.EOF && len(i.in.payload) > 0:
		_ = i.r.(flate.Resetter).Reset(&i.in, nil) // it has no errors
		err = nil
	}
	return n, err
}

// A deflateInput is a payload, and the tail that its sender left out. It gives single bytes, so
// that the flate reader takes none beyond the end of a stream.
type deflateInput struct {
	payload []byte
	tail    string
}

func (d *deflateInput) ReadByte() (b byte, err error) {
	switch {
	case len(d.payload) > 0:
		b, d.payload = d.payload[0], d.payload[1:]
	case d.tail != "":
		b, d.tail = d.tail[0], d.tail[1:]
	default:
		err = io.EOF
	}
	return b, err
}

func (d *deflateInput) Read(p []byte) (n int, err error) {
	if len(d.payload) > 0 {
		n = copy(p, d.payload)
		d.payload = d.payload[n:]
		return n, nil
	}
	if d.tail == "" {
		return 0, io.EOF
	}
	n = copy(p, d.tail)
	d.tail = d.tail[n:]
	return n, nil
}

// inflate returns what a deflated payload was, in c.message. Reading goroutine only.
func (c *Conn) inflate(payload []byte) ([]byte, error) {
	i := inflaters.Get().(*inflater)
	defer inflaters.Put(i)
	i.in = deflateInput{payload, syncTail}
	_ = i.r.(flate.Resetter).Reset(&i.in, nil) // it has no errors
	i.limited = io.LimitedReader{R: i, N: c.readLimit + 1}
	message, err := c.readMessage(&i.limited)
	i.in = deflateInput{}
	switch {
	case err != nil:
		return nil, err
	case int64(len(message)) > c.readLimit:
		c.nhooyr = tooBig
		return nil, errTooBig
	}
	return message, nil
}

// deflateAnswer agrees on permessage-deflate with no context takeover both ways.
const deflateAnswer = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"

// offersDeflate tells whether one of the offers of a Sec-WebSocket-Extensions header is one
// that deflateAnswer may answer (RFC 7692, section 7.1). A client may always be told to keep no
// context, and inflating takes any window of its; but a smaller window for what we deflate,
// which was made for all, can't be promised.
func offersDeflate(fields []string) bool {
	for _, offer := range tokens(fields) {
		params := strings.Split(offer, ";")
		if strings.TrimSpace(params[0]) == "permessage-deflate" && !slices.ContainsFunc(params[1:], refusedParam) {
			return true
		}
	}
	return false
}

func refusedParam(param string) bool {
	name, value, has := strings.Cut(strings.TrimSpace(param), "=")
	name, value = strings.TrimSpace(name), strings.Trim(strings.TrimSpace(value), `"`)
	switch name {
	case "client_no_context_takeover", "server_no_context_takeover":
		return has
	case "client_max_window_bits":
		bits, err := strconv.Atoi(value)
		return has && (err != nil || bits < 8 || bits > 15)
	case "server_max_window_bits":
		return value != "15"
	}
	return true
}
