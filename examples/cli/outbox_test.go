package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sendAll takes what an outbox would send at a time.
func sendAll(o *outbox, now time.Time) (texts []string, wait time.Time) {
	for {
		ln, ok, wait := o.next(now)
		if !ok {
			return texts, wait
		}
		texts = append(texts, ln.text)
	}
}

func TestOutboxKeepsPace(t *testing.T) {
	o, now := newOutbox(), time.Now()
	for _, text := range []string{"a", "b", "c", "d"} {
		o.add(text)
	}
	o.connected(now, limits{Rate: 10, Burst: 2}, true)
	got, wait := sendAll(&o, now)
	require.Equal(t, []string{"a", "b"}, got)
	require.Equal(t, now.Add(100*time.Millisecond), wait)
	got, _ = sendAll(&o, wait)
	require.Equal(t, []string{"c"}, got)
	got, wait = sendAll(&o, now.Add(time.Hour))
	require.Equal(t, []string{"d"}, got)
	require.Zero(t, wait)
}

func TestOutboxSendsAgainInOrder(t *testing.T) {
	o, now := newOutbox(), time.Now()
	for _, text := range []string{"a", "b", "c"} {
		o.add(text)
	}
	o.connected(now, limits{}, true)
	got, _ := sendAll(&o, now)
	require.Equal(t, []string{"a", "b", "c"}, got)
	a, b, c := o.lines[0].id, o.lines[1].id, o.lines[2].id
	o.done(a)
	o.again(now, b, time.Second) // the server refused it for now,
	o.again(now, c, 0)           // and so what follows
	_, wait := sendAll(&o, now)
	require.Equal(t, now.Add(time.Second), wait)
	got, _ = sendAll(&o, wait)
	require.Equal(t, []string{"b", "c"}, got)
	o.again(now, "unknown", time.Hour)
	o.done(c) // acks may come in any order
	o.done(b)
	require.True(t, o.empty())
}

func TestOutboxAfterALostConnection(t *testing.T) {
	o, now := newOutbox(), time.Now()
	l := limits{DedupWindowMS: 60_000}
	o.add("a")
	o.connected(now, l, true)
	sendAll(&o, now)
	o.add("b") // never sent
	require.Empty(t, o.connected(now.Add(59*time.Second), l, true))
	got, _ := sendAll(&o, now.Add(59*time.Second))
	require.Equal(t, []string{"a", "b"}, got)

	uncertain := o.connected(now.Add(61*time.Second), l, true) // a's id is forgotten
	require.Len(t, uncertain, 1)
	require.Equal(t, "a", uncertain[0].text)
	got, _ = sendAll(&o, now.Add(61*time.Second))
	require.Equal(t, []string{"b"}, got)

	require.Len(t, o.connected(now.Add(62*time.Second), l, false), 1) // not the server that we knew
	require.True(t, o.empty())
}

func TestOutboxIsBounded(t *testing.T) {
	o, now := newOutbox(), time.Now()
	for !o.full() {
		o.add("x")
	}
	o.connected(now, limits{}, true)
	got, _ := sendAll(&o, now)
	require.Len(t, o.lines, maxOutbox)
	require.Len(t, got, maxFlight)
}
