package chat

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"balanza/services/store"
)

// queueLength is how many frames may wait for a listener, besides its first ones, before it is dropped.
const queueLength = 128

var (
	// ErrSlow ends a listener that did not read for so long that its queue is full.
	ErrSlow = errors.New("listener too slow")
	// ErrLoggedOut ends the listeners of a session that was logged out.
	ErrLoggedOut = errors.New("session logged out")
	// ErrClosed ends all listeners when the hub stops.
	ErrClosed = errors.New("chat closed")
)

// Listener is one open page. An idle one holds no buffer and no goroutine.
type Listener struct {
	hub     *Hub
	session string
	wake    func()
	after   int64 // it has the entries up to this number, or their frames are in its queue

	mu    sync.Mutex // locked after hub.mu
	queue [][]byte   // frames that wait for Next
	limit int        // of the queue
	err   error      // why the listener ended
}

// Join adds a listener for a page of a session. The first frames, at least one, hold the messages after the entry numbered
// after, or the recent ones when the page has none (after = 0) or missed more than maxBehind entries. Join waits until the
// hub has read the log. When ctx ends first, or the store does not answer, the error is a store.ErrUnavailable. Entries that
// were read until then are delivered: the listener ends with that error after them, and the page joins again for the rest.
// So a page that missed more than a slow store can read in time still makes progress.
//
// The hub calls wake when Next has more to return. It calls it while it delivers to all listeners, so wake must not block;
// it may do so before Join has returned.
func (h *Hub) Join(ctx context.Context, session string, after int64, wake func()) (*Listener, error) {
	select {
	case <-h.ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: the log has not been read yet", store.ErrUnavailable)
	}
	l := &Listener{hub: h, session: session, wake: wake, after: max(after, 0), limit: queueLength}
	var first [][]byte
	for {
		frames, floor, err := h.add(l)
		if err != nil {
			return nil, err
		}
		if frames != nil {
			first = append(first, frames()...)
			break
		}
		messages, last, err := h.read(ctx, l.after, floor)
		if err != nil && last == after {
			return nil, err
		}
		first, l.after = append(first, chatFrames(messages, last, false, true)...), last
		if err != nil {
			l.queue, l.err = first, err
			return l, nil
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.queue = append(first, l.queue...)
		l.limit += len(first)
	}
	return l, nil
}

// add adds a listener that has the entries up to l.after, and returns a function that encodes what it lacks; the frames of
// later entries are queued. It returns no function when the hub has in memory only what comes after floor.
func (h *Hub) add(l *Listener) (frames func() [][]byte, floor int64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.stopped:
		return nil, 0, ErrClosed
	case h.last-l.after > maxBehind:
		l.after = 0
	case 0 < l.after && l.after < h.floor:
		return nil, h.floor, nil
	}
	frames = h.framesAfter(l.after)
	l.after = max(l.after, h.last)
	h.listeners[l] = struct{}{}
	h.log.AddPages(1)
	return frames, 0, nil
}

// Next returns the next frame (JSON), nil when there is none yet, and the error when the listener has ended: ErrSlow,
// ErrLoggedOut, ErrClosed, or Join's store.ErrUnavailable; nil after Close. Frames are shared among listeners and must not
// be changed.
func (l *Listener) Next() (frame []byte, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return nil, l.err
	}
	frame, l.queue = l.queue[0], l.queue[1:]
	if len(l.queue) == 0 {
		l.queue = nil // frees the array
	}
	return frame, nil
}

// Close ends the listener. Calling it twice is no error.
func (l *Listener) Close() {
	l.hub.mu.Lock()
	defer l.hub.mu.Unlock()
	l.end(nil)
}

// send queues frames, or ends the listener when its queue is full: a slow page must not delay the others. hub.mu is locked.
func (l *Listener) send(frames [][]byte) {
	l.mu.Lock()
	full := len(l.queue) >= l.limit
	if !full {
		l.queue = append(l.queue, frames...)
	}
	l.mu.Unlock()
	if full {
		l.end(ErrSlow)
	} else {
		l.wake()
	}
}

// end removes the listener once, with the frames that wait: its page joins again, or must not get them. hub.mu is locked.
func (l *Listener) end(why error) {
	if _, active := l.hub.listeners[l]; !active {
		return
	}
	delete(l.hub.listeners, l)
	l.mu.Lock()
	l.err, l.queue = why, nil
	l.mu.Unlock()
	l.hub.log.AddPages(-1)
	l.wake()
}
