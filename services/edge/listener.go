package edge

import (
	"container/list"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	// writePiece is how many bytes of an answer the client must take within the limit of time. All of a long answer at
	// once may take longer on a slow line.
	writePiece = 16 << 10
	// minHeld is the length of a body from which writeTogether makes a difference.
	minHeld = 2 << 10
	// maxUnsent is how many bytes of a connection may wait in the kernel. Without the limit megabytes do: a client on a
	// slow line gets the acknowledgement of its message only after them, and progress on them is not seen.
	maxUnsent = 16 << 10

	// A rejected request is read for so long after the answer, in all and without a byte.
	lingerTime    = 10 * time.Second
	lingerSilence = 2 * time.Second

	reservedDescriptors = 32                     // for all but connections of clients and their requests
	minIdle             = 500 * time.Millisecond // before a connection is closed for another: a request may just arrive
	roomPollInterval    = 10 * time.Millisecond
	exhaustedInterval   = time.Minute // between two log lines
)

// tooManyConnections is the answer to a connection over the limit. It fits into the kernel's buffer of a new connection,
// so that writing it does not block.
var tooManyConnections = []byte("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nConnection: close\r\n" +
	"Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nContent-Length: 57\r\n\r\n" +
	"Demasiadas conexiones. / Too many connections: try later.")

// clientListener accepts the connections of clients within the limits.
type clientListener struct {
	net.Listener
	b *Balancer
}

// Accept returns a *clientConn. It waits while there is no descriptor for another connection; a listener that ended with
// such an error would end the service for everybody.
func (l *clientListener) Accept() (net.Conn, error) {
	b := l.b
	for {
		conn, err := l.Listener.Accept()
		switch {
		case exhausted(err):
			b.freeDescriptors(err)
			continue
		case errors.Is(err, syscall.ECONNABORTED): // the client has given up
			continue
		case err != nil:
			return nil, err
		}
		tcp, ok := conn.(*net.TCPConn)
		if !ok {
			conn.Close()
			return nil, fmt.Errorf("%T is no TCP connection", conn)
		}
		address := remoteAddress(tcp.RemoteAddr())
		if ok, first := b.clients.change(address, 1, 0); !ok {
			if first {
				b.log.Warn("connections rejected: too many of one address", "client", address, "limit", b.config.Limits.Connections)
			}
			_, _ = tcp.Write(tooManyConnections)
			tcp.Close()
			continue
		}
		for b.conns.Load() >= b.maxConns && b.draining.Err() == nil {
			b.freeDescriptors(errMaxConns)
		}
		limitUnsent(tcp)
		b.conns.Add(1)
		return &clientConn{Conn: tcp, tcp: tcp, b: b, address: address}, nil
	}
}

// clientConn is a client's connection. Each piece of an answer that it writes has its own limit of time.
type clientConn struct {
	net.Conn // tcp
	tcp      *net.TCPConn
	b        *Balancer
	address  netip.Addr
	closed   sync.Once

	held *[]byte // where Write keeps what it gets; nil: it sends it

	// Balancer.idle guards both.
	idle      *list.Element // nil while the connection is in use
	idleSince time.Time
}

// clientConnKey is the key of a request's clientConn in its context.
type clientConnKey struct{}

// writeTogether sends an answer that is known completely, of which write passes net/http a body of that length, with as few
// system calls as it takes. net/http would make one for the first 4 KiB, with the header, and one for the rest.
func writeTogether(r *http.Request, w http.ResponseWriter, length int, write func() error) error {
	c, _ := r.Context().Value(clientConnKey{}).(*clientConn)
	if c == nil || length < minHeld {
		return write()
	}
	held := buffers.Get().(*[]byte)
	defer putBuffer(held)
	*held = (*held)[:0]
	c.held = held
	err := write()
	if err == nil {
		err = http.NewResponseController(w).Flush()
	}
	c.held = nil
	if err == nil {
		_, err = c.Write(*held)
	}
	return err
}

