package deadline

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

type key struct{}

// It is what context.WithTimeout returns, whether or not somebody has waited before.
func TestAsContext(t *testing.T) {
	for _, waited := range []bool{false, true} {
		make := func(t *testing.T, parent context.Context) *Context {
			c := WithTimeout(parent, time.Second)
			t.Cleanup(c.Cancel)
			if waited {
				select {
				case <-c.Done():
					t.Error("done at once")
				default:
				}
			}
			require.NoError(t, c.Err())
			return c
		}
		test := func(name string, f func(t *testing.T)) {
			if waited {
				name += ", waited"
			}
			t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
		}
		test("deadline", func(t *testing.T) {
			c := make(t, context.WithValue(t.Context(), key{}, 7))
			by, ok := c.Deadline()
			require.True(t, ok)
			require.Equal(t, time.Second, time.Until(by))
			require.Equal(t, 7, c.Value(key{}))
			<-time.After(time.Second - 1)
			synctest.Wait()
			require.NoError(t, c.Err())
			<-time.After(1)
			synctest.Wait()
			require.ErrorIs(t, c.Err(), context.DeadlineExceeded)
			<-c.Done()
		})
		test("a wait", func(t *testing.T) {
			c := make(t, t.Context())
			start := time.Now()
			<-c.Done()
			require.Equal(t, time.Second, time.Since(start))
			require.ErrorIs(t, c.Err(), context.DeadlineExceeded)
		})
		test("cancel", func(t *testing.T) {
			c := make(t, t.Context())
			c.Cancel()
			require.ErrorIs(t, c.Err(), context.Canceled)
			<-c.Done()
			require.ErrorIs(t, c.Err(), context.Canceled)
			c.Cancel()
		})
		test("the parent ends", func(t *testing.T) {
			parent, cancel := context.WithCancel(t.Context())
			c := make(t, parent)
			cancel()
			require.ErrorIs(t, c.Err(), context.Canceled)
			<-c.Done()
		})
		test("the parent's deadline comes first", func(t *testing.T) {
			parent, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			by, _ := make(t, parent).Deadline()
			require.Equal(t, time.Millisecond, time.Until(by))
		})
		test("a child", func(t *testing.T) {
			c := make(t, t.Context())
			child, cancel := context.WithCancel(c)
			defer cancel()
			c.Cancel()
			<-child.Done()
			require.ErrorIs(t, child.Err(), context.Canceled)
		})
	}
}

func TestAllocations(t *testing.T) {
	ctx := t.Context()
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		c := WithTimeout(ctx, time.Second)
		_ = c.Err()
		c.Cancel()
	}), 1.0)
}
