package web

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"
)

// Limits of a lingering close.
const (
	lingerTime = 10 * time.Second // in all
	// rejectedSilence is how long the client of a rejected request may send nothing before its connection is closed,
	// closedSilence how long another one that was told to close it.
	rejectedSilence = 2 * time.Second
	closedSilence   = 200 * time.Millisecond
)

// writePiece is how many bytes are written at a time. Each piece has ClientTimeout, so that a slow client may take a large
// answer, and one that takes nothing may not. An answer that fits into one is written at once: a process that is killed has
// sent all of it or nothing, and a proxy that got nothing can ask another server. Almost all answers fit.
const writePiece = 16 << 10

// clientConn is the connection of a client of HTTP. It ends when the client takes nothing, and it can be closed while the
// client is still sending: a plain close then resets the connection, and the client (nginx, too) may see a broken write
// instead of the answer. RFC 9112 (9.6) describes the lingering close.
type clientConn struct {
	net.Conn // not *net.TCPConn, whose ReadFrom would write without a deadline
	tcp      *net.TCPConn
	timeout  time.Duration // of a piece

	silence atomic.Int64 // of a lingering close, nanoseconds; 0: a plain close
	// buffer is what fasthttp reads requests into, as many bytes as bufferSize. See Read.
	buffer     []byte
	bufferSize int
	// waiting is since when the server waits for a request or for its rest, as Unix time in nanoseconds; 0 while a request
	// is answered. receiving: a part of the request has come.
	waiting   atomic.Int64
	receiving atomic.Bool
	// reads is how often Read was called. pipelined: a request came together with the one before it, so that a close after
	// an answer could take requests with it. See balance.
	reads         atomic.Int64
	answeredReads int64 // reads when the last request was answered
	pipelined     bool
}

func newClientConn(tcp *net.TCPConn, timeout time.Duration, bufferSize int) *clientConn {
	return &clientConn{Conn: tcp, tcp: tcp, timeout: timeout, bufferSize: bufferSize}
}

// tcpConn is the TCP connection beneath the one that fasthttp handles, whose deadlines are then the caller's. Connections of
// another kind, as tests have them, are returned as they are.
func tcpConn(c net.Conn) net.Conn {
	if conn, ok := c.(*clientConn); ok {
		return conn.tcp
	}
	return c
}

// SyscallConn is net.TCPConn's.
func (c *clientConn) SyscallConn() (syscall.RawConn, error) { return c.tcp.SyscallConn() }

// Read keeps fasthttp's buffer, which the first read into it gets as a whole: fasthttp does not tell what it has received of a
// header that does not fit, and the answer depends on it.
func (c *clientConn) Read(p []byte) (int, error) {
	c.reads.Add(1)
	if len(p) == c.bufferSize {
		c.buffer = p
	}
	return c.tcp.Read(p)
}

// Write fails when the client takes nothing for the timeout.
func (c *clientConn) Write(p []byte) (written int, err error) {
	for written < len(p) {
		if err := c.tcp.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
			return written, err
		}
		n, err := c.tcp.Write(p[written:min(len(p), written+writePiece)])
		written += n
		if err != nil && (n == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return written, err
		}
	}
	return written, nil
}

// lingerAtClose makes Close wait for a client that may still be sending, until it is silent for that long.
func (c *clientConn) lingerAtClose(silence time.Duration) {
	c.silence.Store(max(c.silence.Load(), int64(silence)))
}

// Close sends what was written and the end of the stream. In a lingering close it then discards what the client still
// sends, until the client closes or the limits are reached. A second call closes at once.
func (c *clientConn) Close() error {
	if silence := time.Duration(c.silence.Swap(0)); silence > 0 && c.tcp.CloseWrite() == nil {
		end := time.Now().Add(lingerTime)
		discarded := make([]byte, 4<<10)
		var err error
		for err == nil {
			// SetReadDeadline fails only when the connection is closed, as Read then does.
			_ = c.tcp.SetReadDeadline(time.Now().Add(min(silence, time.Until(end))))
			_, err = c.tcp.Read(discarded)
		}
	}
	return c.tcp.Close()
}

// closeAfter closes the connection after the answer of c, without losing it. rejected: a part of the request may not
// have been read.
func closeAfter(c *fasthttp.RequestCtx, rejected bool) {
	c.SetConnectionClose()
	silence := closedSilence
	if rejected {
		silence = rejectedSilence
	}
	if conn, ok := c.Conn().(*clientConn); ok {
		conn.lingerAtClose(silence)
	}
}

// trackConn keeps conns up to date; it is fasthttp's ConnState hook. A hijacked connection is a websocket from then on.
func (s *Site) trackConn(c net.Conn, state fasthttp.ConnState) {
	switch state {
	case fasthttp.StateNew:
		s.conns.add(c)
	case fasthttp.StateClosed, fasthttp.StateHijacked:
		s.conns.remove(c)
	}
	if conn, ok := c.(*clientConn); ok {
		conn.receiving.Store(state == fasthttp.StateActive)
		conn.waiting.Store(time.Now().UnixNano())
	}
}

// received notes that a request was received as a whole.
func received(c *fasthttp.RequestCtx) {
	if conn, ok := c.Conn().(*clientConn); ok {
		conn.waiting.Store(0)
	}
}
