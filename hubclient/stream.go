package hubclient

// A stream checks that a room's messages come as the protocol promises: each once, in order, with a gap
// where some are missing.
type stream struct {
	seq uint64 // of the newest message, or of the position that the stream is at

	// After a gap the next message's prev may be any of those that are missing.
	loose bool
	after uint64 // of that gap
}

// welcome begins at a position.
func (s *stream) welcome(seq uint64) { *s = stream{seq: seq} }

func (s *stream) message(seq, prev uint64) error {
	switch {
	case seq <= s.seq:
		return violation("message %d after %d", seq, s.seq)
	case prev >= seq:
		return violation("message %d says that %d was before it", seq, prev)
	case s.loose && (prev < s.after || prev > s.seq), !s.loose && prev != s.seq:
		return violation("message %d follows %d, the last one was %d", seq, prev, s.seq)
	}
	s.welcome(seq)
	return nil
}

func (s *stream) gap(g *Gap) error {
	switch {
	case g.Before == 0:
		return violation("a gap before 0")
	case g.Reset:
		*s = stream{seq: g.Before - 1, loose: true}
		return nil
	case g.After >= g.Before || g.Before-1 < s.seq:
		return violation("a gap from %d to %d after %d", g.After, g.Before, s.seq)
	case s.loose && (g.After < s.after || g.After > s.seq), !s.loose && g.After != s.seq:
		return violation("a gap after %d, the last message was %d", g.After, s.seq)
	}
	*s = stream{seq: g.Before - 1, loose: true, after: g.After}
	return nil
}
