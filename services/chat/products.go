package chat

import (
	"context"
	"errors"
	"sync"
	"time"

	"balanza/services/store"
)

// products are the ids of the products that changed and were not delivered yet. A goroutine of their own reads them from the
// store, so that a slow store does not delay messages, and many changes of one product are delivered as one.
type products struct {
	mu      sync.Mutex
	changed map[string]struct{}
	arrived chan struct{} // of capacity 1: wakes deliverProducts
}

// add puts a product into the set.
func (p *products) add(id string) {
	p.mu.Lock()
	p.changed[id] = struct{}{}
	p.mu.Unlock()
	wake(p.arrived)
}

// removeAll returns the ids and empties the set.
func (p *products) removeAll() map[string]struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := p.changed
	p.changed = make(map[string]struct{})
	return ids
}

// deliverProducts sends every listener each product that changed until ctx ends. It sends the product as the store has it at
// that moment: the state that the log announced, or a later one.
func (h *Hub) deliverProducts(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.products.arrived:
		}
		failed := false
		for id := range h.products.removeAll() {
			frame, err := h.productFrame(ctx, id)
			if err != nil {
				h.products.add(id)
				failed = true
				continue
			}
			h.sendToAll(frame)
		}
		if failed {
			select {
			case <-ctx.Done():
				return
			case <-time.After(retryInterval):
			}
		}
	}
}

// productFrame encodes a product, or its deletion when the store has none of that id.
func (h *Hub) productFrame(ctx context.Context, id string) ([]byte, error) {
	p, err := h.store.Product(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return encode(productEvent{Type: "product", ID: id}), nil
	case err != nil:
		return nil, err
	}
	return encode(productEvent{Type: "product", ID: id, Product: &p}), nil
}

// sendToAll sends every listener a frame that belongs to no entry.
func (h *Hub) sendToAll(frame []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for l := range h.listeners {
		l.send([][]byte{frame})
	}
}
