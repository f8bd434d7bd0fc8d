package chat

import (
	"context"
	"errors"
	"sync"

	"balanza/services/store"
)

// products are the ids of the products that changed and were not told yet. They are read apart from the log, so that neither a
// slow nor an unreadable product holds the conversation up, and many changes of one product are told as one.
type products struct {
	mu      sync.Mutex
	changed map[string]struct{}
	arrived chan struct{} // holds a token when there are some
}

func newProducts() products {
	return products{changed: make(map[string]struct{}), arrived: make(chan struct{}, 1)}
}

func (p *products) change(id string) {
	p.mu.Lock()
	p.changed[id] = struct{}{}
	p.mu.Unlock()
	signal(p.arrived)
}

func (p *products) take() map[string]struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := p.changed
	p.changed = make(map[string]struct{})
	return taken
}

// tellProducts tells every listener of each product that changed, as it is when it is read, which is what the log announced
// or something newer. It returns when ctx ends.
func (h *Hub) tellProducts(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.products.arrived:
		}
		failed := false
		for id := range h.products.take() {
			frame, err := h.productFrame(ctx, id)
			if err != nil {
				h.products.change(id)
				failed = true
				continue
			}
			h.tellAll(frame)
		}
		if failed && !pause(ctx) {
			return
		}
	}
}

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

func (h *Hub) tellAll(frame []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for l := range h.listeners {
		l.give(frame)
	}
}
