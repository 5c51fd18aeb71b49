package brokertest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

var resumeCases = []testCase{
	{"Silent", resumeSilent},
	{"Everywhere", resumeEverywhere},
	{"ForwardPages", resumeForwardPages},
	{"BackwardPages", resumeBackwardPages},
	{"Trimmed", resumeTrimmed},
	{"Edge", resumeEdge},
	{"Aged", resumeAged},
	{"Foreign", resumeForeign},
	{"Tag", resumeTag},
	{"NoTag", resumeNoTag},
	{"Trimming", resumeTrimming},
	{"BackwardTrimming", resumeBackwardTrimming},
	{"LostTail", resumeLostTail},
	{"LostTailTrimmed", resumeLostTailTrimmed},
	{"LostTailAged", resumeLostTailAged},
}

// recovered checks that after continues without a hole, with want.
func (e *env) recovered(b broker.Broker, room string, after broker.Cursor, want []broker.Cursor) {
	e.Helper()
	p := e.since(b, room, after, 1000)
	require.Equal(e, broker.Recovered.String(), p.Verdict.String(), "verdict on %v", show(after))
	require.Equal(e, append([]broker.Cursor{}, want...), positions(p.Messages), "messages after %v", show(after))
	require.Equal(e, e.head(b, room), p.Head, "head of the page")
	require.False(e, p.More, "more after the page")
	if after != (broker.Cursor{}) {
		e.chain(after, p.Messages)
		if len(want) == 0 {
			require.Equal(e, after, p.Next, "next of a page without messages")
		}
	}
	if len(want) > 0 {
		require.Equal(e, want[len(want)-1], p.Next, "next of the page")
	}
}

// reset checks that after is not of this history.
func (e *env) reset(b broker.Broker, room string, after broker.Cursor) {
	e.Helper()
	p := e.since(b, room, after, 1000)
	require.Equal(e, broker.Reset.String(), p.Verdict.String(), "verdict on %v", show(after))
	require.Empty(e, p.Messages, "messages of a reset page")
	require.False(e, p.More, "more after a reset page")
	require.Equal(e, e.head(b, room), p.Head, "head of a reset page")
	require.Equal(e, p.Head, p.Next, "next of a reset page")
}

// told checks that after, which is that of a message among all or before them, gets the rest
// of all or is told exactly what is missing.
func (e *env) told(b broker.Broker, room string, after broker.Cursor, all []broker.Cursor) broker.Verdict {
	e.Helper()
	var want, lost []broker.Cursor
	for _, c := range all {
		if c.Seq > after.Seq {
			want = append(want, c)
		}
	}
	p := e.since(b, room, after, len(all)+1)
	if p.Verdict == broker.Recovered {
		e.recovered(b, room, after, want)
		return p.Verdict
	}
	require.Equal(e, broker.Gap.String(), p.Verdict.String(), "verdict on %v", show(after))
	require.Less(e, len(p.Messages), len(want), "messages after a gap")
	lost, want = want[:len(want)-len(p.Messages)], want[len(want)-len(p.Messages):]
	require.Equal(e, append([]broker.Cursor{}, want...), positions(p.Messages), "messages after a gap")
	require.Equal(e, after.Seq, p.Gap.After, "the gap's After")
	require.Greater(e, p.Gap.Before, lost[len(lost)-1].Seq, "the gap's Before and the last message lost")
	if len(want) > 0 {
		require.LessOrEqual(e, p.Gap.Before, want[0].Seq, "the gap's Before and the first message kept")
		require.Equal(e, want[len(want)-1], p.Next, "next of a gap's page")
	} else {
		require.Equal(e, p.Head, p.Next, "next of a gap's page without messages")
	}
	if p.Gap.Missed != -1 {
		require.Equal(e, len(lost), p.Gap.Missed, "messages that the gap missed")
	}
	require.Equal(e, e.head(b, room), p.Head, "head of a gap's page")
	require.False(e, p.More, "more after the page")
	e.recovered(b, room, p.Next, nil)
	return p.Verdict
}

// A room that never had a message has a position, and it stays good.
func resumeSilent(e *env) {
	a, b := e.pair(Limits{})
	head := e.head(a, "lobby")
	require.Zero(e, head.Seq, "seq of a new room's head")
	require.Zero(e, head.Tag, "tag of a new room's head")
	require.NotEmpty(e, head.Epoch, "epoch of a new room's head")
	require.LessOrEqual(e, len(head.Epoch), broker.MaxEpoch, "bytes of an epoch")
	e.recovered(b, "lobby", head, nil)
	e.recovered(b, "lobby", broker.Cursor{}, nil)
	require.Empty(e, e.kept(b, "lobby"), "messages of a new room")

	s := e.subscribe(b, "lobby")
	require.Equal(e, head, s.Head(), "head of the subscription")
	s.Close()
	if e.Bubble {
		e.pass(48 * time.Hour)
	}
	require.Equal(e, head, e.head(a, "lobby"), "head after the room was silent")
	e.recovered(a, "lobby", head, nil)
	r := e.publish(b, text("lobby", "", "hello"))
	e.recovered(a, "lobby", head, []broker.Cursor{r.Cursor})
}

