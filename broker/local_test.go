package broker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func admit(t *testing.T, l *Local, room string) Place {
	t.Helper()
	p, err := l.Admit(ctx, &Message{Room: room})
	require.NoError(t, err)
	return p
}

// What is admitted counts as waiting, until it is delivered and taken, or released.
func TestLocalPlacesCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLocal(WithWaiting(3, 1<<20))
		s, err := l.Subscribe(ctx, "lobby", Cursor{Epoch: "e", Seq: 7})
		require.NoError(t, err)
		require.Equal(t, uint64(7), s.Head().Seq)
		first, second, third := admit(t, l, "lobby"), admit(t, l, "lobby"), admit(t, l, "lobby")
		require.True(t, l.Full("lobby"))
		late, err := l.Subscribe(ctx, "lobby", Cursor{Epoch: "e", Seq: 7})
		require.NoError(t, err)

		c, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err = l.Admit(c, &Message{Room: "lobby"})
		require.ErrorIs(t, err, ErrBusy)
		require.ErrorIs(t, err, context.DeadlineExceeded)

		fourth := make(chan Place, 1)
		go func() { fourth <- admit(t, l, "lobby") }()
		synctest.Wait()
		first.Deliver(&Message{Room: "lobby", Cursor: Cursor{Seq: 8}})
		synctest.Wait()
		require.Empty(t, fourth, "admitted while one waits and two are under way")
		second.Release()
		(<-fourth).Deliver(&Message{Room: "lobby", Cursor: Cursor{Seq: 9}})
		third.Deliver(&Message{Room: "lobby", Cursor: Cursor{Seq: 10}})
		for _, s := range []Subscription{s, late} {
			got, err := s.Take(nil, 10)
			require.NoError(t, err)
			require.Len(t, got, 3)
			for i, e := range got {
				require.Equal(t, uint64(8+i), e.Message.Cursor.Seq, "seq of event %d", i)
			}
		}
		require.False(t, l.Full("lobby"))
		require.NoError(t, l.Close())
	})
}

// Nobody listens when a message is admitted, somebody when it is delivered.
func TestLocalSubscribedMeanwhile(t *testing.T) {
	l := NewLocal()
	p, nobody := admit(t, l, "lobby"), admit(t, l, "other")
	s, err := l.Subscribe(ctx, "lobby", Cursor{Epoch: "e"})
	require.NoError(t, err)
	p.Deliver(&Message{Room: "lobby"})
	nobody.Deliver(&Message{Room: "other"})
	got, err := s.Take(nil, 10)
	require.NoError(t, err)
	require.Len(t, got, 1)
	admit(t, l, "other").Release()

	held := admit(t, l, "lobby")
	require.NoError(t, l.Close())
	held.Deliver(&Message{Room: "lobby"})
	_, err = l.Admit(ctx, &Message{Room: "lobby"})
	require.ErrorIs(t, err, ErrClosed)
	require.False(t, l.Full("lobby"))
}

// A room for which a message is under way is not forgotten.
func TestLocalForgetsNoPlace(t *testing.T) {
	l := NewLocal(WithRooms(1))
	s, err := l.Subscribe(ctx, "lobby", Cursor{})
	require.NoError(t, err)
	p := admit(t, l, "lobby")
	s.Close()
	_, err = l.Subscribe(ctx, "other", Cursor{})
	require.ErrorIs(t, err, ErrBusy)
	p.Release()
	_, err = l.Subscribe(ctx, "other", Cursor{})
	require.NoError(t, err)
	require.NoError(t, l.Close())
}
