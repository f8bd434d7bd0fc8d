package chat

import (
	"context"
	"errors"
	"fmt"

	"balanza/services/store"
)

// queueLength is how many frames may wait for a listener before it is dropped.
const queueLength = 128

var (
	// ErrSlow ends a listener that did not read for so long that its queue is full.
	ErrSlow = errors.New("listener too slow")
	// ErrLoggedOut ends the listeners of a session that was logged out.
	ErrLoggedOut = errors.New("session logged out")
	// ErrClosed ends all listeners when the hub stops.
	ErrClosed = errors.New("chat closed")
)

// Listener is one open page.
type Listener struct {
	// C delivers the frames (JSON) in order. They are shared among listeners and must not be changed. C is closed when the
	// listener has ended; Err then says why.
	C <-chan []byte

	hub     *Hub
	c       chan []byte
	session string
	after   int64 // it has the entries up to this number
	err     error // guarded by hub.mu, once it is in hub.listeners
}

// Join adds a listener for a page of a session. The first frames, at least one, hold the messages after the entry numbered
// after, or the recent ones when the page has none (after = 0) or missed more than maxBehind entries. Join waits until the
// hub has read the log. When ctx ends first, or the store does not answer, the error is a store.ErrUnavailable. Entries that
// were read until then are delivered: the listener ends with that error after them, and the page joins again for the rest.
// So a page that missed more than a slow store can read in time still makes progress.
func (h *Hub) Join(ctx context.Context, session string, after int64) (*Listener, error) {
	select {
	case <-h.ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: the log has not been read yet", store.ErrUnavailable)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	reset := after <= 0 || h.last-after > maxBehind
	missed, last, err := h.messages[max(0, len(h.messages)-recentCount):], h.last, error(nil)
	if !reset {
		missed, last, err = h.missed(ctx, after)
	}
	switch {
	case h.stopped:
		return nil, ErrClosed
	case err != nil && last == after:
		return nil, err
	}
	frames := chatFrames(missed, last, reset)
	c := make(chan []byte, queueLength+len(frames))
	for _, f := range frames {
		c <- f
	}
	l := &Listener{C: c, hub: h, c: c, session: session, after: last, err: err}
	if err != nil {
		close(c)
		return l, nil
	}
	h.listeners[l] = struct{}{}
	h.log.AddPages(1)
	return l, nil
}

// missed returns the messages above after, and the number of the entry up to which they are complete; with an error they end
// before the log does. h.mu is locked at the call and at the return, but not while the store is read.
func (h *Hub) missed(ctx context.Context, after int64) (messages []store.Entry, last int64, err error) {
	for after < h.floor {
		h.mu.Unlock()
		entries, err := h.log.After(ctx, after, readBatch)
		h.mu.Lock()
		switch {
		case err != nil:
			return messages, after, err
		case len(entries) == 0 && after < h.floor:
			return messages, after, errMissingEntries
		}
		// Entries above the floor are in h.messages, or will be delivered: the log may be ahead of the hub.
		entries = entries[:len(entries)-len(above(entries, h.floor))]
		if len(entries) == 0 {
			break
		}
		messages = append(messages, onlyMessages(entries)...)
		after = entries[len(entries)-1].N
	}
	return append(messages, above(h.messages, after)...), max(after, h.last), nil
}

// Err returns why C was closed: ErrSlow, ErrLoggedOut, ErrClosed, or Join's store.ErrUnavailable; nil while C is open and
// after Close.
func (l *Listener) Err() error {
	l.hub.mu.Lock()
	defer l.hub.mu.Unlock()
	return l.err
}

// Close ends the listener. Calling it twice is no error.
func (l *Listener) Close() {
	l.hub.mu.Lock()
	defer l.hub.mu.Unlock()
	l.end(nil)
}

// send queues a frame, or ends the listener when its queue is full: a slow page must not delay the others. hub.mu is
// locked.
func (l *Listener) send(frame []byte) {
	select {
	case l.c <- frame:
	default:
		l.end(ErrSlow)
	}
}

// end closes the channel once. hub.mu is locked.
func (l *Listener) end(why error) {
	if _, active := l.hub.listeners[l]; !active {
		return
	}
	delete(l.hub.listeners, l)
	l.err = why
	close(l.c)
	l.hub.log.AddPages(-1)
}