// Write sends a part of an answer.
func (c *clientConn) Write(p []byte) (n int, err error) {
	if c.held != nil {
		*c.held = append(*c.held, p...)
		return len(p), nil
	}
	for n < len(p) && err == nil {
		_ = c.SetWriteDeadline(time.Now().Add(c.b.config.Limits.ClientTimeout)) // fails as Write does
		var written int
		written, err = c.tcp.Write(p[n:min(n+writePiece, len(p))])
		n += written
	}
	return n, err
}

// CloseWrite sends the end of the stream and discards what the client still sends. net/http calls it after its own answer
// to a header that is too large: see rejectUnread for the reason.
func (c *clientConn) CloseWrite() error {
	if err := c.tcp.CloseWrite(); err != nil {
		return err
	}
	end := time.Now().Add(lingerTime)
	discarded := make([]byte, 4<<10)
	var err error
	for err == nil {
		_ = c.SetReadDeadline(time.Now().Add(min(lingerSilence, time.Until(end)))) // fails as Read does
		_, err = c.Read(discarded)
	}
	return nil
}

// Close ends the connection and takes it off the counts.
func (c *clientConn) Close() error {
	c.closed.Do(func() {
		c.b.idle.remove(c)
		c.b.clients.change(c.address, -1, 0)
		c.b.conns.Add(-1)
	})
	return c.tcp.Close()
}

// setState follows a connection's use. One whose client has sent no byte of a request is idle.
func (c *clientConn) setState(state http.ConnState) {
	if state == http.StateNew || state == http.StateIdle {
		c.b.idle.add(c)
	} else {
		c.b.idle.remove(c)
	}
}

// idleConns are the connections without a request, the one that has been idle longest first.
type idleConns struct {
	mu   sync.Mutex
	list list.List
}

func (i *idleConns) add(c *clientConn) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if c.idle == nil {
		c.idle, c.idleSince = i.list.PushBack(c), time.Now()
	}
}

func (i *idleConns) remove(c *clientConn) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if c.idle != nil {
		i.list.Remove(c.idle)
		c.idle = nil
	}
}

// closeOldest closes the connection that has been idle longest. It returns false when none has been for minIdle.
func (i *idleConns) closeOldest() bool {
	c := i.oldest()
	if c != nil {
		c.Close()
	}
	return c != nil
}

// oldest returns the connection that has been idle longest, or nil when none has been for minIdle.
func (i *idleConns) oldest() *clientConn {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.list.Len() == 0 {
		return nil
	}
	c := i.list.Front().Value.(*clientConn)
	if time.Since(c.idleSince) < minIdle {
		return nil
	}
	return c
}

// errMaxConns means that more connections could use up the descriptors.
var errMaxConns = errors.New("as many connections as the limit of open files allows")

// exhausted tells whether an error is a lack of this machine's means, which is no fault of an upstream and passes.
func exhausted(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// freeDescriptors closes the oldest idle connection of a client, or else waits a moment, and closes the idle ones to the
// upstreams unless the cause is errMaxConns. It logs the cause, once in exhaustedInterval.
func (b *Balancer) freeDescriptors(cause error) {
	now := time.Now()
	if last := b.exhaustedLogged.Load(); last == nil || now.Sub(*last) > exhaustedInterval {
		b.exhaustedLogged.Store(&now)
		b.log.Warn("idle connections are closed: descriptors are used up", "cause", cause, "connections", b.conns.Load())
	}
	if cause != errMaxConns {
		for _, u := range b.upstreams() {
			u.pooled.closeIdle(0)
		}
	}
	if !b.idle.closeOldest() {
		time.Sleep(roomPollInterval)
	}
}

// maxConnections is how many connections of clients leave a descriptor for the request of each.
func maxConnections() int64 {
	const most = 1 << 20
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > 2*most {
		return most
	}
	return max(1, (int64(limit.Cur)-reservedDescriptors)/2)
}

// limitUnsent sets maxUnsent, on Linux.
func limitUnsent(conn *net.TCPConn) {
	const notsentLowat = 25 // TCP_NOTSENT_LOWAT: syscall has no name for it
	if runtime.GOOS != "linux" {
		return
	}
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { // fails only for another kind of socket
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, notsentLowat, maxUnsent)
		})
	}
}
