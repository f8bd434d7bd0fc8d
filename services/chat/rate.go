package chat

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"balanza/services/store"
)

// rateWindow is the time in which an author's messages are counted.
const rateWindow = time.Minute

// TooManyError reports that an author has sent as many messages in a minute as one may.
type TooManyError struct {
	Wait time.Duration // until the next message is accepted, at least a second
}

func (e *TooManyError) Error() string { return fmt.Sprintf("too many messages: wait for %v", e.Wait) }

// rates counts each author's messages of the last minute: those that the log has delivered, which come from every process,
// and those that this process is storing. Times are the messages' own, by the clock of the store.
type rates struct {
	limit int

	mu      sync.Mutex
	times   map[string][]time.Time // of the last messages of an author, at most limit
	pending map[string]int         // messages of an author that were not delivered yet
	stored  map[int64]string       // authors of those among the pending ones that are stored, by number
	last    int64                  // number of the last entry that was delivered
	swept   time.Time              // time of the message at which authors without recent messages were last removed
}

func newRates(limit int) rates {
	return rates{
		limit: limit, times: make(map[string][]time.Time), pending: make(map[string]int), stored: make(map[int64]string),
	}
}

// reserve counts a message that is about to be stored. When its author has used up the limit, it returns how long to wait.
// After it has returned 0, the caller calls release.
func (r *rates) reserve(author string, now time.Time) (wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	times := since(r.times[author], now.Add(-rateWindow))
	excess := len(times) + r.pending[author] - r.limit // one less than the messages that must become old first
	if excess < 0 {
		r.pending[author]++
		return 0
	}
	wait = time.Second
	if len(times) > 0 {
		wait = max(wait, times[min(excess, len(times)-1)].Add(rateWindow).Sub(now))
	}
	return wait
}

// reserveRepeat counts the repeat of a message, whatever the limit, until release.
func (r *rates) reserveRepeat(author string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending[author]++
}

// release ends the reservation of a message: at once when n, its number, is 0, since it was not stored, and otherwise when the
// log delivers it, so that it is counted all the time.
func (r *rates) release(author string, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n > r.last && r.stored[n] == "" {
		r.stored[n] = author
	} else {
		r.removePending(author)
	}
}

func (r *rates) removePending(author string) {
	if r.pending[author]--; r.pending[author] <= 0 {
		delete(r.pending, author)
	}
}

// delivered counts the messages among entries that the log has delivered.
func (r *rates) delivered(entries []store.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range entries {
		r.last = e.N
		if author, ok := r.stored[e.N]; ok {
			delete(r.stored, e.N)
			r.removePending(author)
		}
		if e.Message == nil {
			continue
		}
		at := e.Message.Time
		times := append(since(r.times[e.Author], at.Add(-rateWindow)), at)
		r.times[e.Author] = times[max(0, len(times)-r.limit):]
		if at.Sub(r.swept) > rateWindow {
			r.sweep(at)
		}
	}
}

// sweep removes the authors without recent messages.
func (r *rates) sweep(now time.Time) {
	r.swept = now
	for author, times := range r.times {
		if times = since(times, now.Add(-rateWindow)); len(times) > 0 {
			r.times[author] = slices.Clone(times) // frees what precedes them
		} else {
			delete(r.times, author)
		}
	}
}

// since returns those of the times that are after start. Times of messages are in order, but for clocks' differences.
func since(times []time.Time, start time.Time) []time.Time {
	i := slices.IndexFunc(times, func(t time.Time) bool { return t.After(start) })
	if i < 0 {
		return nil
	}
	return times[i:]
}
