package broker

// A deque is a first-in first-out queue in a ring that grows as needed.
type deque[T any] struct {
	buf   []T // its length is 0 or a power of two
	first int // where the oldest is
	n     int // how many there are
}

// at returns the i-th oldest.
func (d *deque[T]) at(i int) *T { return &d.buf[(d.first+i)&(len(d.buf)-1)] }

func (d *deque[T]) push(v T) {
	if d.n == len(d.buf) {
		buf := make([]T, max(4, 2*len(d.buf)))
		n := copy(buf, d.buf[d.first:])
		copy(buf[n:], d.buf[:d.first])
		d.buf, d.first = buf, 0
	}
	d.n++
	*d.at(d.n - 1) = v
}

// pop takes the oldest. A large ring is let go once it is empty.
func (d *deque[T]) pop() T {
	p := d.at(0)
	v := *p
	*p = *new(T)
	d.first = (d.first + 1) & (len(d.buf) - 1)
	if d.n--; d.n == 0 && len(d.buf) > 64 {
		d.buf, d.first = nil, 0
	}
	return v
}
