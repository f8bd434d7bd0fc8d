package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	upCheckInterval   = 500 * time.Millisecond
	downCheckInterval = 100 * time.Millisecond // shorter: an upstream that is ready again gets requests soon
	checkTimeout      = 2 * time.Second
	// maxTimeouts checks in a row that time out or break off mark an upstream as down. A single one means nothing on a
	// machine short of CPU, or when the worker that it reached was killed.
	maxTimeouts = 3

	dialTimeout   = 2 * time.Second
	answerTimeout = 60 * time.Second // until an answer's headers: a large draw takes long
	// Idle connections are closed long before the site closes them at 75 s, or requests would meet closed sockets.
	idleTimeout  = 30 * time.Second
	maxIdleConns = 512 // for each upstream
)

// upstream is one server and its pool of connections.
type upstream struct {
	address string // host:port
	pooled  connPool
	checks  http.Client
	log     *slog.Logger

	requests atomic.Int64 // answered
	failures atomic.Int64 // without an answer

	dialOnly bool         // a check is a connection, and not a request of /readyz
	inFlight atomic.Int64 // requests, but neither websockets nor streams of events, which may never end
	removed  atomic.Bool  // it gets no more requests, whatever its health
	stop     func()       // ends its checks; nil for an upstream of Config

	health   atomic.Pointer[health]
	changing sync.Mutex // held while health changes
	timeouts int        // checks in a row that timed out or broke off; belongs to the goroutine that checks
}

// health is replaced as a whole at every change, so that readers need no lock.
type health struct {
	up    bool
	since time.Time
	cause string // why it is not up
}

// newUpstream returns an upstream that is down until a check succeeds. noKeepAlive may be shared among upstreams.
func newUpstream(address string, noKeepAlive *http.Transport, log *slog.Logger) *upstream {
	u := &upstream{
		address: address,
		pooled:  connPool{DialContext: dialTCP},
		checks: http.Client{
			// A new connection reaches a process that accepts connections. A pooled one might lead to a worker that
			// drains, and is not ready although its server is.
			Transport:     noKeepAlive,
			Timeout:       checkTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		log: log,
	}
	u.health.Store(&health{since: time.Now(), cause: "not checked yet"})
	return u
}

// up tells whether the upstream may get requests.
func (u *upstream) up() bool { return u.health.Load().up && !u.removed.Load() }

// acquire counts a request as in flight, unless the upstream may not get it. The count precedes the question, so that an
// upstream that was removed and has none in flight gets none any more.
func (u *upstream) acquire() bool {
	u.inFlight.Add(1)
	if u.up() {
		return true
	}
	u.inFlight.Add(-1)
	return false
}

// setHealth records whether the upstream is up, and logs a change. cause says why it is down.
func (u *upstream) setHealth(up bool, cause string) {
	u.changing.Lock()
	defer u.changing.Unlock()
	since := u.health.Load().since
	changed := u.health.Load().up != up
	if changed {
		since = time.Now()
	}
	u.health.Store(&health{up: up, since: since, cause: cause})
	switch {
	case changed && up:
		u.log.Info("upstream is up", "upstream", u.address)
	case changed:
		u.log.Warn("upstream is down", "upstream", u.address, "cause", cause)
		u.pooled.closeIdle(0)
	}
}

// checkAll checks every upstream once, all at the same time.
func (b *Balancer) checkAll(ctx context.Context) {
	var checks sync.WaitGroup
	for _, u := range b.upstreams() {
		checks.Go(func() { u.check(ctx) })
	}
	checks.Wait()
}

// checkPeriodically checks the upstream again and again until ctx ends. One whose health its program's master tells is
// checked only while it is down.
func (u *upstream) checkPeriodically(ctx context.Context) {
	defer u.pooled.closeIdle(0)
	for {
		interval := downCheckInterval
		if u.up() {
			interval = upCheckInterval
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(interval):
			u.pooled.closeIdle(idleTimeout)
			if !u.dialOnly || !u.up() {
				u.check(ctx)
			}
		}
	}
}

// check requests /readyz once, or only connects. A refused connection or an answer other than 2xx counts at once, a check that times out
// or breaks off only after maxTimeouts in a row.
func (u *upstream) check(ctx context.Context) {
	if u.dialOnly {
		conn, err := dialTCP(ctx, "tcp", u.address)
		if err == nil {
			conn.Close()
			u.setHealth(true, "")
		}
		return
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+u.address+"/readyz", nil)
	if err != nil {
		u.setHealth(false, err.Error())
		return
	}
	res, err := u.checks.Do(req)
	if ctx.Err() != nil || exhausted(err) { // the latter says nothing about the upstream
		return
	}
	if err == nil {
		res.Body.Close()
		u.timeouts = 0
		if res.StatusCode/100 == 2 {
			u.setHealth(true, "")
		} else {
			u.setHealth(false, fmt.Sprintf("/readyz answers %d", res.StatusCode))
		}
		return
	}
	u.timeouts++
	if u.timeouts >= maxTimeouts || errors.Is(err, syscall.ECONNREFUSED) {
		u.setHealth(false, err.Error())
	}
}
