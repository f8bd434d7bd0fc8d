package share

import (
	"crypto/sha256"
	"encoding/binary"
	"sync/atomic"
)

// counters are counts by key. Two keys share a counter, and so its limit, with a chance of 1 in 1024.
type counters [1024]atomic.Int32

// subtract takes counts off, and clears them. No counter falls below zero: a process that was killed between two steps of
// Acquire has counted in one place only.
func (c *counters) subtract(ended *counters) {
	for slot := range ended {
		if n := ended[slot].Load(); n > 0 {
			ended[slot].Store(0)
			subtract(&c[slot], n)
		}
	}
}

func subtract(from *atomic.Int32, n int32) {
	for {
		before := from.Load()
		if from.CompareAndSwap(before, max(0, before-n)) {
			return
		}
	}
}

// Acquire counts something that a client does at a time, in all processes of the socket. It returns false when the key has
// reached the limit. Else the caller calls release when the client has ended; when the process ends first, its parent does
// so (Socket.Leave). Only a Listener that Inherit returned counts.
func (l *Listener) Acquire(key string, limit int) (release func(), ok bool) {
	// Without the seed a client could choose an address that shares a counter with another's.
	sum := sha256.Sum256(append(l.seed[:len(l.seed):len(l.seed)], key...))
	slot := int(binary.NativeEndian.Uint64(sum[:]) % uint64(len(l.counted)))
	all, own := &l.counted[slot], &l.own[slot]
	own.Add(1)
	for n := all.Load(); int(n) < limit; n = all.Load() {
		if all.CompareAndSwap(n, n+1) {
			return func() {
				subtract(all, 1)
				own.Add(-1)
			}, true
		}
	}
	own.Add(-1)
	return nil, false
}
