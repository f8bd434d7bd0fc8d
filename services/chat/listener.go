package chat

import (
	"context"
	"errors"
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
	// ErrBehind is no end: the listener missed so many messages that CatchUp must bring the next ones.
	ErrBehind = errors.New("listener behind")
)

// Listener is one open page. An idle one holds no buffer and no goroutine.
type Listener struct {
	hub     *Hub
	session string
	wake    func()
	after   int64 // it has the entries up to this number, or their frames are in its queue
	closed  bool  // guarded by hub.mu

	mu     sync.Mutex // locked after hub.mu
	queue  [][]byte   // frames that wait for Next
	limit  int        // of the queue
	behind bool       // CatchUp is to be called when the queue is empty
	err    error      // why the listener ended
}

// Join adds a listener for a page of a session. The first frames, at least one, hold the messages after the entry numbered
// after, or the recent ones when the page has none (after = 0) or missed more than maxBehind entries. Join waits until the
// hub has read the log, and reads and encodes nothing old itself: see CatchUp. When ctx ends first the error is a
// store.ErrUnavailable.
//
// The hub calls wake when Next has more to return. It calls it while it delivers to all listeners, so wake must not block;
// it may do so before Join has returned.
func (h *Hub) Join(ctx context.Context, session string, after int64, wake func()) (*Listener, error) {
	if err := h.waitReady(ctx); err != nil {
		return nil, err
	}
	l := &Listener{hub: h, session: session, wake: wake, after: max(after, 0), limit: queueLength}
	frames, _, err := h.add(l, recentCount)
	if err != nil {
		return nil, err
	}
	if frames == nil {
		l.behind = true
	} else {
		l.prepend(frames())
	}
	return l, nil
}

// CatchUp brings a listener that is behind its next frames, or ends it with store.ErrUnavailable when the store does not
// answer or ctx ends before it was its turn: its page joins again, from what it has got until then. One goroutine calls it,
// after Next has returned ErrBehind. A page that missed many messages gets them in as many turns as it takes, between
// which it reads what it got: it keeps neither the others waiting nor much memory.
func (l *Listener) CatchUp(ctx context.Context) {
	done, err := l.hub.acquireRead(ctx)
	if err == nil {
		err = l.advance(ctx)
		done()
	}
	if err != nil {
		l.mu.Lock()
		l.behind, l.err = false, err
		l.mu.Unlock()
	}
}

// advance queues the next frames of a listener that is behind.
func (l *Listener) advance(ctx context.Context) error {
	frames, floor, err := l.hub.add(l, maxBehind)
	if err != nil {
		return err
	}
	if frames != nil {
		first := frames()
		l.mu.Lock()
		l.behind = false
		l.mu.Unlock()
		l.prepend(first)
		return nil
	}
	messages, last, err := l.hub.read(ctx, l.after, min(l.after+catchUpBatch, floor))
	if err != nil {
		return err
	}
	l.after = last
	l.prepend(chatFrames(messages, last, false, true))
	return nil
}

// prepend queues the frames of what the listener lacked when it was added, unless it has ended since.
func (l *Listener) prepend(first [][]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.queue = append(first, l.queue...)
		l.limit += len(first)
	}
}

// add adds a listener that has the entries up to l.after, and returns a function that encodes what it lacks; the frames of
// later entries are queued. It returns no function, and adds nothing, when the listener lacks more messages than most, or
// some that are not in memory, which has those above floor.
func (h *Hub) add(l *Listener, most int) (frames func() [][]byte, floor int64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.stopped || l.closed:
		return nil, 0, ErrClosed
	case h.last-l.after > maxBehind:
		l.after = 0
	case 0 < l.after && (l.after < h.floor || len(store.Above(h.messages, l.after)) > most):
		return nil, h.floor, nil
	}
	frames = h.framesAfter(l.after)
	l.after = max(l.after, h.last)
	h.listeners[l] = struct{}{}
	h.log.AddPages(1)
	return frames, h.floor, nil
}

// Next returns the next frame (JSON), nil when there is none yet, and ErrBehind when CatchUp must be called, or the error
// when the listener has ended: ErrSlow, ErrLoggedOut, ErrClosed, or CatchUp's store.ErrUnavailable; nil after Close. Frames are shared among listeners and must not
// be changed.
func (l *Listener) Next() (frame []byte, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		if l.behind {
			return nil, ErrBehind
		}
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
	l.closed = true
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