// Every position of a history that is all kept continues without a hole.
func resumeEverywhere(e *env) {
	a, b := e.pair(Limits{})
	head := e.head(a, "lobby")
	all := receiptPositions(e.publishN(a, "lobby", 12))
	e.recovered(b, "lobby", broker.Cursor{}, all)
	e.recovered(b, "lobby", head, all)
	for i, c := range all {
		e.recovered(b, "lobby", c, all[i+1:])
	}
}

// A reader that takes page after page gets each message once.
func resumeForwardPages(e *env) {
	b := e.open(Limits{})
	next := e.head(b, "lobby")
	all := receiptPositions(e.publishN(b, "lobby", 25))
	for _, from := range []broker.Cursor{next, {}} {
		var got []broker.Cursor
		for pages := 1; ; pages++ {
			p := e.since(b, "lobby", from, 10)
			require.Equal(e, broker.Recovered.String(), p.Verdict.String(), "verdict on page %d", pages)
			require.Equal(e, all[24], p.Head, "head of page %d", pages)
			got = append(got, positions(p.Messages)...)
			require.Equal(e, got[len(got)-1], p.Next, "next of page %d", pages)
			if from = p.Next; !p.More {
				break
			}
			require.Less(e, pages, 25, "pages of 25 messages")
		}
		require.Equal(e, all, got, "messages of all pages")
	}
	require.Len(e, e.since(b, "lobby", next, 1).Messages, 1, "page of one")
	require.False(e, e.since(b, "lobby", next, 25).More, "more after a page of all")
}

// So does one that goes back.
func resumeBackwardPages(e *env) {
	b := e.open(Limits{})
	all := receiptPositions(e.publishN(b, "lobby", 25))
	var got []broker.Cursor
	before := uint64(0)
	for pages := 1; ; pages++ {
		p := e.before(b, "lobby", before, 10)
		require.NotEmpty(e, p.Messages, "messages of page %d", pages)
		require.Equal(e, all[24], p.Head, "head of page %d", pages)
		require.Equal(e, p.Messages[len(p.Messages)-1].Cursor, p.Next, "next of page %d", pages)
		got = append(positions(p.Messages), got...)
		if before = got[0].Seq; !p.More {
			break
		}
		require.Less(e, pages, 25, "pages of 25 messages")
	}
	require.Equal(e, all, got, "messages of all pages")

	p := e.before(b, "lobby", all[0].Seq, 10)
	require.Empty(e, p.Messages, "messages before the first")
	require.False(e, p.More, "more before the first")
	require.Equal(e, all[23:], positions(e.before(b, "lobby", all[24].Seq+100, 2).Messages), "messages before a future one")
	require.False(e, e.before(b, "lobby", 0, 25).More, "more before a page of all")
	require.Equal(e, all[:1], positions(e.before(b, "lobby", all[1].Seq, 10).Messages), "messages before the second")
}

// Whoever missed more than is kept is told what is missing.
func resumeTrimmed(e *env) {
	b := e.open(Limits{Messages: 5})
	head := e.head(b, "lobby")
	all := receiptPositions(e.publishN(b, "lobby", 12))
	kept := positions(e.kept(b, "lobby"))
	require.Equal(e, all[len(all)-len(kept):], kept, "messages kept")
	if !e.Coarse {
		require.Len(e, kept, 5, "messages kept")
	}
	require.GreaterOrEqual(e, len(kept), 5, "messages kept")
	for i, c := range append([]broker.Cursor{head, {}}, all...) {
		v := e.told(b, "lobby", c, all)
		if !e.Coarse && i < 8 { // head, zero, and the first six of seven that are gone
			require.Equal(e, broker.Gap.String(), v.String(), "verdict on %v", show(c))
		}
	}
	if e.Coarse {
		return
	}
	// After the gap the pages go on as ever.
	p := e.since(b, "lobby", all[0], 2)
	require.Equal(e, broker.Gap.String(), p.Verdict.String(), "verdict on the first page")
	require.Equal(e, kept[:2], positions(p.Messages), "messages of the first page")
	require.True(e, p.More, "more after the first page")
	e.recovered(b, "lobby", p.Next, kept[2:])
	require.False(e, e.before(b, "lobby", kept[1].Seq, 5).More, "more before the oldest kept")
}

