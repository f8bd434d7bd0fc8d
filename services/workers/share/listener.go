package share

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// MaxProcesses is how many processes can share one socket: the number of rows of the page.
const MaxProcesses = 400

// Listener is a process's share of a Socket. Close returns only when the accept loop has seen it: from then on every
// accepted connection is in its server's hands. A server that drains could otherwise count its connections, find none,
// and end while the last one is on its way from the kernel.
type Listener struct {
	net.Listener
	accepting atomic.Bool // Accept was called
	once      sync.Once
	closed    chan struct{} // closed when Accept has returned net.ErrClosed

	closeTimeout time.Duration // how long Close waits for an accept loop that is busy with something else

	counted, own *counters // of all processes and of this one; see Acquire
	seed         []byte
	balancer     *balancer // nil in a process without siblings
}

func newListener(inner net.Listener) *Listener {
	return &Listener{Listener: inner, closed: make(chan struct{}), closeTimeout: 50 * time.Millisecond}
}

// Inherit returns this process's share of the socket whose descriptors it inherited (Socket.Files), and takes the files
// over. row is the process's row of the page, 0 to MaxProcesses-1, which its parent chose.
func Inherit(socket, pageFile *os.File, row int) (*Listener, error) {
	defer socket.Close()
	p, err := openPage(pageFile)
	if err != nil {
		return nil, fmt.Errorf("inherited page: %w", err)
	}
	ln, err := net.FileListener(socket)
	if err != nil {
		return nil, fmt.Errorf("inherited socket: %w", err)
	}
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		ln.Close()
		return nil, fmt.Errorf("inherited socket: it listens on %s, not on TCP", ln.Addr().Network())
	}
	fair, err := p.listener(tcp, row)
	if err != nil {
		return nil, err
	}
	l := newListener(fair)
	l.counted, l.own, l.seed = p.countersOf(row)
	l.balancer = newBalancer(p, row)
	return l, nil
}

// Accept returns the next connection, or net.ErrClosed after Close.
func (l *Listener) Accept() (net.Conn, error) {
	l.accepting.Store(true)
	conn, err := l.Listener.Accept()
	if errors.Is(err, net.ErrClosed) {
		l.once.Do(func() { close(l.closed) })
	}
	return conn, err
}

// RejectNew makes the kernel ignore new connection attempts in all processes that hold the socket, while connections
// that are established already can still be accepted. It is for the moment before the last Close of a socket.
func (l *Listener) RejectNew() error {
	if conn, ok := l.Listener.(syscall.Conn); ok {
		return rejectNew(conn)
	}
	return nil
}

// Close closes this process's descriptor; the socket stays open in the others.
func (l *Listener) Close() error {
	err := l.Listener.Close()
	if l.accepting.Load() {
		select {
		case <-l.closed:
		case <-time.After(l.closeTimeout):
		}
	}
	return err
}
