package wire

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/chathub-go/hub/broker"
	"github.com/stretchr/testify/require"
)

func testMessage() *broker.Message {
	return &broker.Message{
		Room: "lobby", ID: "m1", From: alice, Kind: broker.KindText, Data: []byte("hello"),
		Time:   time.Date(2026, 1, 30, 21, 34, 56, 789654321, time.FixedZone("JST", 9*3600)),
		Cursor: broker.Cursor{Epoch: "example1", Seq: 7, Tag: 42}, Prev: 5,
	}
}

func TestAppendMessage(t *testing.T) {
	const head = `{"type":"message","room":"lobby","seq":7,"prev":5,"cursor":"AQcAAAAAAAAAKmV4YW1wbGUx",`
	const from = `"from":{"id":"c1","user":"u1","name":"alice"},`
	const at = `"time":"2026-01-30T12:34:56.789Z",`
	for _, tc := range []struct {
		change func(*broker.Message)
		want   string
	}{
		{func(*broker.Message) {}, head + `"id":"m1",` + from + at + `"data":"hello"}`},
		{func(m *broker.Message) { m.ID = "" }, head + from + at + `"data":"hello"}`},
		{func(m *broker.Message) { m.Key = "k\"" }, head + `"id":"m1",` + from + `"key":"k\"",` + at + `"data":"hello"}`},
		{func(m *broker.Message) { m.From = broker.Member{} }, head + `"id":"m1","from":{},` + at + `"data":"hello"}`},
		{func(m *broker.Message) { m.From = broker.Member{Name: "a"} }, head + `"id":"m1","from":{"name":"a"},` + at + `"data":"hello"}`},
		{func(m *broker.Message) { m.Time = m.Time.Truncate(time.Second) },
			head + `"id":"m1",` + from + `"time":"2026-01-30T12:34:56.000Z","data":"hello"}`},
		{func(m *broker.Message) { m.Kind, m.Data = broker.KindJSON, []byte(`{"n":1e400,"s":"<"}`) },
			head + `"id":"m1",` + from + at + `"data":{"n":1e400,"s":"<"}}`},
		{func(m *broker.Message) { m.Kind, m.Data = broker.KindJSON, nil }, head + `"id":"m1",` + from + at + `"data":""}`},
		{func(m *broker.Message) { m.Kind, m.Data = broker.KindBinary, []byte("\x00\x01\x02\xff") },
			head + `"id":"m1",` + from + at + `"data_base64":"AAEC/w=="}`},
		{func(m *broker.Message) { m.Kind, m.Data = broker.KindBinary, nil }, head + `"id":"m1",` + from + at + `"data_base64":""}`},
	} {
		m := testMessage()
		tc.change(m)
		require.Equal(t, tc.want, string(AppendMessage(nil, m)))
		require.Equal(t, "before"+tc.want, string(AppendMessage([]byte("before"), m)))
	}
}

func TestAppendString(t *testing.T) {
	for in, want := range map[string]string{
		"":                       `""`,
		"hello":                  `"hello"`,
		"<a & b>":                `"<a & b>"`,
		`a"b\c/`:                 `"a\"b\\c/"`,
		"\n\r\t\b\f\x00\x1f\x7f": `"\n\r\t\u0008\u000c\u0000\u001f\u007f"`,
		"é😀\u2027":               "\"é😀\u2027\"",
		"a\u2028b\u2029":         `"a\u2028b\u2029"`,
		"a\xffb\xc3":             "\"a\ufffdb\ufffd\"",
		"\xed\xa0\x80":           "\"\ufffd\ufffd\ufffd\"",
		"\ufffd":                 "\"\ufffd\"",
	} {
		require.Equal(t, want, string(appendString(nil, in)), "%q", in)
		require.Equal(t, want, string(appendString(nil, []byte(in))), "%q", in)
	}
}

// What no struct of an event can hold by itself.
func TestAppendEdges(t *testing.T) {
	zero := 0
	require.Equal(t, `{"type":"ack","id":"a","reached":0}`, string(AppendAck(nil, &Ack{ID: "a", Reached: &zero})))
	require.Equal(t, `{"type":"ack","id":"a"}`, string(AppendAck(nil, &Ack{ID: "a"})))
	require.Equal(t, `{"type":"error","code":"rate","message":"m","retry_after_ms":2}`,
		string(AppendError(nil, &Error{Code: CodeRate, Message: "m", RetryAfter: 1001 * time.Microsecond})))
	require.Equal(t, `{"type":"gap","room":"r","after":1,"before":18446744073709551615}`,
		string(AppendGap(nil, &Gap{Room: "r", After: 1, Before: math.MaxUint64, Missed: -1})))
	require.Equal(t, `{"type":"gap","room":"r","after":1,"before":2,"missed":0}`,
		string(AppendGap(nil, &Gap{Room: "r", After: 1, Before: 2})))
	require.Equal(t, `{"type":"history","room":"r","messages":[],"more":false}`, string(AppendHistory(nil, &History{Room: "r"})))
	require.Equal(t, `{"type":"presence","room":"r","members":[],"count":0}`, string(AppendPresence(nil, &Presence{Room: "r"})))
	require.Equal(t, `{"type":"pong"}`, string(AppendPong(nil, &Pong{})))
	require.Equal(t, `{"type":"direct","from":{},"to":{"client":"c"},"time":"2026-01-02T03:04:05.000Z","data":"x"}`,
		string(AppendDirect(nil, &broker.Signal{
			To: broker.Target{Client: "c"}, Kind: broker.KindText, Data: []byte("x"), Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		})))

	for _, rate := range []float64{math.Inf(1), math.NaN()} {
		require.Contains(t, string(AppendWelcome(nil, &Welcome{Limits: Limits{Rate: rate}})), `"rate":0,`)
	}
	require.Contains(t, string(AppendWelcome(nil, &Welcome{Limits: Limits{Rate: 0.5}})), `"rate":0.5,`)

	// A connection's id is not for the lists of members, and these have bounds.
	many := make([]broker.Member, MaxListMembers+1)
	for i := range many {
		many[i] = alice
	}
	w := string(AppendWelcome(nil, &Welcome{Members: many, MemberCount: len(many)}))
	require.Equal(t, MaxWelcomeMembers, strings.Count(w, `{"user":"u1","name":"alice"}`))
	require.Contains(t, w, `"member_count":1001`)
	p := string(AppendPresence(nil, &Presence{Members: many, Count: len(many)}))
	require.Equal(t, MaxListMembers, strings.Count(p, `{"user":"u1","name":"alice"}`))
}

