package brokertest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/chathub-go/hub/broker"
)

var presenceCases = []testCase{
	{"Nodes", presenceNodes},
	{"Snapshot", presenceSnapshot},
	{"JoinThenLeave", presenceJoinThenLeave},
	{"LeaseClose", presenceLeaseClose},
	{"NoHistory", presenceNoHistory},
	{"PeerClose", presencePeerClose},
	{"Killed", presenceKilled},
}

// A fold is who is there by a subscription's snapshot and its events.
type fold map[string]broker.Member

func newFold(s broker.Subscription) fold {
	f := make(fold)
	for _, m := range s.Members() {
		f[m.Client] = m
	}
	return f
}

func (f fold) add(ev broker.Event) {
	for _, m := range ev.Members {
		if ev.Type == broker.EventJoined {
			f[m.Client] = m
		} else {
			delete(f, m.Client)
		}
	}
}

func (f fold) list() []broker.Member {
	var list []broker.Member
	for _, m := range f {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b broker.Member) int { return strings.Compare(a.Client, b.Client) })
	return list
}

// settle folds events until a member has come and gone that comes now, so that what came from
// b before is in who.
func (e *env) settle(b broker.Broker, s broker.Subscription, who fold) {
	e.Helper()
	last := broker.Member{Client: "settle"}
	e.settled++
	l := e.lease(b, fmt.Sprint("settle-", e.settled))
	require.NoError(e, l.Update(e.ctx, "lobby", []broker.Member{last}, nil), "Update")
	for seen := false; !seen; {
		ev := e.take(s, 1)[0]
		who.add(ev)
		_, seen = who[last.Client]
	}
	require.NoError(e, l.Update(e.ctx, "lobby", nil, []broker.Member{last}), "Update")
	for seen := true; seen; {
		ev := e.take(s, 1)[0]
		who.add(ev)
		_, seen = who[last.Client]
	}
	require.NoError(e, l.Close(e.ctx), "Close of a lease")
}

func member(client, user, name string) broker.Member {
	return broker.Member{Client: client, User: user, Name: name}
}

// Members of all processes are seen in all.
func presenceNodes(e *env) {
	a, b := e.pair(Limits{})
	onA, onB := e.lease(a, "node-a"), e.lease(b, "node-b")
	subs := []broker.Subscription{e.subscribe(a, "lobby"), e.subscribe(b, "lobby")}
	folds := []fold{newFold(subs[0]), newFold(subs[1])}
	require.Empty(e, subs[0].Members(), "members of a new room")
	alice, bob, carol := member("1", "alice", "Alice"), member("2", "bob", "Bob"), member("3", "alice", "Alice")
	require.NoError(e, onA.Update(e.ctx, "lobby", []broker.Member{alice, carol}, nil), "Update")
	require.NoError(e, onB.Update(e.ctx, "lobby", []broker.Member{bob}, nil), "Update")
	require.NoError(e, onB.Update(e.ctx, "other", []broker.Member{member("4", "dave", "Dave")}, nil), "Update")
	check := func(want ...broker.Member) {
		e.Helper()
		for i, s := range subs {
			for !slices.Equal(want, folds[i].list()) { // the case's deadline ends it
				ev := e.take(s, 1)[0]
				require.Contains(e, []broker.EventType{broker.EventJoined, broker.EventLeft}, ev.Type, "type of an event")
				require.NotEmpty(e, ev.Members, "members of an event")
				folds[i].add(ev)
			}
		}
		for _, b := range []broker.Broker{a, b} {
			require.Equal(e, want, newFold(e.subscribe(b, "lobby")).list(), "members of a new subscription")
		}
	}
	check(alice, bob, carol)
	require.NoError(e, onA.Update(e.ctx, "lobby", nil, []broker.Member{alice}), "Update")
	check(bob, carol)
	require.NoError(e, onB.Update(e.ctx, "lobby", []broker.Member{member("5", "eve", "Eve")}, []broker.Member{bob}), "Update")
	check(carol, member("5", "eve", "Eve"))
	require.NoError(e, onA.Close(e.ctx), "Close of a lease")
	check(member("5", "eve", "Eve"))
}

// A subscription's snapshot and events together are right whenever it begins.
func presenceSnapshot(e *env) {
	a, b := e.pair(Limits{})
	const clients = 40
	leases := []broker.Lease{e.lease(a, "node-a"), e.lease(b, "node-b")}
	var want []broker.Member
	for i := range clients {
		if i%4 != 1 {
			want = append(want, member(fmt.Sprintf("%d-%02d", i%2, i), "u", "n"))
		}
	}
	slices.SortFunc(want, func(a, b broker.Member) int { return strings.Compare(a.Client, b.Client) })
	update := func(node, from, to int) error {
		for i := from + node; i < to; i += 2 {
			m := []broker.Member{member(fmt.Sprintf("%d-%02d", node, i), "u", "n")}
			if err := leases[node].Update(e.ctx, "lobby", m, nil); err != nil {
				return err
			}
			if i%4 == 1 {
				if err := leases[node].Update(e.ctx, "lobby", nil, m); err != nil {
					return err
				}
			}
		}
		return nil
	}
	e.noErrors(together(2, func(node int) error { return update(node, 0, clients/2) }))
	done := make(chan []error, 1)
	go func() {
		done <- together(2, func(node int) error { return update(node, clients/2, clients) })
	}()
	var subs []broker.Subscription
	for range 8 {
		subs = append(subs, e.subscribe(a, "lobby"), e.subscribe(b, "lobby"))
	}
	e.noErrors(<-done)
	for i, s := range subs {
		who := newFold(s)
		e.settle(a, s, who)
		for !slices.Equal(want, who.list()) {
			if e.Peer == nil {
				require.Equal(e, want, who.list(), "members by snapshot and events of subscription %d", i)
			}
			who.add(e.take(s, 1)[0])
		}
		s.Close()
	}
}

