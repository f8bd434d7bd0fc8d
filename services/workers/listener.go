package workers

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// descriptor returns another descriptor of a listening socket, to hand down. TCPListener.File's would do, were it not
// that starting a process with it makes it blocking and with it, since they are one socket, the listeners of all
// workers: one that loses the race for a connection would be stuck in accept until the next comes, even when it drains.
// blocking: the way that systemd hands down its sockets.
func descriptor(ln *net.TCPListener, blocking bool) (*os.File, error) {
	raw, err := ln.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var failed error
	err = raw.Control(func(s uintptr) {
		if fd, failed = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0); failed == nil && blocking {
			failed = unix.SetNonblock(fd, false)
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("listener's descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), "listener"), nil
}

// inherited returns worker i's listener on the socket that it inherited; it takes over file.
func inherited(file *os.File, t *turns, i int) (net.Listener, error) {
	defer file.Close()
	ln, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("inherited socket: %w", err)
	}
	plain, ok := ln.(*net.TCPListener)
	if !ok {
		ln.Close()
		return nil, fmt.Errorf("inherited socket: it listens on %s, not on TCP", ln.Addr().Network())
	}
	share, err := t.shareOf(plain, i)
	if err != nil {
		return nil, err
	}
	return newListener(share), nil
}

// listener is what a worker accepts from. Its Close returns when the accept loop has noticed: then every connection that
// was accepted is in its server's hands. Otherwise a server that drains might count its connections, find none, and end,
// while the last one is on its way from the kernel.
type listener struct {
	net.Listener
	used    atomic.Bool
	once    sync.Once
	noticed chan struct{}
}

func newListener(inner net.Listener) *listener {
	return &listener{Listener: inner, noticed: make(chan struct{})}
}

// handover is how long Close waits for an accept loop that does something else.
const handover = 50 * time.Millisecond

func (l *listener) Accept() (net.Conn, error) {
	l.used.Store(true)
	conn, err := l.Listener.Accept()
	if errors.Is(err, net.ErrClosed) {
		l.once.Do(func() { close(l.noticed) })
	}
	return conn, err
}

// Quiet is for the last moments of a server, before its last Close: connections that are there are accepted, new ones are
// left to other servers. It quiets the socket in all processes that hold it.
func (l *listener) Quiet() error {
	if conn, ok := l.Listener.(syscall.Conn); ok {
		return quiet(conn)
	}
	return nil
}

func (l *listener) Close() error {
	err := l.Listener.Close()
	if l.used.Load() {
		select {
		case <-l.noticed:
		case <-time.After(handover):
		}
	}
	return err
}
