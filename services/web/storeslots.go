package web

import (
	"context"
	"sync"

	"github.com/gofiber/fiber/v2"
)

// maxStoreSlots is how many requests of one client use the store at a time, in one process. More of them wait, so that half
// of MongoDB's connections stay free for other clients (mongostore's maxConnections).
const maxStoreSlots = 8

// errNoSlot is for a request that got no slot in time.
var errNoSlot = temporaryError("error.slots")

// storeSlots counts the requests that use the store, by client. The zero value is ready for use.
type storeSlots struct {
	mu      sync.Mutex
	clients map[string]*clientSlots // those with requests
}

// clientSlots are the slots of one client.
type clientSlots struct {
	requests int           // that wait for a slot or have one
	used     chan struct{} // of capacity maxStoreSlots; senders wait in the order in which they came
}

// acquire waits for a slot of the client. It fails with errNoSlot when ctx ends before.
func (s *storeSlots) acquire(ctx context.Context, client string) (release func(), err error) {
	s.mu.Lock()
	if s.clients == nil {
		s.clients = make(map[string]*clientSlots)
	}
	slots := s.clients[client]
	if slots == nil {
		slots = &clientSlots{used: make(chan struct{}, maxStoreSlots)}
		s.clients[client] = slots
	}
	slots.requests++
	s.mu.Unlock()
	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if slots.requests--; slots.requests == 0 {
			delete(s.clients, client)
		}
	}
	select {
	case slots.used <- struct{}{}:
		return func() { <-slots.used; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, errNoSlot
	}
}

// acquireStoreSlot is storeContext for the handler of a request: it waits for a slot of the request's client, which end
// releases.
func (s *Site) acquireStoreSlot(c *fiber.Ctx) (ctx context.Context, end func(), err error) {
	ctx, cancel := s.storeContext()
	release, err := s.storeSlots.acquire(ctx, network(clientAddress(c)))
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return ctx, func() { release(); cancel() }, nil
}
