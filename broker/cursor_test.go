package broker_test

import (
	"encoding/base64"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

var goodCursors = []broker.Cursor{
	{},
	{Epoch: "e"},
	{Epoch: "e", Seq: 1, Tag: 1},
	{Epoch: "ABCDEFGHIJKL", Seq: 127, Tag: 1 << 63},
	{Epoch: "ABCDEFGHIJKL", Seq: 128, Tag: 255},
	{Epoch: "\x00\xff/+=", Seq: 1 << 32, Tag: 1},
	{Epoch: strings.Repeat("x", broker.MaxEpoch), Seq: math.MaxUint64, Tag: math.MaxUint64},
}

func TestCursorRoundTrip(t *testing.T) {
	tokens := make(map[string]broker.Cursor)
	for _, c := range goodCursors {
		s := c.String()
		got, err := broker.ParseCursor(s)
		require.NoError(t, err, "%+v as %q", c, s)
		require.Equal(t, c, got, "cursor read from %q", s)
		require.LessOrEqual(t, len(s), 70, "bytes of the token of %+v", c)
		require.Empty(t, strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), "characters of %q that a URL escapes", s)
		require.NotContains(t, tokens, s, "token of two cursors")
		tokens[s] = c
	}
}

func TestParseCursorRefuses(t *testing.T) {
	enc := base64.RawURLEncoding.EncodeToString
	good := broker.Cursor{Epoch: "epoch", Seq: 5, Tag: 7}.String()
	raw, err := base64.RawURLEncoding.DecodeString(good)
	require.NoError(t, err)
	epoch := string(raw[10:])
	for name, s := range map[string]string{
		"not base64":       "!!!!",
		"standard base64":  "ab+/",
		"padding":          good + "=",
		"a space":          " " + good,
		"a line break":     good[:4] + "\n" + good[4:],
		"trailing bits":    "AQ" + "B",
		"version only":     enc([]byte{1}),
		"another version":  enc(append([]byte{2}, raw[1:]...)),
		"no tag":           enc(raw[:5]),
		"no epoch":         enc(raw[:10]),
		"overlong seq":     enc([]byte("\x01\x85\x00\x00\x00\x00\x00\x00\x00\x00\x07" + epoch)),
		"seq above 64 bit": enc([]byte("\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x00\x00\x00\x00\x00\x00\x00\x07" + epoch)),
		"endless seq":      enc([]byte("\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")),
		"epoch too long":   enc([]byte(string(raw[:10]) + strings.Repeat("x", broker.MaxEpoch+1))),
		"too long":         strings.Repeat("A", 1000),
		"a zero cursor":    enc(make([]byte, 11)),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := broker.ParseCursor(s)
			require.Error(t, err, "cursor read from %q: %+v", s, c)
			require.Zero(t, c, "cursor beside the error")
		})
	}
}

// Whatever is read as a cursor is one, and has no other token.
func FuzzParseCursor(f *testing.F) {
	for _, c := range goodCursors {
		f.Add(c.String())
	}
	f.Add("AQWAAAAAAAAAAAAHZXBvY2g")
	f.Add("AYUAAAAAAAAAAAdlcG9jaA")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := broker.ParseCursor(s)
		if err != nil {
			if c != (broker.Cursor{}) {
				t.Fatalf("ParseCursor(%q): %+v beside %v", s, c, err)
			}
			return
		}
		if got := c.String(); got != s {
			t.Fatalf("token of %+v: got %q, want %q", c, got, s)
		}
		if len(c.Epoch) > broker.MaxEpoch || (c.Epoch == "") != (s == "") {
			t.Fatalf("ParseCursor(%q): epoch %q", s, c.Epoch)
		}
	})
}