// The position just before the oldest message kept misses nothing.
func resumeEdge(e *env) {
	b := e.open(Limits{Messages: 5})
	var all []broker.Cursor
	for range 20 {
		all = append(all, e.publish(b, text("lobby", "", "hello")).Cursor)
		kept := positions(e.kept(b, "lobby"))
		if len(kept) == len(all) {
			continue
		}
		edge := len(all) - len(kept) - 1
		e.recovered(b, "lobby", all[edge], kept)
		if !e.Coarse && edge > 0 {
			require.Equal(e, broker.Gap.String(), e.told(b, "lobby", all[edge-1], all).String(), "verdict one before the edge")
		}
	}
}

// Messages that are too old go, and the room's position stays.
func resumeAged(e *env) {
	age := 3 * e.Second
	if e.Bubble {
		age = time.Hour
	}
	b := e.open(Limits{Age: age})
	head := e.head(b, "lobby")
	all := receiptPositions(e.publishN(b, "lobby", 3))
	require.Len(e, e.kept(b, "lobby"), 3, "messages before their age")
	if e.Bubble {
		e.pass(age - time.Second)
		e.recovered(b, "lobby", head, all)
		e.pass(time.Second)
	} else {
		e.pass(age + e.Second)
	}
	if !e.Coarse {
		require.Empty(e, e.kept(b, "lobby"), "messages past their age")
		require.Equal(e, broker.Gap.String(), e.told(b, "lobby", head, all).String(), "verdict on the first position")
		require.Equal(e, broker.Gap.String(), e.told(b, "lobby", all[1], all).String(), "verdict on the second message")
	}
	require.Equal(e, all[2], e.head(b, "lobby"), "head after all have gone")
	e.recovered(b, "lobby", all[2], nil)
	e.reset(b, "lobby", broker.Cursor{Epoch: all[2].Epoch, Seq: all[2].Seq, Tag: all[2].Tag ^ 1<<63})
	require.Equal(e, all[2], e.subscribe(b, "lobby").Head(), "head of a subscription")

	r := e.publish(b, text("lobby", "", "hello"))
	e.recovered(b, "lobby", all[2], []broker.Cursor{r.Cursor})
	for _, c := range append(all, head) {
		e.told(b, "lobby", c, append(all[:3:3], r.Cursor))
	}
}

// Cursors that are not of this history.
func resumeForeign(e *env) {
	b := e.open(Limits{})
	empty := e.head(b, "empty")
	all := receiptPositions(e.publishN(b, "lobby", 5))
	other := receiptPositions(e.publishN(b, "other", 5))
	for what, c := range map[string]broker.Cursor{
		"another epoch":             {Epoch: "another", Seq: all[2].Seq, Tag: all[2].Tag},
		"another epoch's beginning": {Epoch: "another"},
		"the longest epoch":         {Epoch: "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", Seq: 1<<64 - 1, Tag: 1<<64 - 1},
		"another room":              other[2],
		"an empty room":             empty,
		"the future":                {Epoch: all[4].Epoch, Seq: all[4].Seq + 1, Tag: all[4].Tag},
		"the far future":            {Epoch: all[4].Epoch, Seq: 1<<64 - 1, Tag: 1},
		"the future above int64":    {Epoch: all[4].Epoch, Seq: 1 << 63, Tag: 1},
	} {
		e.Logf("a cursor of %s", what)
		e.reset(b, "lobby", c)
	}
	e.reset(b, "empty", all[0])
	e.reset(b, "empty", broker.Cursor{Epoch: empty.Epoch, Seq: 1, Tag: 1})
}

// A cursor of a message that had its place before is not of this history.
func resumeTag(e *env) {
	b := e.open(Limits{Messages: 5})
	all := receiptPositions(e.publishN(b, "lobby", 12))
	kept := positions(e.kept(b, "lobby"))
	for _, c := range kept {
		c.Tag++
		e.reset(b, "lobby", c)
	}
	if !e.Coarse {
		edge := all[len(all)-len(kept)-1]
		edge.Tag ^= 1 << 63
		e.reset(b, "lobby", edge)
	}
}

// A cursor without a tag is good wherever its seq is.
func resumeNoTag(e *env) {
	b := e.open(Limits{Messages: 5})
	all := receiptPositions(e.publishN(b, "lobby", 12))
	kept := positions(e.kept(b, "lobby"))
	for i, c := range all {
		c.Tag = 0
		if i >= len(all)-len(kept)-1 { // the edge
			e.recovered(b, "lobby", c, all[i+1:])
		} else {
			require.NotEqual(e, broker.Recovered, e.told(b, "lobby", c, all), "verdict on a cursor below the edge")
		}
	}
	e.reset(b, "lobby", broker.Cursor{Epoch: all[0].Epoch, Seq: all[11].Seq + 1})
	e.reset(b, "lobby", broker.Cursor{Epoch: "another", Seq: all[11].Seq})
}
