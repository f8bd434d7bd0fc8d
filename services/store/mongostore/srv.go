package mongostore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/mongo"

	"balanza/services/store"
)

// lookupInterval is the time between two look-ups of the name of a mongodb+srv URI.
const lookupInterval = 2 * time.Second

// connecting is the client of a database. That of a mongodb+srv URI is made when the DNS has told the servers, since the
// driver asks it but once; that of any other URI is there from the start.
type connecting struct {
	ready  chan struct{} // closed when there is a client; nil: there is one from the start
	closed chan struct{} // by end; nil as ready

	mu     sync.Mutex
	client *mongo.Client
	err    error // of the last look-up
	ended  bool
}

// startLookup looks the name of a mongodb+srv URI up until connect succeeds, in a goroutine, since the DNS may be slow.
func (c *connecting) startLookup(name string, connect func() (*mongo.Client, error)) {
	c.ready, c.closed = make(chan struct{}), make(chan struct{})
	c.err = fmt.Errorf("%w: %s has not been looked up yet", store.ErrUnavailable, name)
	go func() {
		for {
			client, err := lookUp(name, connect)
			if c.looked(client, err) {
				return
			}
			select {
			case <-c.closed:
				return
			case <-time.After(lookupInterval):
			}
		}
	}()
}

// lookUp makes a client of what the DNS tells about a name. The driver takes options from a TXT record, and takes a failure
// to read it for its absence: then it would log in to the wrong database.
func lookUp(name string, connect func() (*mongo.Client, error)) (*mongo.Client, error) {
	_, err := net.LookupTXT(name)
	if dns, ok := errors.AsType[*net.DNSError](err); ok && !dns.IsNotFound {
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	client, err := connect()
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	if err != nil {
		return nil, &store.RefusedError{Reason: wrongRecords, Err: err}
	}
	return client, nil
}

// looked takes the result of a look-up, and tells whether it was the last one.
func (c *connecting) looked(client *mongo.Client, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		c.err = err
		return false
	case c.ended:
		_ = client.Disconnect(context.Background()) // it has no connections yet
	default:
		c.client = client
		close(c.ready)
	}
	return true
}

// connected returns the client. It waits for the look-up for selectionTimeout, as the driver does for a server, and fails
// with its error.
func (c *connecting) connected(ctx context.Context) (*mongo.Client, error) {
	if c.ready == nil {
		return c.client, nil
	}
	ctx, cancel := context.WithTimeout(ctx, selectionTimeout)
	defer cancel()
	select {
	case <-c.ready:
		return c.client, nil
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.client != nil {
			return c.client, nil
		}
		return nil, c.err
	}
}

// end ends the look-up and returns the client; nil where there is none.
func (c *connecting) end() *mongo.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.closed != nil {
		close(c.closed)
	}
	return c.client
}
