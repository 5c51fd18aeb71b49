package brokertest_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
	"github.com/chathub-go/hub/broker/brokertest"
)

// brokenEnv names the breakage with which TestBroken runs, in a process of its own.
const brokenEnv = "HUB_BROKERTEST_BROKEN"

// TestBroken is run by TestSuiteBites, and fails then.
func TestBroken(t *testing.T) {
	name := os.Getenv(brokenEnv)
	if name == "" {
		t.Skip("run by TestSuiteBites")
	}
	for _, b := range breakages {
		if b.name == name {
			brokertest.Run(t, b.harness())
			return
		}
	}
	t.Fatalf("no breakage %q", name)
}

// A suite that passes is worth as much as what it does not let pass: each of these brokers breaks
// one promise, and the suite says so.
func TestSuiteBites(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	run := func(t *testing.T, name, only string) (string, error) {
		cmd := exec.Command(os.Args[0], "-test.run=^TestBroken$"+only, "-test.timeout=60s", "-test.v")
		cmd.Env = append(os.Environ(), brokenEnv+"="+name)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, b := range breakages {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			if b.fails == "" {
				out, err := run(t, b.name, "")
				require.NoError(t, err, "the suite with a broker that is right:\n%s", out)
				return
			}
			group, name, _ := strings.Cut(b.fails, "/")
			out, err := run(t, b.name, "/^"+group+"$/^"+name+"$")
			require.Error(t, err, "%s passes:\n%s", b.fails, out)
			require.Contains(t, out, "--- FAIL: TestBroken/"+b.fails, "%s fails in another way", b.fails)
		})
	}
}

// A breakage breaks one promise.
type breakage struct {
	name  string
	fails string // the case that has to fail; "" where nothing is broken
	// What follows is optional.
	limits  func(*brokertest.Limits)
	hooks   func() hooks
	restart func(t *testing.T, old hooked) broker.Broker
}

func (b breakage) harness() brokertest.Harness {
	wrap := func(m broker.Broker) broker.Broker {
		h := hooked{Broker: m}
		if b.hooks != nil {
			h.hooks = b.hooks()
		}
		return h
	}
	h := brokertest.Harness{Bubble: true}
	h.Open = func(t *testing.T, l brokertest.Limits) broker.Broker {
		if b.limits != nil {
			b.limits(&l)
		}
		return wrap(openMemory(t, l))
	}
	h.Peer = func(t *testing.T, b broker.Broker) broker.Broker { return peer{b} }
	h.Restart = func(t *testing.T, old broker.Broker) broker.Broker {
		if b.restart != nil {
			return wrap(b.restart(t, old.(hooked)))
		}
		return wrap(old.(hooked).Broker) // memory that survives
	}
	return h
}

// A peer is another handle of a broker; to close it does not close that.
type peer struct{ broker.Broker }

func (peer) Close() error { return nil }

// hooks change what a broker does. A nil one changes nothing.
type hooks struct {
	publish   func(ctx context.Context, b broker.Broker, m *broker.Message) (broker.Receipt, error)
	signal    func(ctx context.Context, b broker.Broker, s *broker.Signal) (int, error)
	subscribe func(ctx context.Context, b broker.Broker, room string) (broker.Subscription, error)
	since     func(ctx context.Context, b broker.Broker, room string, after broker.Cursor, limit int) (broker.Page, error)
	before    func(ctx context.Context, b broker.Broker, room string, before uint64, limit int) (broker.Page, error)
	head      func(ctx context.Context, b broker.Broker, room string) (broker.Cursor, error)
	lease     func(l broker.Lease) broker.Lease
	close     func(b broker.Broker) error
	take      func(events []broker.Event) []broker.Event
	members   func(list []broker.Member) []broker.Member
	subHead   func(c broker.Cursor) broker.Cursor
	takeErr   func(err error) error
}

type hooked struct {
	broker.Broker
	hooks
}

func (h hooked) Publish(ctx context.Context, m *broker.Message) (broker.Receipt, error) {
	if h.publish != nil {
		return h.publish(ctx, h.Broker, m)
	}
	return h.Broker.Publish(ctx, m)
}

func (h hooked) Signal(ctx context.Context, s *broker.Signal) (int, error) {
	if h.signal != nil {
		return h.signal(ctx, h.Broker, s)
	}
	return h.Broker.Signal(ctx, s)
}

func (h hooked) Subscribe(ctx context.Context, room string) (broker.Subscription, error) {
	subscribe := func(ctx context.Context, b broker.Broker, room string) (broker.Subscription, error) {
		return b.Subscribe(ctx, room)
	}
	if h.subscribe != nil {
		subscribe = h.subscribe
	}
	s, err := subscribe(ctx, h.Broker, room)
	if err != nil {
		return nil, err
	}
	return hookedSubscription{s, h.hooks}, nil
}

func (h hooked) Since(ctx context.Context, room string, after broker.Cursor, limit int) (broker.Page, error) {
	if h.since != nil {
		return h.since(ctx, h.Broker, room, after, limit)
	}
	return h.Broker.Since(ctx, room, after, limit)
}

func (h hooked) Before(ctx context.Context, room string, before uint64, limit int) (broker.Page, error) {
	if h.before != nil {
		return h.before(ctx, h.Broker, room, before, limit)
	}
	return h.Broker.Before(ctx, room, before, limit)
}

func (h hooked) Head(ctx context.Context, room string) (broker.Cursor, error) {
	if h.head != nil {
		return h.head(ctx, h.Broker, room)
	}
	return h.Broker.Head(ctx, room)
}

func (h hooked) Lease(ctx context.Context, node string) (broker.Lease, error) {
	l, err := h.Broker.Lease(ctx, node)
	if err == nil && h.lease != nil {
		l = h.lease(l)
	}
	return l, err
}

func (h hooked) Close() error {
	if h.close != nil {
		return h.close(h.Broker)
	}
	return h.Broker.Close()
}

type hookedSubscription struct {
	broker.Subscription
	hooks hooks
}

func (s hookedSubscription) Head() broker.Cursor {
	if s.hooks.subHead != nil {
		return s.hooks.subHead(s.Subscription.Head())
	}
	return s.Subscription.Head()
}

func (s hookedSubscription) Members() []broker.Member {
	if s.hooks.members != nil {
		return s.hooks.members(s.Subscription.Members())
	}
	return s.Subscription.Members()
}

func (s hookedSubscription) Take(buf []broker.Event, n int) ([]broker.Event, error) {
	got, err := s.Subscription.Take(nil, n)
	if s.hooks.take != nil {
		got = s.hooks.take(got)
	}
	if s.hooks.takeErr != nil {
		err = s.hooks.takeErr(err)
	}
	return append(buf, got...), err
}
