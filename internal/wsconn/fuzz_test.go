package wsconn

import (
	"compress/flate"
	"io"
	"strings"
	"testing"

	"github.com/chathub-go/hub/internal/memnet"
	"github.com/stretchr/testify/require"
)

// FuzzFrame sends any sequence of messages in any way over a socket that takes any number
// of bytes at a time: the peer reads the same sequence, control frames between it, and one
// close frame at its end.
func FuzzFrame(f *testing.F) {
	f.Add(byte(0), byte(0), []byte("\x00\x05\x01\x7d\x02\x7e\x03\x00"))
	f.Add(byte(1), byte(1), []byte("\x00\xff\x01\xff\x02\xff\x83\xff\x84\x10\x85\x20"))
	f.Add(byte(3), byte(200), []byte("\xf0\xff\xf1\xff\xf2\xff\x03\x00\x04\x01\x05\x02"))
	f.Add(byte(7), byte(30), []byte(strings.Repeat("\x10\x41\x03\x00\x04\x07", 20)))
	f.Fuzz(func(t *testing.T, short, buffer byte, ops []byte) {
		if len(ops) > 400 {
			ops = ops[:400]
		}
		c, p := memPair(t, &Options{QueueMessages: 8}, memnet.WithShortWrites(int(short)), memnet.WithBuffer(200+int(buffer)))
		r := startReader(t, c)
		var got []frame
		var readErr error
		done := make(chan struct{})
		go func() {
			defer close(done)
			got, readErr = p.rest()
		}()
		var want []frame
		pings := 0
		for ; len(ops) >= 2; ops = ops[2:] {
			op, size := ops[0], int(ops[1])*(1+int(ops[0]>>4)*24) // up to 92,055 bytes
			m := frame{1 + op>>3&1, strings.Repeat(string(rune('a'+op%16)), size)}
			b := NewBatch(NewFrame(Opcode(m.op), []byte(m.payload)))
			sent := []frame{m}
			if op&4 != 0 {
				b = NewBatch(b.Frames[0], NewFrame(OpBinary, nil), b.Frames[0])
				sent = []frame{m, {2, ""}, m}
			}
			var err error
			switch op % 4 {
			case 0:
				if err = c.Send(b, Disconnect); err == ErrFull {
					err, sent = nil, nil
				}
			case 1:
				err = c.SendWait(t.Context(), b)
			case 2:
				err = c.SendNow(b)
			case 3:
				c.Ping()
				pings++
				sent = nil
			}
			require.NoError(t, err)
			want = append(want, sent...)
		}
		c.Close(1000, "end")
		<-done
		p.Close()
		<-r.done
		require.Equal(t, io.EOF, readErr)
		want = append(want, closing(1000, "end"))
		i, pinged := 0, 0
		for _, f := range got {
			if f.op == 9 {
				pinged++
				continue
			}
			require.Less(t, i, len(want), "too many frames: %v", f)
			require.True(t, f == want[i], "frame %d: got %v, want %v", i, f, want[i])
			i++
		}
		require.Equal(t, len(want), i, "frames are missing")
		require.LessOrEqual(t, pinged, pings)
		require.Equal(t, pings > 0, pinged > 0)
	})
}

// FuzzRead gives a connection any bytes: it never fails but with a close error, the peer
// gets one close frame at most, and nothing is left.
func FuzzRead(f *testing.F) {
	f.Add([]byte(string(maskedFrame(0x81, "hello")) + string(maskedFrame(0x88, "\x03\xe8"))))
	f.Add([]byte(string(maskedFrame(0x01, "caf\xc3")) + string(maskedFrame(0x89, "x")) + string(maskedFrame(0x80, "\xa9"))))
	f.Add([]byte("\x82\xff\x80\x00\x00\x00\x00\x00\x00\x01\x11\x22\x33\x44"))
	f.Add([]byte("\x81\xfe\xff\xff\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, input []byte) {
		c, p := memPair(t, &Options{ReadLimit: 1000})
		r := startReader(t, c)
		go func() {
			p.Write(input)
			p.CloseWrite()
		}()
		all, err := p.rest()
		require.Equal(t, io.EOF, err)
		ce := r.closed(t)
		for i, f := range all {
			require.True(t, f.op == 10 || f.op == 8 && i == len(all)-1, "%v", f)
		}
		closed := len(all) > 0 && all[len(all)-1].op == 8
		require.Equal(t, ce.Code != 1006, closed, "%v", ce)
		for _, m := range r.messages {
			require.LessOrEqual(t, len(m.payload), 1000)
			require.True(t, m.op == 2 || strings.ToValidUTF8(m.payload, "") == m.payload)
		}
	})
}

// FuzzInflate gives a connection any bytes as a deflated message, whole and in two frames: each is
// refused, or read as the standard library inflates it, stream after stream.
func FuzzInflate(f *testing.F) {
	f.Add([]byte(deflateAll(f, "hello")))
	f.Add([]byte(deflateAll(f, strings.Repeat("too much ", 1000))))
	f.Add([]byte("\xf3\x48\xcd\xc9\xc9\x07\x00\x00"))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		const limit = 2000
		if len(payload) > 3000 {
			return // a reader of nhooyr's has it
		}
		stream := strings.NewReader(string(payload) + syncTail)
		var want []byte
		var wantErr error
		for {
			var more []byte
			more, wantErr = io.ReadAll(flate.NewReader(stream))
			if want = append(want, more...); wantErr != nil || stream.Len() <= len(syncTail) {
				break
			}
		}
		if wantErr == io.ErrUnexpectedEOF {
			wantErr = nil
		}
		whole := maskedFrame(0xC2, string(payload))
		half := len(payload) / 2
		split := append(maskedFrame(0x42, string(payload[:half])), maskedFrame(0x80, string(payload[half:]))...)
		for _, frames := range [][]byte{whole, split} {
			server, client := memnet.Pipe()
			c, p := deflatingOver(t, server, client, &Options{ReadLimit: limit})
			go p.Write(append(frames, maskedFrame(0x82, "next")...))
			op, got, err := c.Read(t.Context())
			if wantErr != nil || len(want) > limit {
				require.Error(t, err)
				continue
			}
			require.NoError(t, err)
			require.Equal(t, OpBinary, op)
			require.Equal(t, string(want), string(got))
			_, got, err = c.Read(t.Context())
			require.NoError(t, err)
			require.Equal(t, "next", string(got))
		}
	})
}
