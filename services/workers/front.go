package workers

import (
	"context"
	"net"

	"balanza/services/workers/share"
)

// Front shares the requests of a port among programs that have a port of their own each.
type Front interface {
	// Serve accepts connections from ln until ctx ends, and returns when the requests in flight have ended, or with the
	// reason why it cannot accept any more. Requests that come before the first Add wait.
	Serve(ctx context.Context, ln net.Listener) error
	// Add gives requests to the program at an address, host:port, from now on.
	Add(address string)
	// Remove gives it no more, and returns when it has none in flight or when ctx ends.
	Remove(ctx context.Context, address string)
	// Requests is how many requests the program has answered.
	Requests(address string) int64
}

// runningFront is a Front that serves. A nil one is none: its methods do nothing.
type runningFront struct {
	Front
	stopServing context.CancelFunc
	failures    chan error    // why it ended by itself
	ended       chan struct{} // closed when it serves no more
	abandoned   bool
}

// startFront serves on the socket. onEnd is called when it does no more.
func startFront(front Front, socket *share.Socket, onEnd func()) *runningFront {
	ctx, stop := context.WithCancel(context.Background())
	f := &runningFront{Front: front, stopServing: stop, failures: make(chan error, 1), ended: make(chan struct{})}
	ln, err := socket.InProcess()
	if err != nil {
		f.failures <- err
		close(f.ended)
		return f
	}
	go func() {
		defer onEnd()
		defer close(f.ended)
		if err := front.Serve(ctx, ln); err != nil && ctx.Err() == nil {
			f.failures <- err
		}
	}()
	return f
}

// failed gives the reason when the front ends by itself.
func (f *runningFront) failed() <-chan error {
	if f == nil {
		return nil
	}
	return f.failures
}

// stop makes the front accept nothing more; the requests in flight go on.
func (f *runningFront) stop() {
	if f != nil {
		f.stopServing()
	}
}

// abandon makes hasEnded true at once: the requests in flight are not waited for.
func (f *runningFront) abandon() {
	if f != nil {
		f.abandoned = true
	}
}

// hasEnded tells whether a front that was stopped has no requests in flight any more.
func (f *runningFront) hasEnded() bool {
	if f == nil || f.abandoned {
		return true
	}
	select {
	case <-f.ended:
		return true
	default:
		return false
	}
}

// endedContext is a context that has ended.
var endedContext = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()
