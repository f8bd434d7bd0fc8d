package web

import (
	"cmp"
	"errors"
	"net"
	"slices"
	"syscall"
	"time"
)

const (
	// A failed accept is tried again after acceptPause, which doubles up to maxAcceptPause.
	acceptPause    = 5 * time.Millisecond
	maxAcceptPause = 100 * time.Millisecond
	// shedConns is how many idle connections are closed when descriptors are used up.
	shedConns = 8
	// minIdle keeps a connection from being closed before its request has had the time to arrive.
	minIdle = 200 * time.Millisecond
	// spareDescriptors is how many descriptors are left to the store, the log and the control socket.
	spareDescriptors = 8
	// recoveryTime without an error ends an outage of the listener for the log.
	recoveryTime = 10 * time.Second
)

// clientListener accepts the connections of clients. A temporary error does not end it; when the process has no
// descriptors left, those that have waited longest for a request are closed.
type clientListener struct {
	net.Listener
	site        *Site
	descriptors int // that the process may have
	failedAt    time.Time
	failing     bool // the log says so
}

func newClientListener(s *Site, ln net.Listener) *clientListener {
	l := &clientListener{Listener: ln, site: s}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		l.descriptors = int(min(limit.Cur, 1<<30))
	}
	return l
}

// Accept returns the next connection. Its errors are permanent.
func (l *clientListener) Accept() (net.Conn, error) {
	for pause := acceptPause; ; pause = min(2*pause, maxAcceptPause) {
		conn, err := l.Listener.Accept()
		if err == nil {
			l.recovered()
			return l.wrap(conn), nil
		}
		if !isTemporary(err) {
			return nil, err
		}
		if outOfDescriptors(err) {
			l.site.shedIdle(shedConns)
		}
		l.failed(err)
		time.Sleep(pause)
	}
}

// wrap makes a connection one with the limits of a client, and makes room for the next one where descriptors run short.
func (l *clientListener) wrap(conn net.Conn) net.Conn {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	if raw, err := tcp.SyscallConn(); err == nil && l.descriptors > 0 {
		_ = raw.Control(func(fd uintptr) { // a new descriptor is the lowest free number
			if int(fd) >= l.descriptors-spareDescriptors {
				l.failed(syscall.EMFILE)
				l.site.shedIdle(1)
			}
		})
	}
	return newClientConn(tcp, l.site.config.Limits.ClientTimeout, l.site.headerBuffer())
}

// failed logs the first of several errors.
func (l *clientListener) failed(err error) {
	l.failedAt = time.Now()
	if l.failing {
		return
	}
	l.failing = true
	if outOfDescriptors(err) {
		l.site.log.Warn("out of file descriptors: idle connections are closed", "limit", l.descriptors, "error", err)
	} else {
		l.site.log.Warn("accept failed, trying again", "error", err)
	}
}

func outOfDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// recovered logs the end of an outage, after recoveryTime without an error.
func (l *clientListener) recovered() {
	if l.failing && time.Since(l.failedAt) > recoveryTime {
		l.failing = false
		l.site.log.Info("connections are accepted again without errors")
	}
}

// isTemporary tells whether accept may succeed later: the error concerns the lack of something, or the connection that
// was to be accepted (accept(2), "Error handling").
func isTemporary(err error) bool {
	number, ok := errors.AsType[syscall.Errno](err)
	return ok && slices.Contains([]syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR, syscall.EAGAIN,
		syscall.EPERM, syscall.EPROTO, syscall.ENETDOWN, syscall.ENETUNREACH, syscall.ENOPROTOOPT, syscall.EHOSTDOWN,
		syscall.EHOSTUNREACH, syscall.EOPNOTSUPP, syscall.ECONNRESET,
	}, number)
}

// shedIdle closes up to n of the connections that wait for a request: those first that have sent nothing of it, and of
// these the ones that have waited longest.
func (s *Site) shedIdle(n int) {
	type idle struct {
		conn      *clientConn
		receiving bool
		since     int64
	}
	var all []idle
	latest := time.Now().Add(-minIdle).UnixNano()
	for _, c := range s.conns.all() {
		if conn, ok := c.(*clientConn); ok {
			if since := conn.waiting.Load(); since > 0 && since < latest {
				all = append(all, idle{conn, conn.receiving.Load(), since})
			}
		}
	}
	slices.SortFunc(all, func(a, b idle) int {
		if a.receiving != b.receiving {
			if a.receiving {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.since, b.since)
	})
	for _, i := range all[:min(n, len(all))] {
		if i.conn.waiting.CompareAndSwap(i.since, 0) { // else its request has come meanwhile
			_ = i.conn.tcp.Close()
		}
	}
}
