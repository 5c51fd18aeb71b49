// Package presence counts who is in a room: users, each with one or more clients,
// over all processes.
package presence

import (
	"iter"

	"github.com/chathub-go/hub/broker"
)

// A Table is the presence of one room. It is not safe for concurrent use: it
// belongs to the room's loop.
type Table struct {
	users   map[string]*user
	clients map[string]string // client to user
}

type user struct {
	member  broker.Member // without Client: who it is for others
	clients map[string]struct{}
}

// Join adds a client, and returns true where its user was not there before.
func (t *Table) Join(m broker.Member) (first bool) {
	if _, ok := t.clients[m.Client]; ok {
		return false
	}
	if t.users == nil {
		t.users = map[string]*user{}
		t.clients = map[string]string{}
	}
	t.clients[m.Client] = m.User
	u, ok := t.users[m.User]
	if !ok {
		u = &user{
			member:  broker.Member{User: m.User, Name: m.Name},
			clients: map[string]struct{}{},
		}
		t.users[m.User] = u
	}
	u.clients[m.Client] = struct{}{}
	return !ok
}

// Leave removes a client, and returns its user as others knew it and true where it
// was the user's last.
func (t *Table) Leave(client string) (m broker.Member, last bool) {
	id, ok := t.clients[client]
	if !ok {
		return broker.Member{}, false
	}
	delete(t.clients, client)
	u := t.users[id]
	delete(u.clients, client)
	if len(u.clients) > 0 {
		return u.member, false
	}
	delete(t.users, id)
	if len(t.users) == 0 {
		t.users, t.clients = nil, nil // an empty room holds no maps
	}
	return u.member, true
}

// Len returns the number of users.
func (t *Table) Len() int { return len(t.users) }

// All yields each user once, in no order.
func (t *Table) All() iter.Seq[broker.Member] {
	return func(yield func(broker.Member) bool) {
		for _, u := range t.users {
			if !yield(u.member) {
				return
			}
		}
	}
}

// Some returns up to n users, in no order.
func (t *Table) Some(n int) []broker.Member {
	members := make([]broker.Member, 0, min(n, t.Len()))
	for m := range t.All() {
		if len(members) == n {
			break
		}
		members = append(members, m)
	}
	return members
}
