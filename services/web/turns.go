package web

import (
	"context"
	"sync"

	"github.com/gofiber/fiber/v2"
)

// maxTurns is how many requests of one client use the store at a time, in one process. A client that sends more waits for
// itself: half of MongoDB's connections stay for the others (mongostore's maxConnections).
const maxTurns = 8

// errTurn is for a request whose turn did not come in time.
var errTurn = temporaryError("error.turn")

// turns counts the requests that use the store, by client. The zero value is ready for use.
type turns struct {
	mu      sync.Mutex
	clients map[string]*clientTurns // those with requests
}

// clientTurns are the requests of one client.
type clientTurns struct {
	requests int           // that wait or have their turn
	taken    chan struct{} // of capacity maxTurns; senders wait in the order in which they came
}

// take waits for a turn of the client. It fails with errTurn when ctx ends before.
func (t *turns) take(ctx context.Context, client string) (release func(), err error) {
	t.mu.Lock()
	if t.clients == nil {
		t.clients = make(map[string]*clientTurns)
	}
	c := t.clients[client]
	if c == nil {
		c = &clientTurns{taken: make(chan struct{}, maxTurns)}
		t.clients[client] = c
	}
	c.requests++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if c.requests--; c.requests == 0 {
			delete(t.clients, client)
		}
	}
	select {
	case c.taken <- struct{}{}:
		return func() { <-c.taken; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, errTurn
	}
}

// takeTurn is storeContext for the handler of a request: it waits for a turn of the request's client, which end gives back.
func (s *Site) takeTurn(c *fiber.Ctx) (ctx context.Context, end func(), err error) {
	ctx, cancel := s.storeContext()
	release, err := s.turns.take(ctx, network(clientAddress(c)))
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return ctx, func() { release(); cancel() }, nil
}
