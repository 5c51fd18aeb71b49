package gate

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/internal/wire"
)

func publish(id string) *wire.Command { return &wire.Command{Type: wire.CommandPublish, ID: id} }

func TestRetryAfterIsLongEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(3, 2, false)
		for range 2 {
			require.Nil(t, g.Publish(publish("")))
		}
		for range 20 {
			err := g.Publish(publish("x"))
			require.Equal(t, wire.CodeRate, err.Code)
			require.LessOrEqual(t, err.RetryAfter, time.Second/3+time.Millisecond)
			// As a client reads it: rounded up to a millisecond.
			<-time.After(err.RetryAfter + time.Millisecond)
			require.Nil(t, g.Publish(publish("x")), "after the time that it was told")
		}
	})
}

func TestCommandsAreCountedApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(1, 1, false)
		require.Nil(t, g.Publish(publish("")))
		require.Nil(t, g.Command(&wire.Command{Type: wire.CommandPing}))
		require.NotNil(t, g.Command(&wire.Command{Type: wire.CommandPing}))
		require.NotNil(t, g.Publish(publish("")))
	})
}

func TestNoLimit(t *testing.T) {
	g := New(0, 0, false)
	for range 1000 {
		require.Nil(t, g.Publish(publish("")))
		require.Nil(t, g.Command(publish("")))
		require.NoError(t, g.Wait(context.Background()))
	}
}

func TestOrdered(t *testing.T) {
	g := New(0, 0, true)
	require.Equal(t, wire.CodeBadRequest, g.Publish(publish("")).Code, "an id is needed")
	busy := &wire.Error{Code: wire.CodeBusy}
	final := &wire.Error{Code: wire.CodeRefused}

	require.Nil(t, g.Publish(publish("a")))
	g.Done(publish("a"), busy)
	require.Equal(t, wire.CodeOutOfOrder, g.Publish(publish("b")).Code)
	require.Equal(t, wire.CodeOutOfOrder, g.Publish(publish("b")).Code, "b was not the refused one")
	require.Nil(t, g.Publish(publish("a")))
	g.Done(publish("a"), busy)
	require.Equal(t, wire.CodeOutOfOrder, g.Publish(publish("b")).Code, "refused again")
	require.Nil(t, g.Publish(publish("a")))
	g.Done(publish("a"), final)
	require.Nil(t, g.Publish(publish("b")), "a will not come again")
	g.Done(publish("b"), nil)

	unordered := New(0, 0, false)
	unordered.Done(publish("a"), busy)
	require.Nil(t, unordered.Publish(publish("b")))
}
