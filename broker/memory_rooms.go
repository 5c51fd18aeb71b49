package broker

import "time"

// room returns the room of that name, locked, and makes it where there is none.
func (m *Memory) room(name string) (*room, error) {
	for {
		r, err := m.lookup(name)
		if r != nil || err != nil {
			return r, err
		}
		if err := m.makeRoom(name); err != nil {
			return nil, err
		}
	}
}

// lookup returns the room of that name, locked, or nil where there is none.
func (m *Memory) lookup(name string) (*room, error) {
	for {
		v, ok := m.rooms.Load(name)
		if !ok {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.closed {
				return nil, ErrClosed
			}
			return nil, nil
		}
		r := v.(*room)
		r.mu.Lock()
		switch r.state {
		case roomLive:
			r.used.Store(m.clock.Add(1))
			return r, nil
		case roomClosed:
			r.unlock()
			return nil, ErrClosed
		}
		r.unlock() // gone just now: look again
	}
}

// makeRoom makes the room of that name known, and forgets another for it at the bound.
func (m *Memory) makeRoom(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	if _, ok := m.rooms.Load(name); ok {
		return nil
	}
	if m.known >= m.o.rooms && !m.forget() {
		return ErrBusy
	}
	r := newRoom(m, name)
	r.own = m.own[name]
	r.used.Store(m.clock.Add(1))
	m.idle.add(r) // nobody else has r yet
	m.rooms.Store(name, r)
	m.known++
	return nil
}

// forget drops the room that was not used for the longest, of those that nobody uses. It is
// called with mu held.
func (m *Memory) forget() bool {
	for r := m.idle.min(); r != nil; r = m.idle.min() {
		r.mu.Lock()
		m.idle.remove(r)
		if r.inUse() { // list puts it back later
			r.unlock()
			continue
		}
		r.state = roomGone
		for r.kept.n > 0 {
			r.drop()
		}
		m.withBytes.remove(r)
		m.rooms.Delete(r.name)
		m.known--
		r.unlock()
		return true
	}
	return false
}

// list puts r into the lrus to which it belongs. What does not belong there any more is
// taken out when it is found.
func (m *Memory) list(r *room) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r.mu.Lock()
	defer r.unlock()
	if r.state != roomLive {
		return
	}
	if !r.inUse() {
		m.idle.add(r)
	}
	if r.bytes > 0 {
		m.withBytes.add(r)
	}
}

const (
	sweepEvery = time.Second
	sweepRooms = 64 // 230,000 rooms an hour; some 10 µs with mu held
)

// tidy holds the bound of all rooms' bytes, and drops what has expired in a few rooms that
// nobody may ask for again.
func (m *Memory) tidy(now time.Duration) {
	if m.bytes.Load() > int64(m.o.totalBytes) {
		m.shrink()
	}
	if next := m.nextSweep.Load(); int64(now) >= next && m.nextSweep.CompareAndSwap(next, int64(now+sweepEvery)) {
		m.sweep(now)
	}
}

// shrinkTo is what shrink leaves: 1/64 less than the bound, so that not every publish at
// the bound has to lock mu.
func (o *memoryOptions) shrinkTo() int { return o.totalBytes - o.totalBytes/64 }

// shrink trims the rooms that were not used for the longest.
func (m *Memory) shrink() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bytes.Load() <= int64(m.o.totalBytes) {
		return
	}
	target := int64(m.o.shrinkTo())
	for m.bytes.Load() > target {
		r := m.withBytes.min()
		if r == nil {
			return
		}
		r.mu.Lock()
		for r.kept.n > 0 && m.bytes.Load() > target {
			r.drop()
		}
		if r.kept.n == 0 {
			m.withBytes.remove(r)
		}
		r.unlock()
	}
}

func (m *Memory) sweep(now time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for range min(sweepRooms, len(m.withBytes.rooms)) {
		if m.swept >= len(m.withBytes.rooms) {
			m.swept = 0
		}
		r := m.withBytes.rooms[m.swept]
		m.swept++
		r.mu.Lock()
		r.expire(now)
		if r.kept.n == 0 {
			m.withBytes.remove(r)
		}
		r.unlock()
	}
}
