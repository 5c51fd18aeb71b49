package wire

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// scan is skipValue for a whole text.
func scan(p []byte) bool {
	end := skipValue(p, skipSpace(p, 0), MaxDepth)
	return end >= 0 && skipSpace(p, end) == len(p)
}

// depth is how deeply p, which is valid JSON, is nested.
func depth(p []byte) (deepest int) {
	n := 0
	dec := json.NewDecoder(bytes.NewReader(p))
	dec.UseNumber()
	for {
		token, err := dec.Token()
		if err != nil {
			return deepest
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			n++
			deepest = max(deepest, n)
		case json.Delim('}'), json.Delim(']'):
			n--
		}
	}
}

var scanned = []string{
	"", " ", "null", "true", "false", "nul", "nullx", "t", "0", "-0", "-", "01", "1.", ".5", "1.5e+7", "1e", "1e-",
	"1E400", "+1", "NaN", `""`, `"`, `"a`, `"\`, `"\u12`, `"\u12g4"`, `"\u12f4"`, `"\x"`, `"\/\b"`, "\"\n\"", "\"\x7f\"",
	"\"\xff\"", "[]", "[", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "[ 1 , [ ] , { } ]", "]", "{}", "{", `{"a"`, `{"a":`,
	`{"a":1`, `{"a":1,`, `{"a":1,}`, `{a:1}`, `{"a" : 1 , "a":{"b":[]}}`, `{"a":1 "b":2}`, "1 1", "\ufeff1",
	strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth),
	strings.Repeat(`{"":`, MaxDepth) + "1" + strings.Repeat("}", MaxDepth),
	strings.Repeat("[", 100000), strings.Repeat(`{"":`, 100000),
}

func TestScanDepth(t *testing.T) {
	for _, brackets := range [][2]string{{"[", "]"}, {`{"a":1,"":`, "}"}} {
		inner := "1"
		for n := 1; n <= MaxDepth+1; n++ {
			inner = brackets[0] + inner + brackets[1]
			require.Equal(t, n <= MaxDepth, scan([]byte(inner)), "%d levels of %s", n, brackets[0])
		}
	}
}

// FuzzScan holds the scanner to encoding/json.
func FuzzScan(f *testing.F) {
	for _, s := range scanned {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		want := json.Valid(p) && depth(p) <= MaxDepth
		require.Equal(t, want, scan(p), "scan of %q", p)
	})
}

// FuzzDecodeData holds what becomes of data to encoding/json: the same string, or the
// same value without space.
func FuzzDecodeData(f *testing.F) {
	for _, s := range scanned {
		f.Add([]byte(s))
	}
	for _, s := range []string{
		`"\ud83d\ude00"`, `"\ud83d"`, `"\ude00\ud83d"`, `"\ud83d\ud83d\ude00"`, `["\ud83d\u0041"]`, `["\uD83D\uDE00"]`,
		`"\"\\\/\b\f\n\r\t\u2028"`, `["\\u d800 "]`, `[1e400, 12345678901234567890]`, `{"b":1,"a":2,"b":3}`, `"<>&"`, `["<>&"]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		kind, data, err := DecodeData(p)
		if err != nil {
			return
		}
		require.True(t, json.Valid(p))
		if p = bytes.TrimSpace(p); p[0] == '"' {
			var want string
			require.NoError(t, json.Unmarshal(p, &want))
			require.Equal(t, want, string(data))
			return
		}
		again, more, err := DecodeData(data)
		require.NoError(t, err)
		require.Equal(t, kind, again)
		require.Equal(t, string(data), string(more), "compacted twice")
		if !bytes.Contains(p, []byte(`\u`)) {
			var want bytes.Buffer
			require.NoError(t, json.Compact(&want, p))
			require.Equal(t, want.String(), string(data))
		}
		require.Equal(t, value(t, p), value(t, data))
	})
}

// value is p as encoding/json sees it, numbers as they are written.
func value(t *testing.T, p []byte) (v any) {
	dec := json.NewDecoder(bytes.NewReader(p))
	dec.UseNumber()
	require.NoError(t, dec.Decode(&v), "%s", p)
	return v
}
