package edge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
)

const (
	// maxBuffered is the size in bytes up to which an answer is read completely before the client gets any of it.
	maxBuffered = 64 << 10
	// maxBroken is after how many broken connections a repeatable request fails.
	maxBroken        = 8
	pickPollInterval = 20 * time.Millisecond
)

// errNoUpstream means that no upstream has been up for Config.WaitTimeout.
var errNoUpstream = errors.New("no upstream is up")

// tier is a group of upstreams that get equally many requests.
type tier struct {
	role      string
	upstreams atomic.Pointer[[]*upstream] // replaced as a whole, so that readers need no lock
	count     atomic.Uint64               // of calls of next
}

func newTier(role string, upstreams []*upstream) *tier {
	t := &tier{role: role}
	t.upstreams.Store(&upstreams)
	return t
}

// all are the tier's upstreams. The caller must not change the slice.
func (t *tier) all() []*upstream { return *t.upstreams.Load() }

// next returns the next upstream in round-robin order among those that are up, preferring one that is not in failed, and
// counts the request as one that it has in flight. It returns nil when none is up.
func (t *tier) next(failed []*upstream) *upstream {
	up := make([]*upstream, 0, 16) // of this size it stays on the stack
	for _, u := range t.all() {
		if u.up() {
			up = append(up, u)
		}
	}
	if len(up) == 0 {
		return nil
	}
	// While none goes up or down, each of n upstreams is first for exactly every n-th call.
	first := int((t.count.Add(1) - 1) % uint64(len(up)))
	for i := range up {
		if u := up[(first+i)%len(up)]; !slices.Contains(failed, u) && u.acquire() {
			return u
		}
	}
	if up[first].acquire() {
		return up[first]
	}
	return nil
}

// pool shares requests among tiers. A tier is used only while no upstream of an earlier one is up.
type pool struct {
	tiers           []*tier
	waitTimeout     time.Duration
	freeDescriptors func(cause error)
	changed         atomic.Pointer[time.Time] // when an upstream came or left last; nil: none did yet
}

// lastChange returns when an upstream's health changed last: while none is up, when the last one went down.
func (p *pool) lastChange() time.Time {
	var last time.Time
	if changed := p.changed.Load(); changed != nil {
		last = *changed
	}
	for _, t := range p.tiers {
		for _, u := range t.all() {
			if since := u.health.Load().since; since.After(last) {
				last = since
			}
		}
	}
	return last
}

// pick chooses an upstream. When none is up it waits for one until waitTimeout has passed since the last one went down.
func (p *pool) pick(ctx context.Context, failed []*upstream) (*upstream, error) {
	for {
		for _, t := range p.tiers {
			if u := t.next(failed); u != nil {
				return u, nil
			}
		}
		if time.Since(p.lastChange()) > p.waitTimeout {
			return nil, errNoUpstream
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pickPollInterval):
		}
	}
}

// roundTrip sends a request to an upstream, and again to another one where that is safe: when the connection was refused, so
// that nothing was sent, and for a repeatable request also when the connection broke before the answer was complete.
func (p *pool) roundTrip(q *upstreamRequest) (*answer, error) {
	ctx := q.ctx
	start := time.Now()
	var failed []*upstream // those that gave this request no answer
	pooled := q.repeatable && !q.upgrade
	for broken := 0; ; {
		u, err := p.pick(ctx, failed)
		if err != nil {
			return nil, err
		}
		a, err := u.send(q, pooled)
		if err == nil {
			u.requests.Add(1)
			return a, nil
		}
		if ctx.Err() != nil {
			return nil, err // the client has disconnected
		}
		if dialFailed(err) && exhausted(err) { // no fault of the upstream
			if time.Since(start) > p.waitTimeout {
				return nil, errNoUpstream
			}
			p.freeDescriptors(err)
			continue
		}
		// The upstream may close a pooled connection at the moment when a request is written to it. That is no failure, and
		// the next attempt has a new connection. It counts as broken: nobody knows whether the request was what broke it.
		if pooled && errors.Is(err, errStale) {
			broken, pooled = broken+1, false
			continue
		}
		u.failures.Add(1)
		switch {
		case dialFailed(err):
			u.setHealth(false, err.Error())
			// Otherwise an upstream that alternates between up and down could keep a request waiting for ever.
			if time.Since(start) > p.waitTimeout {
				return nil, errNoUpstream
			}
		case !q.repeatable || timedOut(err): // it may have been carried out, or would take as long again
			return nil, err
		default:
			if broken++; broken == maxBroken {
				return nil, err
			}
		}
		failed = append(failed, u)
	}
}

// send makes one attempt, whose end takes the request off those in flight. An upstream may close a pooled connection at the moment when a request is written to it, and
// then it is unknown whether the request was read. So requests that must not be sent twice get a new connection each, as do
// websockets, which keep theirs. Short answers are read completely, so that clients do not notice the death of a worker.
func (u *upstream) send(q *upstreamRequest, pooled bool) (*answer, error) {
	var c *upstreamConn
	if pooled {
		c = u.pooled.get()
	}
	if c == nil {
		size := answerPiece
		if q.upgrade { // thousands of them may be open
			size = websocketPiece
		}
		var err error
		if c, err = u.pooled.connect(q.ctx, u.address, size); err != nil {
			u.inFlight.Add(-1)
			return nil, err
		}
	}
	a := &answer{from: u, conn: c}
	err := a.exchange(q)
	if err == nil {
		var whole bool
		if whole, err = a.readBody(q.ctx); whole {
			a.release(true)
		}
	}
	if err != nil {
		if c.reused && c.received == 0 && !timedOut(err) {
			err = fmt.Errorf("%w: %w", errStale, err)
		}
		a.finish()
		return nil, err
	}
	return a, nil
}

// isRepeatable tells whether a request is safe to send twice (RFC 9110, 9.2.1) and has no body.
func isRepeatable(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return r.ContentLength == 0
	}
	return false
}

// dialFailed tells whether there was no connection, so that nothing was sent.
func dialFailed(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// timedOut tells whether an error is a deadline's.
func timedOut(err error) bool {
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout()
}
