package wsconn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every kind of bad input gets its close frame, that one only, also while the peer is
// still sending: it never sees a reset in its place.
func TestBadInputGetsOneCloseFrame(t *testing.T) {
	protocol := closing(1002, "protocol error")
	notUTF8 := closing(1007, "text is not UTF-8")
	tooBig := closing(1009, "message too big")
	part := func(head byte, p string) string { return string(maskedFrame(head, p)) }
	for _, tt := range []struct {
		name, input string
		want        frame
	}{
		{"unmasked", "\x81\x02hi", protocol},
		{"unmasked close", "\x88\x00", protocol},
		{"first reserved bit", part(0xC1, "hi"), protocol},
		{"second reserved bit", part(0xA1, "hi"), protocol},
		{"third reserved bit", part(0x91, "hi"), protocol},
		{"reserved bit on a ping", part(0xC9, "hi"), protocol},
		{"unknown data opcode", part(0x83, "hi"), protocol},
		{"unknown control opcode", part(0x8B, "hi"), protocol},
		{"continuation of nothing", part(0x80, "hi"), protocol},
		{"message inside a message", part(0x01, "hi") + part(0x81, "ho"), protocol},
		{"fragmented ping", part(0x09, "hi"), protocol},
		{"long ping", part(0x89, strings.Repeat("x", 126)), protocol},
		{"length with its top bit set", "\x82\xff\x80\x00\x00\x00\x00\x00\x00\x01\x11\x22\x33\x44", protocol},
		{"control length with its top bit set", "\x89\xff\xff\xff\xff\xff\xff\xff\xff\xff\x11\x22\x33\x44", protocol},
		{"close with half a code", part(0x88, "\x03"), protocol},
		{"close with code 999", part(0x88, "\x03\xe7"), protocol},
		{"close with code 1005", part(0x88, "\x03\xed"), protocol},
		{"close with code 1006", part(0x88, "\x03\xee"), protocol},
		{"close with code 1015", part(0x88, "\x03\xf7"), protocol},
		{"close with code 5000", part(0x88, "\x13\x88"), protocol},
		{"close reason not UTF-8", part(0x88, "\x03\xe8\xff"), closing(1007, "close reason is not UTF-8")},
		{"text not UTF-8", part(0x81, "a\xffb"), notUTF8},
		{"text cut in a rune", part(0x81, "caf\xc3"), notUTF8},
		{"text with a surrogate", part(0x81, "\xed\xa0\x80"), notUTF8},
		{"text not UTF-8, in fragments", part(0x01, "caf\xc3") + part(0x80, "x"), notUTF8},
		{"too big", part(0x82, strings.Repeat("x", 1001)), tooBig},
		{"too big in fragments", part(0x02, strings.Repeat("x", 600)) + part(0x00, strings.Repeat("x", 600)), tooBig},
		{"much too big", part(0x81, strings.Repeat("x", 1<<20)), tooBig},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, p := tcpPair(t, &Options{ReadLimit: 1000})
			r := startReader(t, c)
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() { // the peer does not notice, and sends on
				defer close(stopped)
				io.WriteString(p, tt.input)
				more := bytes.Repeat(maskedFrame(0x82, strings.Repeat("y", 900)), 50)
				for {
					select {
					case <-stop:
						p.CloseWrite()
						return
					default:
						if _, err := p.Write(more); err != nil {
							return
						}
					}
				}
			}()
			p.expect(t, tt.want)
			p.expectEOF(t)
			close(stop)
			ce := r.closed(t)
			<-stopped
			require.Equal(t, tt.want.String(), closing(uint16(ce.Code), ce.Reason).String())
			require.False(t, ce.Remote)
			require.Empty(t, r.messages)
		})
	}
}

func (p *peer) CloseWrite() error {
	return p.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

func TestReadMessages(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		c, p := tcpPair(t, &Options{ReadLimit: 70000})
		r := startReader(t, c)
		var want []frame
		for _, n := range []int{0, 1, 125, 126, 511, 512, 1023, 1024, 1025, 4096, 16384, 65535, 65536, 66048, 70000} {
			s := strings.Repeat("é", n/2) + strings.Repeat("x", n%2)
			want = append(want, frame{1, s}, frame{2, s})
			p.send(t, 1, s)
			p.send(t, 2, s)
		}
		p.Write(maskedFrame(0x01, "caf\xc3"))
		p.send(t, 9, "between fragments")
		p.Write(maskedFrame(0x00, ""))
		p.Write(maskedFrame(0x80, "\xa9"))
		want = append(want, text("café"))
		p.expect(t, frame{10, "between fragments"})
		p.send(t, 2, "\xff\xfe")
		want = append(want, frame{2, "\xff\xfe"})
		p.send(t, 8, "\x03\xe8bye")
		p.expect(t, closing(1000, ""))
		p.expectEOF(t)
		p.Close()
		ce := r.closed(t)
		require.True(t, ce.Remote)
		require.Equal(t, 1000, ce.Code)
		require.Equal(t, "bye", ce.Reason)
		require.Equal(t, len(want), len(r.messages))
		for i := range want {
			require.True(t, want[i] == r.messages[i], "message %d: got %v, want %v", i, r.messages[i], want[i])
		}
	})
}

