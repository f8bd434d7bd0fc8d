package web

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

const (
	hashCost    = 10              // of bcrypt, about 50 ms of a core
	hashTimeout = 5 * time.Second // for a free hasher
	// maxTickets is how many log-ins, and how many sign-ups, of one client may be in progress in one process.
	maxTickets = 8
)

var errBusy = temporaryError("error.busy")

// The lanes of the hashers: log-ins do not wait behind sign-ups.
const (
	loginLane = iota
	signupLane
	lanes
)

// hashers limits how many hashes are computed at a time, so that log-ins leave processor time to other requests. Free
// hashers serve the lanes in turn, and in each lane the clients in turn, so that a client that sends many log-ins waits
// for itself. Between two hashes for clients that have been waiting is one for a client that has just come, if there is any
// (as in FQ-CoDel, RFC 8290): it does not even wait for a whole turn.
type hashers struct {
	mu    sync.Mutex
	free  int // hashers; some are free only when nobody waits
	lanes [lanes]lane
	next  int // lane whose turn it is

	cost  int    // of bcrypt
	dummy []byte // hash of that cost, which is compared with when there is no such user
}

// lane holds the tickets of one kind.
type lane struct {
	open    map[string]int             // tickets by client
	waiting map[string][]chan struct{} // those that wait for a hasher, by client; a closed channel means that it has one
	// The clients in waiting, in the order in which they are served: those that have not been served since they came, and
	// the others.
	newcomers, returning []string
	newcomerServed       bool // last
}

// newHashers allows as many hashes at a time as half of the processors can compute.
func newHashers() *hashers {
	h := &hashers{free: max(1, runtime.GOMAXPROCS(0)/2), cost: hashCost, dummy: dummyHash}
	for i := range h.lanes {
		h.lanes[i] = lane{open: make(map[string]int), waiting: make(map[string][]chan struct{})}
	}
	return h
}

// ticket is a client's right to compute hashes.
type ticket struct {
	hashers *hashers
	lane    *lane
	client  string
}

// enter gives a client a ticket in a lane. It fails with errBusy when the client has maxTickets. The caller closes it.
func (h *hashers) enter(laneNumber int, client string) (ticket, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := &h.lanes[laneNumber]
	if l.open[client] >= maxTickets {
		return ticket{}, errBusy
	}
	l.open[client]++
	return ticket{h, l, client}, nil
}

// close gives the ticket back.
func (t ticket) close() {
	t.hashers.mu.Lock()
	defer t.hashers.mu.Unlock()
	if t.lane.open[t.client]--; t.lane.open[t.client] == 0 {
		delete(t.lane.open, t.client)
	}
}

// acquire waits for a free hasher. It fails with errBusy after hashTimeout, or when ctx ends.
func (t ticket) acquire(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, hashTimeout)
	defer cancel()
	h := t.hashers
	h.mu.Lock()
	if ctx.Err() != nil {
		h.mu.Unlock()
		return errBusy
	}
	if h.free > 0 {
		h.free--
		h.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	if len(t.lane.waiting[t.client]) == 0 {
		t.lane.newcomers = append(t.lane.newcomers, t.client)
	}
	t.lane.waiting[t.client] = append(t.lane.waiting[t.client], turn)
	h.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	// The place in the line stays: the hasher that comes to it is passed on.
	go func() { <-turn; h.release() }()
	return errBusy
}

// release passes a hasher on to the next ticket that waits, or makes it free.
func (h *hashers) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for range h.lanes {
		l := &h.lanes[h.next]
		h.next = (h.next + 1) % lanes
		if turn := l.pop(); turn != nil {
			close(turn)
			return
		}
	}
	h.free++
}

// pop removes the ticket that is to be served next, and returns its channel; nil when none waits.
func (l *lane) pop() chan struct{} {
	list := &l.newcomers
	if len(l.newcomers) == 0 || l.newcomerServed && len(l.returning) > 0 {
		list = &l.returning
	}
	if len(*list) == 0 {
		return nil
	}
	l.newcomerServed = list == &l.newcomers
	client := (*list)[0]
	*list = (*list)[1:]
	line := l.waiting[client]
	if len(line) > 1 {
		l.waiting[client] = line[1:]
		l.returning = append(l.returning, client)
	} else {
		delete(l.waiting, client)
	}
	return line[0]
}

// hash returns the bcrypt hash of a new password. It fails with errBusy.
func (t ticket) hash(ctx context.Context, password string) ([]byte, error) {
	if err := t.acquire(ctx); err != nil {
		return nil, err
	}
	defer t.hashers.release()
	return bcrypt.GenerateFromPassword(digest(password), t.hashers.cost)
}

// match reports whether a password has the hash. Without a hash it is false, after the same time, so that the time does
// not show which emails have an account. It fails with errBusy.
func (t ticket) match(ctx context.Context, hash []byte, password string) (bool, error) {
	noUser := len(hash) == 0
	if noUser {
		hash = t.hashers.dummy
	}
	if err := t.acquire(ctx); err != nil {
		return false, err
	}
	defer t.hashers.release()
	err := bcrypt.CompareHashAndPassword(hash, digest(password))
	if err != nil && !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		return false, err
	}
	return err == nil && !noUser, nil
}

// dummyHash is a hash of hashCost.
var dummyHash = []byte("$2a$10$NsZra8KZqdk86a8MsQIhxuX92K.JMI92o8ucyqUKMwz0hNH/DWy4u")
