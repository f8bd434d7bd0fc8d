package web

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"balanza/services/draw"
)

const (
	// minCounted is how many draws a request must ask for to count against Limits.Draws: fewer take a few milliseconds.
	// nginx has the same limit.
	minCounted = 1_000_000
	// leftInterval is the time between two looks whether a client is still connected.
	leftInterval = 20 * time.Millisecond
)

// errClientLeft is for a client that no longer waits for its answer, as nginx has it. Nobody reads it but the metrics, in
// which it is no error of the server.
var errClientLeft = &httpError{status: 499, code: codeInvalid, text: "error.left"}

// randoms draws cant numbers, draw.Default without the parameter, and answers with the histogram as JSON: number → how
// often it was drawn. A client that asks for text/event-stream is told meanwhile how far the draw is (drawStream). Package
// draw works in the background, so other requests are not delayed. The draw ends with the client's connection.
func (s *Site) randoms(c *fiber.Ctx) error {
	if err := checkEmbedded(c); err != nil {
		return err
	}
	n, err := queryNumber(c, "cant", 1, draw.Max, draw.Default)
	if err != nil {
		return err
	}
	release := func() {}
	if n >= minCounted {
		var ok bool
		release, ok = s.config.Acquire("draws/"+network(clientAddress(c)), s.config.Limits.Draws)
		if !ok {
			s.drawsRejected.Add(1)
			return &httpError{
				status: fiber.StatusTooManyRequests, code: codeTooMany, text: "error.draws", args: []any{s.config.Limits.Draws},
				retryAfter: 1,
			}
		}
	}
	if wantsEvents(c) {
		return s.streamDraw(c, n, release)
	}
	defer release()
	ctx := s.work
	if n > draw.Inline {
		watched, cancel := untilClientLeaves(s.work, c.Context())
		defer cancel()
		ctx = watched
	}
	defer s.startDraw(n)()
	counts, err := draw.Histogram(ctx, n)
	switch {
	case err == nil:
	case s.work.Err() != nil:
		return errStopping
	default:
		closeAfter(c.Context(), false)
		return errClientLeft
	}
	c.Set(fiber.HeaderCacheControl, "no-store")
	return c.JSON(counts)
}

// untilClientLeaves returns a context that ends with parent, or when the client of a request closes its connection. A
// client that only ends its own side of it has left, too, as for nginx and net/http.
func untilClientLeaves(parent context.Context, c *fasthttp.RequestCtx) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	if conn, ok := tcpConn(c.Conn()).(*net.TCPConn); ok {
		go func() {
			defer cancel()
			tick := time.NewTicker(leftInterval)
			defer tick.Stop()
			for !hasLeft(conn) {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		}()
	}
	return ctx, cancel
}

// keyCounter counts by key what is done at a time in this process. The zero value has counted nothing.
type keyCounter struct {
	mu     sync.Mutex
	counts map[string]int
}

// acquire is Config.Acquire.
func (k *keyCounter) acquire(key string, limit int) (release func(), ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.counts[key] >= limit {
		return nil, false
	}
	if k.counts == nil {
		k.counts = make(map[string]int)
	}
	k.counts[key]++
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.counts[key]--; k.counts[key] == 0 {
			delete(k.counts, key)
		}
	}, true
}