// A user who leaves with one client and comes with another is never gone: the join is
// heard first.
func presenceJoinThenLeave(e *env) {
	b := e.open(Limits{})
	s := e.subscribe(b, "lobby")
	who := newFold(s)
	l := e.lease(b, "node")
	old, next := member("1", "alice", "Alice"), member("2", "alice", "Alice")
	require.NoError(e, l.Update(e.ctx, "lobby", []broker.Member{old}, nil), "Update")
	require.NoError(e, l.Update(e.ctx, "lobby", []broker.Member{next}, []broker.Member{old}), "Update")
	for !slices.Equal(who.list(), []broker.Member{next}) {
		who.add(e.take(s, 1)[0])
		require.NotEmpty(e, who.list(), "alice is there all the time")
	}
	require.Equal(e, []broker.Member{next}, newFold(e.subscribe(b, "lobby")).list(), "members of a new subscription")
}

// A lease that ends takes its members along, in all rooms, and nobody else's.
func presenceLeaseClose(e *env) {
	b := e.open(Limits{})
	goes, stays := e.lease(b, "node-a"), e.lease(b, "node-b")
	keep := member("keep", "u", "n")
	rooms := []string{"lobby", "second", "third"}
	var subs []broker.Subscription
	for i, room := range rooms {
		m := []broker.Member{member(fmt.Sprint(i, "-1"), "u", "n"), member(fmt.Sprint(i, "-2"), "u", "n")}
		require.NoError(e, goes.Update(e.ctx, room, m, nil), "Update")
		require.NoError(e, stays.Update(e.ctx, room, []broker.Member{keep}, nil), "Update")
		subs = append(subs, e.subscribe(b, room))
		require.Len(e, subs[i].Members(), 3, "members of %s", room)
	}
	require.NoError(e, goes.Close(e.ctx), "Close of a lease")
	for i, room := range rooms {
		who := newFold(subs[i])
		for len(who) > 1 {
			who.add(e.take(subs[i], 1)[0])
		}
		require.Equal(e, []broker.Member{keep}, who.list(), "members of %s by the events", room)
		require.Equal(e, []broker.Member{keep}, e.subscribe(b, room).Members(), "members of %s", room)
	}
	require.Error(e, goes.Update(e.ctx, "lobby", []broker.Member{keep}, nil), "Update of a closed lease")
}

// Presence is no history.
func presenceNoHistory(e *env) {
	b := e.open(Limits{})
	head := e.head(b, "lobby")
	l := e.lease(b, "node")
	require.NoError(e, l.Update(e.ctx, "lobby", []broker.Member{member("1", "u", "n")}, nil), "Update")
	require.NoError(e, l.Update(e.ctx, "lobby", nil, []broker.Member{member("1", "u", "n")}), "Update")
	require.Equal(e, head, e.head(b, "lobby"), "head")
	e.recovered(b, "lobby", head, nil)
}

// until folds events until those are there who are expected. The case's deadline ends it.
func (f fold) until(e *env, s broker.Subscription, want ...broker.Member) {
	e.Helper()
	for !slices.Equal(want, f.list()) {
		got, err := takeN(e.ctx, s, 1)
		require.NoError(e, err, "Take: members are %v, want %v", f.list(), want)
		f.add(got[0])
	}
}

// gone checks that the members of a process are gone once end has ended it, and nobody else is.
func (e *env) gone(end func(b broker.Broker)) {
	e.Helper()
	if e.Peer == nil {
		e.Skip("one process")
	}
	a, b := e.pair(Limits{})
	keep, goes := member("1", "alice", "Alice"), member("2", "bob", "Bob")
	s, other := e.subscribe(a, "lobby"), e.subscribe(a, "other")
	who, there := newFold(s), newFold(other)
	require.NoError(e, e.lease(a, "node-a").Update(e.ctx, "lobby", []broker.Member{keep}, nil), "Update")
	l := e.lease(b, "node-b")
	require.NoError(e, l.Update(e.ctx, "lobby", []broker.Member{goes}, nil), "Update")
	require.NoError(e, l.Update(e.ctx, "other", []broker.Member{goes}, nil), "Update")
	who.until(e, s, keep, goes)
	there.until(e, other, goes)
	end(b)
	who.until(e, s, keep)
	there.until(e, other)
	require.Equal(e, []broker.Member{keep}, newFold(e.subscribe(a, "lobby")).list(), "members of a new subscription")
	require.Empty(e, e.subscribe(a, "other").Members(), "members of a new subscription")
}

// A broker that closes takes its members along, and nobody else's.
func presencePeerClose(e *env) {
	e.gone(func(b broker.Broker) { require.NoError(e, b.Close(), "Close of one of two") })
}

// So does a process that ended without a word, once its lease has run out.
func presenceKilled(e *env) {
	if e.Kill == nil {
		e.Skip("can't be killed")
	}
	e.gone(func(b broker.Broker) { e.reopened(e.Kill(e.T, b)) })
}
