package web

import (
	"context"
	"net/http"
	"testing"
	"time"

	"balanza/services/store"
)

// fewConnections is a store that answers a few calls at a time, each after a while; others wait in line, as in a
// database's pool of connections.
type fewConnections struct {
	store.Store
	connections chan struct{}
	took        time.Duration
}

func (s *fewConnections) wrap(inner store.Store) store.Store {
	s.Store = inner
	return s
}

func (s *fewConnections) Products(ctx context.Context, after string, limit int) ([]store.Product, error) {
	select {
	case s.connections <- struct{}{}:
	case <-ctx.Done():
		return nil, store.ErrUnavailable
	}
	defer func() { <-s.connections }()
	time.Sleep(s.took)
	return s.Store.Products(ctx, after, limit)
}

// A client that sends 200 requests at a time waits for itself: others find a connection of the store that is free.
func TestRequestsOfOneClientShareTheStore(t *testing.T) {
	slow := &fewConnections{connections: make(chan struct{}, 16), took: 100 * time.Millisecond}
	p := startProcess(t, t.TempDir(), Config{Store: slow, TrustedProxies: []string{"127.0.0.1"}})
	done := make(chan map[int]int, 1)
	go func() {
		done <- parallel(t, 200, func(int) response { return p.send(t, call{path: "/api/productos", header: from("192.0.2.1")}) })
	}()
	eventually(t, "the attacker has all its slots", func() bool { return len(slow.connections) >= maxStoreSlots })
	for range 5 {
		began := time.Now()
		p.send(t, call{path: "/api/productos", header: from("192.0.2.2")}).want(t, http.StatusOK)
		if took := time.Since(began); took > 10*slow.took {
			t.Errorf("the victim's request took %v, a call of the store %v", took, slow.took)
		}
	}
	if n := len(slow.connections); n > maxStoreSlots {
		t.Errorf("the attacker uses %d connections", n)
	}
	if statuses := <-done; statuses[http.StatusOK] == 0 || statuses[http.StatusOK]+statuses[http.StatusServiceUnavailable] != 200 {
		t.Errorf("the attacker's answers: %v", statuses)
	}
	p.storeSlots.mu.Lock()
	defer p.storeSlots.mu.Unlock()
	if n := len(p.storeSlots.clients); n != 0 {
		t.Errorf("%d clients are remembered", n)
	}
}
