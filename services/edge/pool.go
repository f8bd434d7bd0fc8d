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
	maxKept   = 64 << 10 // bytes of an answer that is read whole before the client gets any of it
	maxBroken = 8        // tries that broke off, after which a repeatable request is given up
	pickPoll  = 20 * time.Millisecond
)

// errNoServer: no server is up, nor was one for as long as Config.Patience.
var errNoServer = errors.New("no server is up")

// tier is servers that take equal turns.
type tier struct {
	role    string
	servers []*server
	turn    atomic.Uint64
}

// next is the server whose turn it is among those that are up, or else the first after it that is not in tried, if
// there is one. It is nil if none is up.
func (t *tier) next(tried []*server) *server {
	up := make([]*server, 0, 16) // of this size it stays on the stack
	for _, s := range t.servers {
		if s.up() {
			up = append(up, s)
		}
	}
	if len(up) == 0 {
		return nil
	}
	first := int((t.turn.Add(1) - 1) % uint64(len(up)))
	for i := range up {
		if s := up[(first+i)%len(up)]; !slices.Contains(tried, s) {
			return s
		}
	}
	return up[first]
}

// pool is an http.RoundTripper over tiers, each used only while none before it has a server that is up.
type pool struct {
	tiers    []*tier
	patience time.Duration
	retries  atomic.Int64
}

func (p *pool) up() bool {
	return slices.ContainsFunc(p.tiers, func(t *tier) bool {
		return slices.ContainsFunc(t.servers, (*server).up)
	})
}

// lastChange is when the last server went, if none is up.
func (p *pool) lastChange() time.Time {
	var last time.Time
	for _, t := range p.tiers {
		for _, s := range t.servers {
			if since := s.health.Load().since; since.After(last) {
				last = since
			}
		}
	}
	return last
}

// pick chooses a server. If none is up it waits for one, but not longer than patience after the last one went.
func (p *pool) pick(ctx context.Context, tried []*server) (*server, error) {
	for {
		for _, t := range p.tiers {
			if s := t.next(tried); s != nil {
				return s, nil
			}
		}
		if time.Since(p.lastChange()) > p.patience {
			return nil, errNoServer
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pickPoll):
		}
	}
}

// RoundTrip sends req to a server, and again to another where that is safe: any request of which nothing was sent
// because the connection was refused, and a repeatable one also when the connection broke before its answer was there.
func (p *pool) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	again := repeatable(req)
	start := time.Now()
	var tried []*server
	for broken := 0; ; {
		s, err := p.pick(ctx, tried)
		if err != nil {
			return nil, err
		}
		res, err := s.send(req, again)
		if err == nil {
			s.answers.count(res.StatusCode)
			return res, nil
		}
		if ctx.Err() != nil {
			return nil, err // the client has gone
		}
		s.answers.count(0)
		switch {
		case refused(err):
			s.set(false, err.Error())
			if time.Since(start) > p.patience {
				return nil, errNoServer
			}
		case !again || timedOut(err):
			return nil, err
		default:
			if broken++; broken == maxBroken {
				return nil, err
			}
		}
		tried = append(tried, s)
		p.retries.Add(1)
	}
}

// send tries one server. A server may close a pooled connection at the moment a request is written to it, and nobody
// can tell then whether it was read: so requests that must not be sent twice each get a connection of their own. The
// others get the pool, and short answers to them are read whole, so that the death of a worker never shows.
func (s *server) send(req *http.Request, again bool) (*http.Response, error) {
	url := *req.URL
	url.Host = s.address
	try := req.WithContext(req.Context())
	try.URL = &url
	if req.Body != nil {
		try.Body = io.NopCloser(req.Body) // a failed try must not close what the next one sends
	}
	if !again {
		return s.fresh.RoundTrip(try)
	}
	res, err := s.pooled.RoundTrip(try)
	if err != nil || req.Method == http.MethodHead || res.ContentLength <= 0 || res.ContentLength > maxKept {
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

// repeatable says whether doing req twice is the same as doing it once, and whether it can be sent twice.
func repeatable(req *http.Request) bool {
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return req.Body == nil
	}
	return false
}

// refused says whether there was no connection, so that nothing was sent.
func refused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func timedOut(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}
