package brokertest_test

import (
	"context"
	"os"
	"os/exec"
	"regexp"
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
	caseName := regexp.MustCompile(`--- \w+: TestBroken/(\w+/\w+) `)
	bitten := make(map[string]bool)
	for _, b := range breakages {
		bitten[b.fails] = true
	}
	for _, b := range breakages {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			if b.fails == "" {
				out, err := run(t, b.name, "")
				require.NoError(t, err, "the suite with a broker that is right:\n%s", out)
				require.NotContains(t, out, "#01", "two cases of one name")
				for _, c := range caseName.FindAllStringSubmatch(out, -1) {
					require.Contains(t, bitten, c[1], "cases that catch something")
				}
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
	// What follows is optional. The broker is the in-memory one, or else one on a disk.
	limits func(*brokertest.Limits)
	hooks  func() hooks
	wrap   func(*broker.Memory) broker.Broker
	disk   bool
	faults func(*disk) // of the disk, from the beginning on
	ended  func(*disk) // of the disk, when Restart or Kill has ended a broker
	killed func(*disk) // when Kill has
}

func (b breakage) harness() brokertest.Harness {
	if b.limits == nil {
		b.limits = func(*brokertest.Limits) {}
	}
	if b.hooks == nil {
		b.hooks = func() hooks { return hooks{} }
	}
	if b.disk {
		return b.diskHarness()
	}
	return brokertest.Harness{Bubble: true, Open: func(t *testing.T, l brokertest.Limits) broker.Broker {
		b.limits(&l)
		m := openMemory(t, l)
		if b.wrap != nil {
			return b.wrap(m.(*broker.Memory))
		}
		return hooked{m, b.hooks()}
	}}
}

// diskHarness is the harness of the disk, with all that b breaks.
func (b breakage) diskHarness() brokertest.Harness {
	broken := func(inner broker.Broker) broker.Broker { return hooked{inner, b.hooks()} }
	reopen := func(h func(*testing.T, broker.Broker) broker.Broker, then ...func(*disk)) func(*testing.T, broker.Broker) broker.Broker {
		return func(t *testing.T, outer broker.Broker) broker.Broker {
			inner := h(t, outer.(hooked).Broker)
			for _, f := range then {
				if f != nil {
					f(inner.(*diskBroker).d)
				}
			}
			return broken(inner)
		}
	}
	h := diskHarness()
	inner := h
	h.Bubble = true
	h.Open = func(t *testing.T, l brokertest.Limits) broker.Broker {
		b.limits(&l)
		d := newDisk(l)
		if b.faults != nil {
			b.faults(d)
		}
		return broken(&diskBroker{d: d})
	}
	h.Peer = reopen(inner.Peer)
	h.Restart = func(t *testing.T, outer broker.Broker) broker.Broker {
		_ = outer.Close()
		return reopen(inner.Restart, b.ended)(t, outer)
	}
	h.Kill = reopen(inner.Kill, b.ended, b.killed)
	h.LoseTail = func(t *testing.T, outer broker.Broker, room string, n int) broker.Broker {
		return broken(inner.LoseTail(t, outer.(hooked).Broker, room, n))
	}
	return h
}

// hooks change what a broker does. A nil one changes nothing.
type hooks struct {
	publish   func(ctx context.Context, b broker.Broker, m *broker.Message) (broker.Receipt, error)
	signal    func(ctx context.Context, b broker.Broker, s *broker.Signal) (int, error)
	subscribe func(ctx context.Context, b broker.Broker, room string) (broker.Subscription, error)
	since     func(ctx context.Context, b broker.Broker, room string, after broker.Cursor, limit int) (broker.Page, error)
	before    func(ctx context.Context, b broker.Broker, room string, before uint64, limit int) (broker.Page, error)
	head      func(ctx context.Context, b broker.Broker, room string) (broker.Cursor, error)
	lease     func(ctx context.Context, l broker.Lease) broker.Lease
	close     func(b broker.Broker) error
	take      func(events []broker.Event) []broker.Event
	members   func(list []broker.Member) []broker.Member
	subHead   func(c broker.Cursor) broker.Cursor
	takeErr   func(err error) error
	takeMore  int                       // events beyond those that Take is asked for
	subClose  func(broker.Subscription) // in place of Close
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
		l = h.lease(ctx, l)
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
	got, err := s.Subscription.Take(nil, n+s.hooks.takeMore)
	if s.hooks.take != nil {
		got = s.hooks.take(got)
	}
	if s.hooks.takeErr != nil {
		err = s.hooks.takeErr(err)
	}
	return append(buf, got...), err
}

func (s hookedSubscription) Close() {
	if s.hooks.subClose != nil {
		s.hooks.subClose(s.Subscription)
		return
	}
	s.Subscription.Close()
}
