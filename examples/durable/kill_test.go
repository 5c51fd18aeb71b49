package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/hubclient"
)

// TestKilledFiveTimes: 50 clients publish 200 messages each while the server is killed, without warning, and
// started again five times. Every client has all 10,000 messages, once, in one order.
func TestKilledFiveTimes(t *testing.T) {
	const clients, each, kills = 50, 200, 5
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	p := newProgram(t)
	p.start()

	var acked atomic.Int32
	list := make([]*recorder, clients)
	for i := range list {
		c, err := hubclient.Dial(ctx, p.room("lobby"), hubclient.WithName(fmt.Sprintf("client-%02d", i)))
		require.NoError(t, err)
		defer c.Close()
		list[i] = &recorder{c: c}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, r := range list {
		wg.Go(func() { r.read(ctx, clients*each) })
		wg.Go(func() { r.publish(ctx, each, &acked) })
	}
	for range kills {
		select {
		case <-time.After(200*time.Millisecond + rand.N(1200*time.Millisecond)):
		case <-ctx.Done():
		}
		p.kill()
		t.Logf("killed with %d of %d messages acked", acked.Load(), clients*each)
		require.Less(t, int(acked.Load()), clients*each, "it was killed while messages were under way")
		p.start()
	}
	wg.Wait()

	recovered := 0
	for i, r := range list {
		require.NoError(t, r.err, "client %d", i)
		require.NoError(t, r.failed, "client %d", i)
		require.Equal(t, list[0].got, r.got, "client %d has another order", i)
		recovered += r.recovered
	}
	require.GreaterOrEqual(t, recovered, clients, "clients that came back")
	at := make(map[string]uint64) // seq by id
	next := make(map[string]int)  // of each publisher
	for _, m := range list[0].got {
		require.NotContains(t, at, m.id, "a message twice")
		at[m.id] = m.seq
		require.Equal(t, fmt.Sprintf("%s %d", m.from, next[m.from]), m.text, "a publisher's messages in its order")
		next[m.from]++
	}
	require.Len(t, at, clients*each)
	for _, r := range list {
		for _, receipt := range r.receipts {
			require.Equal(t, at[receipt.ID], receipt.Seq, "the ack names the message's place")
		}
	}
}

// A recorder is a client with all that came of it.
type recorder struct {
	c         *hubclient.Client
	got       []heard
	recovered int
	err       error // of what came

	receipts []hubclient.Receipt
	failed   error // of what was published
}

type heard struct {
	seq            uint64
	id, from, text string
}

// read takes events until n messages have come.
func (r *recorder) read(ctx context.Context, n int) {
	for len(r.got) < n && r.err == nil {
		e, err := r.c.Next(ctx)
		switch {
		case err != nil:
			r.err = fmt.Errorf("after %d messages: %w", len(r.got), err)
		case e.Type == hubclient.EventMessage:
			r.got = append(r.got, heard{e.Message.Seq, e.Message.ID, e.Message.From.Name, e.Message.Text()})
		case e.Type == hubclient.EventGap:
			r.err = fmt.Errorf("a gap: %+v", *e.Gap)
		case e.Type == hubclient.EventError:
			r.err = e.Err
		case e.Type == hubclient.EventWelcome && e.Welcome.Recovery == hubclient.RecoveryRecovered:
			r.recovered++
		case e.Type == hubclient.EventWelcome && e.Welcome.Recovery != hubclient.RecoveryNew:
			r.err = fmt.Errorf("came back with %q", e.Welcome.Recovery)
		}
	}
}

// publish publishes n messages, in a row, and waits for the receipts.
func (r *recorder) publish(ctx context.Context, n int, acked *atomic.Int32) {
	var list []*hubclient.Publication
	for i := range n {
		p, err := r.c.PublishAsync(ctx, hubclient.Text(fmt.Sprintf("%s %d", r.c.Name(), i)))
		if err != nil {
			r.failed = err
			return
		}
		list = append(list, p)
	}
	for _, p := range list {
		receipt, err := p.Wait(ctx)
		if err != nil {
			r.failed = err
			return
		}
		r.receipts = append(r.receipts, receipt)
		acked.Add(1)
	}
}
