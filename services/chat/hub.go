package chat

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"balanza/services/store"
)

const (
	// recent is how many messages a page gets that has none yet, and how many at least the hub holds.
	recent = 200
	// farthest is how many entries a page may be behind and still get all it missed; beyond, it starts again with the recent.
	farthest = 20_000
	// perRead is how many entries are asked from the store at a time.
	perRead = 500
	// retry is the pause before a store is asked again that did not answer.
	retry = 500 * time.Millisecond
)

// errForgotten is a store's failure to give entries whose successors are known: it is behind, for instance a replica of the one that
// gave those, or has lost them and not said so yet.
var errForgotten = fmt.Errorf("%w: entries that were there are not", store.ErrUnavailable)

// Hub hands the log's entries to the listeners of one process, to each in order, without a gap and once.
type Hub struct {
	store store.Store
	log   *store.Log
	ready chan struct{} // closed once the recent messages are in memory and the log is followed

	// The log hands entries over without waiting: they queue here until Run takes them.
	inboxMu sync.Mutex
	inbox   []store.Entry
	arrived chan struct{} // holds a token when the inbox is not empty

	products products

	mu        sync.Mutex
	listeners map[*Listener]struct{}
	messages  []store.Entry // every message above floor, up to last, in order
	floor     int64
	last      int64 // number of the last entry that the listeners were told
	stopped   bool
}

// NewHub returns a hub for the log l of the store s. It tells nothing before Run.
func NewHub(s store.Store, l *store.Log) *Hub {
	return &Hub{
		store:     s,
		log:       l,
		ready:     make(chan struct{}),
		arrived:   make(chan struct{}, 1),
		products:  newProducts(),
		listeners: make(map[*Listener]struct{}),
	}
}

// Run follows the log until ctx ends, then ends every listener with ErrClosed and returns nil. It is called once. A store that
// does not answer is asked again; joining waits meanwhile.
func (h *Hub) Run(ctx context.Context) error {
	defer h.stop()
	for h.load(ctx) != nil {
		if !pause(ctx) {
			return nil
		}
	}
	defer h.log.Subscribe(h.last, h.receive)()
	close(h.ready)
	var products sync.WaitGroup
	products.Go(func() { h.tellProducts(ctx) })
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
		h.take(batch)
	}
}

// load reads the log backwards until it has the recent messages, so that a log full of other entries hides no conversation.
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
	for floor > 0 && len(messages) < recent && last-floor < farthest {
		from := max(0, floor-recent)
		older, err := h.log.Read(ctx, from, int(floor-from))
		if err != nil {
			return err
		}
		if int64(len(older)) < floor-from {
			return errForgotten
		}
		messages = append(onlyMessages(older), messages...)
		floor = from
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.messages, h.floor, h.last = messages, floor, last
	return nil
}

// receive is the log's subscriber.
func (h *Hub) receive(entries []store.Entry) {
	h.inboxMu.Lock()
	h.inbox = append(h.inbox, entries...)
	h.inboxMu.Unlock()
	signal(h.arrived)
}

// take tells the listeners what came. Neighbouring messages share a frame.
func (h *Hub) take(entries []store.Entry) {
	for len(entries) > 0 {
		first := entries[0]
		n := 1
		var frame []byte
		switch first.Kind {
		case store.MessagePosted:
			for n < min(len(entries), perFrame) && entries[n].Kind == store.MessagePosted {
				n++
			}
			frame = chatFrame(entries[:n], entries[n-1].N, false)
		case store.ProductChanged:
			h.products.change(first.Subject)
		case store.LoggedOut:
			h.logOut(first.Subject)
		}
		h.tell(entries[:n], frame)
		entries = entries[n:]
	}
}

// tell makes entries, all of one frame, the last ones and gives the frame, if any, to every listener that lacks it.
func (h *Hub) tell(entries []store.Entry, frame []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if first := entries[0].N; first <= h.last {
		h.stepBack(first - 1)
	}
	h.last = entries[len(entries)-1].N
	h.messages = append(h.messages, onlyMessages(entries)...)
	if len(h.messages) >= 2*recent { // cut seldom, so that a message costs no copy of all
		h.floor = h.messages[len(h.messages)-recent-1].N
		h.messages = slices.Clone(h.messages[len(h.messages)-recent:])
	}
	if frame == nil {
		return
	}
	for l := range h.listeners {
		switch {
		case l.after < entries[0].N:
			l.give(frame)
		case l.after < h.last: // the page met these in part on a process that was ahead of this one
			l.give(chatFrame(above(entries, l.after), h.last, false))
		}
	}
}

// stepBack forgets what came after n, because the store lost it in a crash and others took the numbers. Pages keep messages by
// number, so that telling them the new ones also mends what they show. h.mu is locked.
func (h *Hub) stepBack(n int64) {
	h.messages = h.messages[:len(h.messages)-len(above(h.messages, n))]
	h.floor = min(h.floor, n)
	for l := range h.listeners {
		l.after = min(l.after, n)
	}
}

func (h *Hub) logOut(session string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for l := range h.listeners {
		if l.session == session {
			l.end(ErrLoggedOut)
		}
	}
}

func (h *Hub) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped = true
	for l := range h.listeners {
		l.end(ErrClosed)
	}
}

// onlyMessages returns the messages among entries, which it leaves as they are.
func onlyMessages(entries []store.Entry) []store.Entry {
	var messages []store.Entry
	for _, e := range entries {
		if e.Kind == store.MessagePosted {
			messages = append(messages, e)
		}
	}
	return messages
}

// above returns the part of entries with numbers greater than n.
func above(entries []store.Entry, n int64) []store.Entry {
	i, _ := slices.BinarySearchFunc(entries, n+1, func(e store.Entry, n int64) int { return int(e.N - n) })
	return entries[i:]
}

// signal leaves a token in a channel of capacity 1.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pause waits before a store is asked again; false means that ctx has ended.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(retry):
		return true
	}
}
