package share

import "time"

// Answered counts n answers of this process, and reports whether the connection of the last one should end, so that another
// process gets its next request.
func (l *Listener) Answered(n int) bool {
	return l.balancer != nil && l.balancer.answered(n, time.Now())
}

// Drawing counts random numbers that this process draws, until the caller calls ended.
func (l *Listener) Drawing(numbers int64) (ended func()) {
	if l.balancer == nil {
		return func() {}
	}
	return l.balancer.draw(numbers)
}
