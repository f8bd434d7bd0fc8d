package web

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// openSet holds the connections of one kind that are open, so that a drain can wait for them and close them. fasthttp
// does not count hijacked connections, and does not say which ones are open. The zero value is an empty set.
type openSet[T comparable] struct {
	mu     sync.Mutex
	open   map[T]bool
	closed bool
}

// add returns false when the set is closed: then the caller ends the connection itself, since the drain has already seen
// all others.
func (s *openSet[T]) add(c T) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = make(map[T]bool)
	}
	if !s.closed {
		s.open[c] = true
	}
	return !s.closed
}

// remove forgets a connection that is closed. One that is not in the set is ignored.
func (s *openSet[T]) remove(c T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// all returns the connections that are open at the moment.
func (s *openSet[T]) all() []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.open))
}

// close closes the set to new connections and returns the open ones.
func (s *openSet[T]) close() []T {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	return s.all()
}

// count returns the number of open connections.
func (s *openSet[T]) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// wait returns when no connection is open or when ctx ends. It polls, since a drain is rare and a signal for each
// connection that closes would cost every request.
func (s *openSet[T]) wait(ctx context.Context) {
	for s.count() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}