func TestRetryableKnowsEachCode(t *testing.T) {
	for _, code := range constants(t, "Code") {
		require.Contains(t, Retryable, code)
	}
	require.True(t, (&Error{Code: CodeRate}).Retryable())
	require.False(t, (&Error{Code: CodeRefused}).Retryable())
	require.EqualError(t, &Error{Code: CodeRate, Message: "slower"}, "hub: rate: slower")
}

// FuzzAppendMessage: what goes in comes out of a JSON parser, but that text and names
// become UTF-8, and times milliseconds.
func FuzzAppendMessage(f *testing.F) {
	f.Add("lobby", "m1", "alice", "example1", uint64(7), uint64(42), []byte("hello"), int64(1769776496789))
	f.Add("a\"b\\", "\x00", "\xff\u2028", "", uint64(0), uint64(0), []byte{}, int64(0))
	f.Add("r", "", "", "e", uint64(math.MaxUint64), uint64(1), []byte("{\"a\" : 1}"), int64(-1))
	f.Fuzz(func(t *testing.T, room, id, name, epoch string, seq, tag uint64, data []byte, ms int64) {
		m := &broker.Message{
			Room: room, ID: id, From: broker.Member{Client: id, User: room, Name: name}, Data: data,
			Time: time.UnixMilli(ms % 1e14).UTC(), Prev: tag,
			Cursor: broker.Cursor{Epoch: epoch[:min(len(epoch), broker.MaxEpoch)], Seq: seq, Tag: tag},
		}
		if m.Cursor.Epoch == "" {
			m.Cursor = broker.Cursor{}
		}
		for _, m.Kind = range []broker.Kind{broker.KindText, broker.KindJSON, broker.KindBinary} {
			want := *m
			if m.Kind == broker.KindJSON {
				kind, compact, err := DecodeData(data)
				if err != nil {
					continue
				}
				m.Kind, m.Data, want.Kind, want.Data = kind, compact, kind, compact
			}
			p := AppendMessage(nil, m)
			require.True(t, json.Valid(p) && utf8.Valid(p), "%q", p)
			require.False(t, bytes.ContainsAny(p, "\n\r"), "%q", p) // an event is one line

			var event Message
			require.NoError(t, json.Unmarshal(p, &event), "%q", p)
			got, err := event.Decode()
			require.NoError(t, err)
			require.Equal(t, m.Cursor.String(), event.Cursor)
			require.Equal(t, m.Cursor.Seq, event.Seq)
			for _, s := range []*string{&want.Room, &want.ID, &want.From.Client, &want.From.User, &want.From.Name} {
				*s = string([]rune(*s)) // each wrong byte is U+FFFD
			}
			if want.Kind == broker.KindText {
				want.Data = []byte(string([]rune(string(want.Data))))
			}
			require.Equal(t, string(want.Data), string(got.Data))
			want.Data, got.Data = nil, nil
			require.Equal(t, &want, got)
		}
	})
}

func TestAppendMessageAllocatesNothing(t *testing.T) {
	m := testMessage()
	m.Data = []byte("é\u2028\xff" + strings.Repeat("x", 128))
	buf := make([]byte, 0, 4096)
	for _, m.Kind = range []broker.Kind{broker.KindText, broker.KindBinary} {
		require.Zero(t, testing.AllocsPerRun(100, func() { AppendMessage(buf, m) }))
	}
}

func BenchmarkAppendMessage(b *testing.B) {
	for _, bench := range []struct {
		name string
		kind broker.Kind
		data string
	}{
		{"text", broker.KindText, strings.Repeat("x", 128)},
		{"japanese", broker.KindText, strings.Repeat("あ", 43)},
		{"json", broker.KindJSON, `{"text":"` + strings.Repeat("x", 117) + `"}`},
		{"binary", broker.KindBinary, strings.Repeat("x", 128)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			m := testMessage()
			m.Kind, m.Data = bench.kind, []byte(bench.data)
			var buf []byte
			for b.Loop() {
				buf = AppendMessage(buf[:0], m)
			}
		})
	}
}