func TestPeerCloses(t *testing.T) {
	for _, tt := range []struct {
		name, payload string
		code          int
		reason        string
		want          frame
	}{
		{"with a code", "\x03\xe9", 1001, "", closing(1001, "")},
		{"with a code and a reason", "\x0f\xa0done", 4000, "done", closing(4000, "")},
		{"with no code", "", 1005, "", frame{8, ""}},
		{"with an error", "\x03\xea", 1002, "", closing(1002, "")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, p := memPair(t, &Options{})
			r := startReader(t, c)
			p.send(t, 8, tt.payload)
			p.expect(t, tt.want)
			p.expectEOF(t)
			p.Close()
			ce := r.closed(t)
			require.True(t, ce.Remote)
			require.Equal(t, tt.code, ce.Code)
			require.Equal(t, tt.reason, ce.Reason)
			require.Error(t, ce.Unwrap())
			require.ErrorIs(t, c.Send(batch("late"), Disconnect), ErrClosed)
		})
	}
}

func TestReadOfALostConnection(t *testing.T) {
	for name, input := range map[string]string{
		"at rest":          "",
		"inside a header":  "\x81",
		"inside a message": string(maskedFrame(0x81, "hello"))[:8],
		"inside a close":   "\x88\x82\x11\x22",
	} {
		t.Run(name, func(t *testing.T) {
			c, p := memPair(t, &Options{})
			io.WriteString(p, input)
			p.CloseWrite()
			_, _, err := c.Read(t.Context())
			var ce *CloseError
			require.ErrorAs(t, err, &ce)
			require.Equal(t, 1006, ce.Code)
			require.ErrorIs(t, err, io.EOF)
			require.ErrorIs(t, c.Send(batch("late"), Disconnect), ErrClosed)
			c.Finish()
			p.expectEOF(t) // no close frame
		})
	}
}

func TestReadWithAContextThatEnds(t *testing.T) {
	c, p := memPair(t, &Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := c.Read(ctx)
	var ce *CloseError
	require.ErrorAs(t, err, &ce)
	require.Equal(t, 1006, ce.Code)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, c.Send(batch("still open"), Disconnect))
	c.Close(1001, "going away")
	p.expect(t, text("still open"), closing(1001, "going away"))
	p.expectEOF(t)
	p.Close()
	c.Finish()
	_, _, again := c.Read(t.Context())
	require.Equal(t, err, again)
}

func TestMessagesAfterCloseAreDiscarded(t *testing.T) {
	onBothPaths(t, func(t *testing.T) {
		c, p := memPair(t, &Options{})
		p.send(t, 1, "before")
		op, m, err := c.Read(t.Context())
		require.NoError(t, err)
		require.Equal(t, "before", string(m))
		require.Equal(t, OpText, op)
		p.send(t, 1, "after")
		c.Close(1000, "enough")
		_, _, err = c.Read(t.Context())
		var ce *CloseError
		require.ErrorAs(t, err, &ce)
		require.Equal(t, &CloseError{Code: 1000, Reason: "enough"}, ce)
		p.expect(t, closing(1000, "enough"))
		p.send(t, 8, "\x03\xe8")
		p.expectEOF(t)
		p.Close()
		c.Finish()
	})
}

// An idle connection has no message buffer.
func TestReadGivesItsBufferBack(t *testing.T) {
	c, p := memPair(t, &Options{})
	p.send(t, 1, strings.Repeat("x", 3000))
	_, m, err := c.Read(t.Context())
	require.NoError(t, err)
	require.Len(t, m, 3000)
	require.NotNil(t, c.message)
	p.send(t, 8, "")
	_, _, err = c.Read(t.Context())
	require.Error(t, err)
	require.Nil(t, c.message)
}

func TestCloseErrorText(t *testing.T) {
	require.EqualError(t, &CloseError{Code: 1006, Err: io.EOF}, "hub: connection lost: EOF")
	require.EqualError(t, &CloseError{Code: 1000, Remote: true}, "hub: connection closed by the peer: 1000")
	require.EqualError(t, &CloseError{Code: 1013, Reason: "too slow"}, `hub: connection closed by us: 1013 "too slow"`)
	require.True(t, errors.Is(&CloseError{Code: 1006, Err: io.EOF}, io.EOF))
}
