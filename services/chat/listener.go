package chat

import (
	"context"
	"errors"
	"fmt"

	"balanza/services/store"
)

// queue is how many frames may wait for a listener before it is dropped.
const queue = 128

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
	// C gives the frames (JSON) in order. They are shared between listeners: do not change them. C is closed when the
	// listener has ended; Err then says why.
	C <-chan []byte

	hub     *Hub
	c       chan []byte
	session string
	after   int64 // entries up to this one are not for it
	err     error // guarded by hub.mu, once it listens
}

// Join adds a listener for a page of that session. The first frames tell it the messages after the entry numbered after, or the
// recent ones when it has none (after = 0) or is too far behind; there is always at least one. It waits for the hub to have
// read the log; when ctx ends first, or the store does not answer, the error is a store.ErrUnavailable. What was read until then
// is not lost: the listener gets it and ends with that error, and the page comes back for the rest. So a page that missed more
// than a slow store can tell at a time gets on.
func (h *Hub) Join(ctx context.Context, session string, after int64) (*Listener, error) {
	select {
	case <-h.ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: the log is not read yet", store.ErrUnavailable)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	reset := after <= 0 || h.last-after > farthest
	missed, last, err := h.messages[max(0, len(h.messages)-recent):], h.last, error(nil)
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
	c := make(chan []byte, queue+len(frames))
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

// missed returns every message above after and the last entry that they are known up to; with an error that is not all there is.
// It is called with h.mu locked and returns so, but unlocks it to read what it does not hold itself.
func (h *Hub) missed(ctx context.Context, after int64) (messages []store.Entry, last int64, err error) {
	for after < h.floor {
		h.mu.Unlock()
		entries, err := h.log.After(ctx, after, perRead)
		h.mu.Lock()
		switch {
		case err != nil:
			return messages, after, err
		case len(entries) == 0 && after < h.floor:
			return messages, after, errForgotten
		}
		// The log may be ahead of what the listeners were told; what is above the floor is in messages or comes later.
		entries = entries[:len(entries)-len(above(entries, h.floor))]
		if len(entries) == 0 {
			break
		}
		messages = append(messages, onlyMessages(entries)...)
		after = entries[len(entries)-1].N
	}
	return append(messages, above(h.messages, after)...), max(after, h.last), nil
}

// Err says why C was closed: ErrSlow, ErrLoggedOut, ErrClosed, or a store.ErrUnavailable as Join has it; nil while it is open and
// after Close.
func (l *Listener) Err() error {
	l.hub.mu.Lock()
	defer l.hub.mu.Unlock()
	return l.err
}

// Close ends the listener; a second time does nothing.
func (l *Listener) Close() {
	l.hub.mu.Lock()
	defer l.hub.mu.Unlock()
	l.end(nil)
}

// give queues a frame, or drops the listener when it has no room. hub.mu is locked.
func (l *Listener) give(frame []byte) {
	select {
	case l.c <- frame:
	default:
		l.end(ErrSlow)
	}
}

// end closes the channel once. hub.mu is locked.
func (l *Listener) end(why error) {
	if _, listens := l.hub.listeners[l]; !listens {
		return
	}
	delete(l.hub.listeners, l)
	l.err = why
	close(l.c)
	l.hub.log.AddPages(-1)
}
