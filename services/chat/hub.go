package chat

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"balanza/services/eventlog"
	"balanza/services/store"
)

const (
	// recentCount is how many messages a page without any gets.
	recentCount = 200
	// heldCount is how many messages the hub holds at least, once it has seen so many. What a page lacks of them costs no
	// query of the store.
	heldCount = 1000
	// maxBehind is how many entries a page may have missed and still get all of them. A page that missed more gets the
	// recent messages in place of what it has.
	maxBehind = 20_000
	// readBatch is how many entries are read from the store, or delivered, at a time.
	readBatch = 500
	// catchUpBatch is how many entries one turn of a page that missed many brings it.
	catchUpBatch = 200
	// retryInterval is the time between two attempts to read from a store that does not answer.
	retryInterval = 500 * time.Millisecond
	// maxEncoded limits the memory of encoded.
	maxEncoded = 16
)

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
	rates    rates

	// reads holds a token for each goroutine that reads old entries or encodes many messages. It has room for fewer than
	// there are processors, so that such work leaves some of them to the rest.
	reads chan struct{}

	mu        sync.Mutex
	listeners map[*Listener]struct{}
	messages  []store.Entry // every message with a number above floor, up to last, in order; shared with encoders
	floor     int64
	encoded   map[int64]func() [][]byte // what framesAfter has returned since the last entry
	last      int64                     // number of the last entry that was delivered
	stopped   bool
}

// NewHub returns a hub for the log l of the store s, in which an author may send so many messages a minute. It delivers
// nothing before Run.
func NewHub(s store.Store, l *eventlog.Log, perMinute int) *Hub {
	return &Hub{
		store:     s,
		log:       l,
		ready:     make(chan struct{}),
		arrived:   make(chan struct{}, 1),
		products:  products{changed: make(map[string]struct{}), arrived: make(chan struct{}, 1)},
		rates:     newRates(perMinute),
		reads:     make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		listeners: make(map[*Listener]struct{}),
		encoded:   make(map[int64]func() [][]byte),
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
		older, _, err := h.read(ctx, from, floor)
		if err != nil {
			return err
		}
		messages = append(older, messages...)
		floor = from
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.messages, h.floor, h.last = messages, floor, last
	h.rates.delivered(messages)
	return nil
}

// waitReady waits until the hub has read the recent messages. It fails with store.ErrUnavailable when ctx ends before.
func (h *Hub) waitReady(ctx context.Context) error {
	select {
	case <-h.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: the log has not been read yet", store.ErrUnavailable)
	}
}

// Behind returns how many entries a page lacks that has those up to the one numbered after, 0 for a page without any. It
// fails with store.ErrUnavailable while the log has not been read.
func (h *Hub) Behind(ctx context.Context, after int64) (int64, error) {
	if err := h.waitReady(ctx); err != nil || after == 0 {
		return 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return max(0, h.last-after), nil
}

// read returns the messages of the log above the number after and up to last. last is end, or a lower number with an error.
// Numbers that are missing are those of entries that were deleted: the log's position, which end never exceeds, moves only
// over entries without a gap.
func (h *Hub) read(ctx context.Context, after, end int64) (messages []store.Entry, last int64, err error) {
	for after < end {
		entries, err := h.log.After(ctx, after, int(min(readBatch, end-after)))
		if err != nil {
			return messages, after, err
		}
		entries = through(entries, end)
		if len(entries) == 0 {
			break
		}
		messages = append(messages, onlyMessages(entries)...)
		after = entries[len(entries)-1].N
	}
	return messages, end, nil
}

// receive queues entries; the log calls it.
func (h *Hub) receive(entries []store.Entry) {
	h.inboxMu.Lock()
	h.inbox = append(h.inbox, entries...)
	h.inboxMu.Unlock()
	wake(h.arrived)
}

// deliverBatch delivers entries to the listeners. Consecutive messages share frames.
func (h *Hub) deliverBatch(entries []store.Entry) {
	for len(entries) > 0 {
		first := entries[0]
		n := 1
		var frames [][]byte
		switch first.Kind {
		case store.MessagePosted:
			for n < min(len(entries), readBatch) && entries[n].Kind == store.MessagePosted {
				n++
			}
			frames = chatFrames(entries[:n], entries[n-1].N, false, false)
		case store.ProductChanged:
			h.products.add(first.Subject)
		case store.LoggedOut:
			h.endSession(first.Subject)
		}
		h.deliver(entries[:n], frames)
		entries = entries[n:]
	}
}

// deliver advances the hub over entries, and sends their frames, if there are any, to every listener that lacks them. Only
// one goroutine calls it.
func (h *Hub) deliver(entries []store.Entry, frames [][]byte) {
	for l, rest := range h.advance(entries, frames) {
		frames := rest() // without the lock
		h.mu.Lock()
		if _, active := h.listeners[l]; active {
			l.send(frames)
		}
		h.mu.Unlock()
	}
}

// advance is deliver, but for the listeners that have got some of the entries from another process, which was ahead of this
// one. For each of them it returns a function that encodes the others.
func (h *Hub) advance(entries []store.Entry, frames [][]byte) map[*Listener]func() [][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if first := entries[0].N; first <= h.last {
		h.stepBack(first - 1)
	}
	h.last = entries[len(entries)-1].N
	h.rates.delivered(entries)
	h.messages = append(h.messages, onlyMessages(entries)...)
	if len(h.messages) >= 2*heldCount { // cut seldom, so that one message does not cost a copy of all
		h.floor = h.messages[len(h.messages)-heldCount-1].N
		h.messages = slices.Clone(h.messages[len(h.messages)-heldCount:])
	}
	clear(h.encoded)
	if frames == nil {
		return nil
	}
	partly := make(map[*Listener]func() [][]byte)
	for l := range h.listeners {
		switch {
		case l.after < entries[0].N:
			l.send(frames)
		case l.after < h.last:
			partly[l] = h.framesAfter(l.after)
		}
	}
	return partly
}

// framesAfter returns a function that encodes what a page lacks that has the entries up to after; a page that has none
// (after = 0) lacks the recent messages. Pages that lack the same share the encoding, which the first call does. h.mu is
// locked, but must not be while the function is called: many messages take milliseconds.
func (h *Hub) framesAfter(after int64) func() [][]byte {
	if frames := h.encoded[after]; frames != nil {
		return frames
	}
	messages, last := store.Above(h.messages, after), max(after, h.last)
	if after == 0 {
		messages = messages[max(0, len(messages)-recentCount):]
	}
	if len(h.encoded) == maxEncoded {
		clear(h.encoded)
	}
	frames := sync.OnceValue(func() [][]byte { return chatFrames(messages, last, after == 0, false) })
	h.encoded[after] = frames
	return frames
}

// stepBack drops what came after n: the store lost it in a crash, and gave its numbers to other entries. Pages keep messages
// by number, so delivering the new ones also corrects what they show. h.mu is locked.
func (h *Hub) stepBack(n int64) {
	h.messages = slices.Clip(h.messages[:len(h.messages)-len(store.Above(h.messages, n))]) // an encoder may read what follows
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

// through returns the entries with numbers up to last.
func through(entries []store.Entry, last int64) []store.Entry {
	return entries[:len(entries)-len(store.Above(entries, last))]
}

// wake wakes the goroutine that reads from a channel of capacity 1.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
