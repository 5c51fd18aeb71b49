package catchup

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/internal/wsconn"
)

// A shelf is a broker whose reads the test answers.
type shelf struct {
	broker.Broker // nil: what a reader must not call
	reads         atomic.Int32
	answer        func(ctx context.Context) (broker.Page, error)
}

func (s *shelf) Since(ctx context.Context, _ string, _ broker.Cursor, _ int) (broker.Page, error) {
	s.reads.Add(1)
	return s.answer(ctx)
}

func (s *shelf) Before(ctx context.Context, _ string, _ uint64, _ int) (broker.Page, error) {
	s.reads.Add(1)
	return s.answer(ctx)
}

func message(seq uint64, size int) *broker.Message {
	return &broker.Message{Cursor: broker.Cursor{Epoch: "e", Seq: seq, Tag: 1}, Data: make([]byte, size)}
}

func TestSamePageIsReadAndEncodedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		s := &shelf{answer: func(context.Context) (broker.Page, error) {
			<-hold
			return broker.Page{Messages: []*broker.Message{message(1, 1)}}, nil
		}}
		r := NewReader(s)
		var encodes atomic.Int32
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				page, err := r.Since(context.Background(), "lobby", broker.Cursor{})
				if err != nil {
					t.Errorf("since: %v", err)
					return
				}
				f := page.Frames(1, func(int) *wsconn.Frame {
					encodes.Add(1)
					return &wsconn.Frame{}
				})
				if len(f) != 1 {
					t.Errorf("frames: %d", len(f))
				}
			})
		}
		synctest.Wait()
		close(hold)
		wg.Wait()
		require.EqualValues(t, 1, s.reads.Load())
		require.EqualValues(t, 1, encodes.Load())
		_, err := r.Since(context.Background(), "lobby", broker.Cursor{})
		require.NoError(t, err)
		require.EqualValues(t, 2, s.reads.Load(), "a page is not kept: it may have grown")
	})
}

func TestReadsAreCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		s := &shelf{answer: func(context.Context) (broker.Page, error) { <-hold; return broker.Page{}, nil }}
		r := NewReader(s)
		var wg sync.WaitGroup
		for i := range 3 * maxReads {
			wg.Go(func() { _, _ = r.Since(context.Background(), "lobby", broker.Cursor{Epoch: "e", Seq: uint64(i)}) })
		}
		synctest.Wait()
		require.EqualValues(t, maxReads, s.reads.Load())
		close(hold)
		wg.Wait()
		require.EqualValues(t, 3*maxReads, s.reads.Load())
	})
}

// Who gives up does not take the read from those who joined it, and a read ends.
func TestContexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{answer: func(ctx context.Context) (broker.Page, error) { <-ctx.Done(); return broker.Page{}, ctx.Err() }}
		r := NewReader(s)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		first, leave := context.WithCancel(context.Background())
		go func() { _, _ = r.Before(first, "lobby", 0, 1) }()
		synctest.Wait()
		leave() // who asked first
		start := time.Now()
		_, err := r.Before(ctx, "lobby", 0, 1)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))
		_, err = r.Before(context.Background(), "lobby", 0, 1)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, timeout, time.Since(start), "the first one's read ends")

		failed := make(chan error, 1)
		go func() {
			_, err := r.Before(context.Background(), "lobby", 0, 1)
			failed <- err
		}()
		synctest.Wait()
		r.Close()
		require.ErrorIs(t, <-failed, context.Canceled)
	})
}

func TestABrokerThatPanicsReleasesThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		s := &shelf{answer: func(context.Context) (broker.Page, error) { <-hold; panic("broken") }}
		r := NewReader(s)
		go func() { _, _ = r.Before(context.Background(), "lobby", 0, 1) }()
		failed := make(chan error, 1)
		synctest.Wait()
		go func() {
			_, err := r.Before(context.Background(), "lobby", 0, 1)
			failed <- err
		}()
		synctest.Wait()
		close(hold)
		require.ErrorContains(t, <-failed, "broken")
	})
}

func TestPagesAreBoundedInBytes(t *testing.T) {
	page := broker.Page{Verdict: broker.Recovered}
	for seq := range uint64(40) {
		page.Messages = append(page.Messages, message(seq+1, 64<<10))
	}
	page.Next = page.Messages[39].Cursor
	s := &shelf{answer: func(context.Context) (broker.Page, error) { return page, nil }}
	r := NewReader(s)
	got, err := r.Since(context.Background(), "lobby", broker.Cursor{})
	require.NoError(t, err)
	require.Len(t, got.Messages, 16, "the oldest 1 MiB")
	require.EqualValues(t, 16, got.Next.Seq)
	require.True(t, got.More)

	got, err = r.Before(context.Background(), "lobby", 0, 40)
	require.NoError(t, err)
	require.Len(t, got.Messages, 16, "the newest 1 MiB")
	require.EqualValues(t, 25, got.Messages[0].Cursor.Seq)
	require.True(t, got.More)

	page = broker.Page{Messages: []*broker.Message{message(1, 2<<20), message(2, 1)}}
	got, err = r.Since(context.Background(), "lobby", broker.Cursor{})
	require.NoError(t, err)
	require.Len(t, got.Messages, 1, "one that is larger goes alone")

	s.answer = func(context.Context) (broker.Page, error) { return broker.Page{}, errors.New("away") }
	_, err = r.Since(context.Background(), "lobby", broker.Cursor{})
	require.ErrorContains(t, err, "away")
}
