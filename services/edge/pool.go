package edge

import (
	"bytes"
	"context"
	"errors"
	"io"
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
	upstreams []*upstream
	count     atomic.Uint64 // of calls of next
}

// next returns the next upstream in round-robin order among those that are up, preferring one that is not in failed. It
// returns nil when none is up.
func (t *tier) next(failed []*upstream) *upstream {
	up := make([]*upstream, 0, 16) // of this size it stays on the stack
	for _, u := range t.upstreams {
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
		if u := up[(first+i)%len(up)]; !slices.Contains(failed, u) {
			return u
		}
	}
	return up[first]
}

// pool is an http.RoundTripper over tiers. A tier is used only while no upstream of an earlier one is up.
type pool struct {
	tiers           []*tier
	waitTimeout     time.Duration
	freeDescriptors func(cause error)
}

// lastChange returns when an upstream's health changed last: while none is up, when the last one went down.
func (p *pool) lastChange() time.Time {
	var last time.Time
	for _, t := range p.tiers {
		for _, u := range t.upstreams {
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

// RoundTrip sends req to an upstream, and again to another one where that is safe: when the connection was refused, so
// that nothing was sent, and for a repeatable request also when the connection broke before the answer was complete.
func (p *pool) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	canRepeat := repeatable(req)
	start := time.Now()
	var failed []*upstream // those that gave this request no answer
	for broken := 0; ; {
		u, err := p.pick(ctx, failed)
		if err != nil {
			return nil, err
		}
		res, err := u.send(req, canRepeat)
		if err == nil {
			u.requests.Add(1)
			return res, nil
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
		u.failures.Add(1)
		switch {
		case dialFailed(err):
			u.setHealth(false, err.Error())
			// Otherwise an upstream that alternates between up and down could keep a request waiting for ever.
			if time.Since(start) > p.waitTimeout {
				return nil, errNoUpstream
			}
		case !canRepeat || timedOut(err): // it may have been carried out, or would take as long again
			return nil, err
		default:
			if broken++; broken == maxBroken {
				return nil, err
			}
		}
		failed = append(failed, u)
	}
}

// send makes one attempt. An upstream may close a pooled connection at the moment when a request is written to it, and
// then it is unknown whether the request was read. So requests that must not be sent twice get a new connection each.
// Repeatable ones use the pool, and short answers to them are read completely, so that clients do not notice the death
// of a worker.
func (u *upstream) send(req *http.Request, canRepeat bool) (*http.Response, error) {
	url := *req.URL
	url.Host = u.address
	attempt := req.WithContext(req.Context())
	attempt.URL = &url
	if req.Body != nil {
		attempt.Body = io.NopCloser(req.Body) // a failed attempt must not close the body that the next one sends
	}
	if !canRepeat {
		return u.noKeepAlive.RoundTrip(attempt)
	}
	res, err := u.pooled.RoundTrip(attempt)
	if err != nil || req.Method == http.MethodHead || res.ContentLength <= 0 || res.ContentLength > maxBuffered {
		return res, err
	}
	defer res.Body.Close()
	body := make([]byte, res.ContentLength)
	if _, err := io.ReadFull(res.Body, body); err != nil {
		return nil, err
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res, nil
}

// repeatable tells whether a request is safe to send twice (RFC 9110, 9.2.1) and has no body that is used up.
func repeatable(req *http.Request) bool {
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return req.Body == nil
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
