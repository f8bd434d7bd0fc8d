package chat

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"balanza/services/eventlog"
	"balanza/services/store"
)

const (
	// recentCount is how many messages a page without any gets, and how many the hub holds at least.
	recentCount = 200
	// maxBehind is how many entries a page may have missed and still get all of them. A page that missed more gets the
	// recent messages in place of what it has.
	maxBehind = 20_000
	// readBatch is how many entries are read from the store at a time.
	readBatch = 500
	// retryInterval is the time between two attempts to read from a store that does not answer.
	retryInterval = 500 * time.Millisecond
)

// errMissingEntries means that the store lacks entries although later ones are known. It is a replica that lags behind,
// or has lost them in a crash.
var errMissingEntries = fmt.Errorf("%w: earlier entries are missing", store.ErrUnavailable)

// Hub delivers the log's entries to the listeners of one process: to each in order, without a gap, and once.
type Hub struct {
	store store.Store
	log   *eventlog.Log
	ready chan struct{} // closed when the recent messages are in memory and the log is followed

	// The log must not wait for the hub: entries are queued here until Run delivers them.
	inboxMu sync.Mutex
	inbox   []store.Entry
	arrived chan struct{} // of capacity 1: wakes Run when the inbox is not empty

	products products

	mu        sync.Mutex
	listeners map[*Listener]struct{}
	messages  []store.Entry // every message with a number above floor, up to last, in order
	floor     int64
	last      int64 // number of the last entry that was delivered
	stopped   bool
}

// NewHub returns a hub for the log l of the store s. It delivers nothing before Run.
func NewHub(s store.Store, l *eventlog.Log) *Hub {
	return &Hub{
		store:     s,
		log:       l,
		ready:     make(chan struct{}),
		arrived:   make(chan struct{}, 1),
		products:  products{changed: make(map[string]struct{}), arrived: make(chan struct{}, 1)},
		listeners: make(map[*Listener]struct{}),
	}
}

// Run follows the log until ctx ends, then ends every listener with ErrClosed and returns nil. It is called once. While the
// store does not answer at the start, Run tries again and Join waits.
func (h *Hub) Run(ctx context.Context) error {
	defer h.stop()
	for h.load(ctx) != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryInterval):
		}
	}
	defer h.log.Subscribe(h.last, h.receive)()
	close(h.ready)
	var products sync.WaitGroup
	products.Go(func() { h.deliverProducts(ctx) })
	defer products.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.arrived:
		}
		h.inboxMu.Lock()
		batch := h.inbox
		h.inbox = nil
		h.inboxMu.Unlock()
		h.deliverBatch(batch)
	}
}

// load reads the log backwards until it has the recent messages, however many other entries are among them.
func (h *Hub) load(ctx context.Context) error {
	select {
	case <-h.log.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	entries := h.log.Recent()
	var floor, last int64
	if len(entries) > 0 {
		floor, last = entries[0].N-1, entries[len(entries)-1].N
	}
	messages := onlyMessages(entries)
	for floor > 0 && len(messages) < recentCount && last-floor < maxBehind {
		from := max(0, floor-recentCount)
		older, err := h.log.Read(ctx, from, floor)
		if err != nil {
			return err
		}
		messages = append(onlyMessages(older), messages...)
		floor = from
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.messages, h.floor, h.last = messages, floor, last
	return nil
}

// receive queues entries; the log calls it.
func (h *Hub) receive(entries []store.Entry) {
	h.inboxMu.Lock()
	h.inbox = append(h.inbox, entries...)
	h.inboxMu.Unlock()
	wake(h.arrived)
}

// deliverBatch delivers entries to the listeners. Consecutive messages share a frame.
func (h *Hub) deliverBatch(entries []store.Entry) {
	for len(entries) > 0 {
		first := entries[0]
		n := 1
		var frame []byte
		switch first.Kind {
		case store.MessagePosted:
			for n < min(len(entries), maxPerFrame) && entries[n].Kind == store.MessagePosted {
				n++
			}
			frame = chatFrame(entries[:n], entries[n-1].N, false)
		case store.ProductChanged:
			h.products.add(first.Subject)
		case store.LoggedOut:
			h.endSession(first.Subject)
		}
		h.deliver(entries[:n], frame)
		entries = entries[n:]
	}
}

// deliver advances the hub over entries, and sends the frame of them, if there is one, to every listener that lacks them.
func (h *Hub) deliver(entries []store.Entry, frame []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if first := entries[0].N; first <= h.last {
		h.stepBack(first - 1)
	}
	h.last = entries[len(entries)-1].N
	h.messages = append(h.messages, onlyMessages(entries)...)
	if len(h.messages) >= 2*recentCount { // cut seldom, so that one message does not cost a copy of all
		h.floor = h.messages[len(h.messages)-recentCount-1].N
		h.messages = slices.Clone(h.messages[len(h.messages)-recentCount:])
	}
	if frame == nil {
		return
	}
	for l := range h.listeners {
		switch {
		case l.after < entries[0].N:
			l.send(frame)
		case l.after < h.last: // the page got some of them from another process, which was ahead of this one
			l.send(chatFrame(above(entries, l.after), h.last, false))
		}
	}
}

// stepBack drops what came after n: the store lost it in a crash, and gave its numbers to other entries. Pages keep messages
// by number, so delivering the new ones also corrects what they show. h.mu is locked.
func (h *Hub) stepBack(n int64) {
	h.messages = h.messages[:len(h.messages)-len(above(h.messages, n))]
	h.floor = min(h.floor, n)
	for l := range h.listeners {
		l.after = min(l.after, n)
	}
}

// endSession ends the listeners of a session that was logged out.
func (h *Hub) endSession(session string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for l := range h.listeners {
		if l.session == session {
			l.end(ErrLoggedOut)
		}
	}
}

// stop ends all listeners, and makes Join fail from then on.
func (h *Hub) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped = true
	for l := range h.listeners {
		l.end(ErrClosed)
	}
}

// onlyMessages returns the messages among entries, in a slice of its own.
func onlyMessages(entries []store.Entry) []store.Entry {
	return slices.DeleteFunc(slices.Clone(entries), func(e store.Entry) bool { return e.Kind != store.MessagePosted })
}

// above returns the part of entries with numbers greater than n.
func above(entries []store.Entry, n int64) []store.Entry {
	i, _ := slices.BinarySearchFunc(entries, n+1, func(e store.Entry, n int64) int { return int(e.N - n) })
	return entries[i:]
}

// wake wakes the goroutine that reads from a channel of capacity 1.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
