package edge

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	maxAnswerHeader  = 1 << 20 // bytes of an answer's header, informational answers included
	answerPiece      = 8 << 10 // bytes read at once: a short answer whole, the draw of 1,000 numbers among them
	maxInformational = 10      // answers with a status 1xx before the final one
	// firstWait is how long an answer is waited for before the client's end is watched, which most answers come sooner than.
	firstWait = 20 * time.Millisecond
	// deadlineSlack is by what part of it a limit of time may be exceeded: the deadline of a connection is not set anew for
	// each request, but for the first one in this time.
	deadlineSlack = 8
	// checkAfter is how long a connection must have been idle to be checked before it is used again. One that was used a
	// moment ago is very likely open, and the check is a system call.
	checkAfter = 2 * time.Millisecond
)

// Errors of a connection to an upstream.
var (
	errStale          = errors.New("the upstream closed the idle connection")
	errAnswerTooLarge = fmt.Errorf("the answer's header has more than %d bytes", maxAnswerHeader)
	errInformational  = fmt.Errorf("more than %d informational answers", maxInformational)
	errProtocol       = errors.New("the upstream switched to a protocol that was not requested")
)

// upstreamRequest is what an upstream gets.
type upstreamRequest struct {
	ctx        context.Context // ends when the client disconnects
	in         *http.Request   // the client's
	content    []byte          // request line, header and body as they are sent
	rest       *bodyRest       // of the body, which is longer; nil: content has all
	repeatable bool            // see isRepeatable
	upgrade    bool            // to a websocket
	// informational passes an answer with a status 1xx on.
	informational func(status int, header http.Header)
}

// answer is an upstream's answer. finish must be called.
type answer struct {
	*http.Response               // its Body is of use only while conn is not nil
	from           *upstream     // that sent it
	conn           *upstreamConn // nil when all of the answer has been read
	buffer         *answerBuffer // of the body that has been read; nil: there is none
	length         int           // of that body
	unwatch        func() bool   // stops watching the client's end; nil: nobody watches it
	uncounted      bool          // it is not among the upstream's requests in flight any more
}

// uncount takes the request off those that its upstream has in flight.
func (a *answer) uncount() {
	if !a.uncounted {
		a.uncounted = true
		a.from.inFlight.Add(-1)
	}
}

// watch closes the connection when the client disconnects: nobody waits for the answer then, and the upstream, which
// notices, ends its work.
func (a *answer) watch(ctx context.Context) {
	if a.unwatch == nil {
		conn := a.conn
		a.unwatch = context.AfterFunc(ctx, func() { conn.Close() })
	}
}

// release returns the connection to its pool if the answer was read to its end, or else closes it.
func (a *answer) release(complete bool) {
	if (a.unwatch == nil || a.unwatch()) && complete && a.conn.reusable(a.Response) {
		a.from.pooled.put(a.conn)
	} else {
		a.conn.Close()
	}
	a.conn = nil
}

// finish releases what the answer still holds. A body that was not read to its end ends its connection.
func (a *answer) finish() {
	a.uncount()
	if a.conn != nil {
		a.release(false)
	}
	if a.buffer != nil {
		answerBuffers.Put(a.buffer)
		a.buffer = nil
	}
}

// answerBuffer holds an answer's body, or a piece of it.
type answerBuffer [maxBuffered]byte

var answerBuffers = sync.Pool{New: func() any { return new(answerBuffer) }}

// upstreamConn is a connection to an upstream, used for one request at a time by one goroutine.
type upstreamConn struct {
	net.Conn
	in       *bufio.Reader
	reused   bool      // it has carried another request
	keep     bool      // the current request lets the upstream keep it open
	received int       // bytes since the request was sent
	limit    int       // of received while the header is read; 0: none
	idle     time.Time // since when

	readDeadline, writeDeadline time.Time
}

// dialTCP connects to an upstream, within dialTimeout.
func dialTCP(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	return d.DialContext(ctx, network, address)
}

// Read reads a piece of an answer.
func (c *upstreamConn) Read(p []byte) (int, error) {
	if c.limit > 0 && c.received >= c.limit {
		return 0, errAnswerTooLarge
	}
	n, err := c.Conn.Read(p)
	c.received += n
	return n, err
}

// closed tells whether the upstream has closed the idle connection, or has sent something that belongs to no request.
func (c *upstreamConn) closed() bool {
	raw, err := c.Conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return true
	}
	open := false
	err = raw.Control(func(fd uintptr) {
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		open = err == syscall.EAGAIN || err == syscall.EINTR
	})
	return err != nil || !open
}

// reusable tells whether another request may follow an answer whose body has been read. Bytes that nobody asked for would
// be taken for the next answer.
func (c *upstreamConn) reusable(res *http.Response) bool {
	return c.keep && !res.Close && c.in.Buffered() == 0
}

// exchange sends a request and reads the header of its answer. The goroutine does both itself: http.Transport has two more
// for every connection, and hands each request and answer over.
func (a *answer) exchange(q *upstreamRequest) (err error) {
	c := a.conn
	c.keep, c.received, c.limit = q.repeatable, 0, maxAnswerHeader
	c.limitWrite(answerTimeout)
	// A failed write is not the end: an upstream may answer a body that it does not read to its end, and close then.
	_, sendErr := c.Write(q.content)
	if q.rest != nil {
		a.watch(q.ctx)
		q.rest.sendTo(c)
	} else if err := a.wait(q.ctx); err != nil {
		return cmp.Or(sendErr, err)
	}
	for n := 0; ; n++ {
		if a.Response, err = http.ReadResponse(c.in, q.in); err != nil {
			return cmp.Or(sendErr, err)
		}
		switch status := a.StatusCode; {
		case status == http.StatusSwitchingProtocols && !(q.upgrade && isWebsocket(a.Header)):
			return errProtocol
		case status >= 200 || status == http.StatusSwitchingProtocols:
			c.limit = 0
			c.keep = c.keep && sendErr == nil
			if q.rest != nil {
				q.rest.onAnswer(c)
			}
			return nil
		case n == maxInformational:
			return errInformational
		}
		a.watch(q.ctx) // the next one may take long
		c.limitRead(answerTimeout)
		q.informational(a.StatusCode, a.Header)
	}
}

// wait returns when the answer's header is there, or may take long. Watching the client's end costs a tenth of a short
// request, so it begins only when the header takes longer than firstWait, or comes in pieces.
func (a *answer) wait(ctx context.Context) error {
	c := a.conn
	c.limitRead(firstWait)
	_, err := c.in.Peek(1)
	if err != nil && !timedOut(err) {
		return err
	}
	if header, _ := c.in.Peek(c.in.Buffered()); !bytes.Contains(header, endOfHeader) {
		a.watch(ctx)
		c.limitRead(answerTimeout)
	}
	return nil
}

// endOfHeader is the end of the last field and the empty line.
var endOfHeader = []byte("\r\n\r\n")

// readBody reads the body of a short answer, so that the client gets nothing of one that breaks. Where it returns false the
// answer is longer than maxBuffered, of unknown length, a stream of events or a websocket: it is passed on as it comes.
func (a *answer) readBody(ctx context.Context) (whole bool, err error) {
	c, length := a.conn, a.ContentLength
	if a.Body == http.NoBody && a.StatusCode != http.StatusSwitchingProtocols {
		return true, nil
	}
	whole = length >= 0 && length <= maxBuffered && a.Body != http.NoBody && !isEventStream(a.Header)
	if !whole || length > int64(c.in.Buffered()) { // the rest may take all the time that it needs
		a.watch(ctx)
		c.limitRead(0)
	}
	if whole {
		a.buffer, a.length = answerBuffers.Get().(*answerBuffer), int(length)
		_, err = io.ReadFull(c.in, a.buffer[:a.length])
	}
	return whole && err == nil, err
}

// isEventStream tells whether an answer is a stream of server-sent events.
func isEventStream(h http.Header) bool {
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(kind), "text/event-stream")
}

// limitRead sets how long the upstream may let wait for its next bytes; 0 is no limit.
func (c *upstreamConn) limitRead(limit time.Duration) {
	if deadline, changed := extend(c.readDeadline, limit); changed {
		c.readDeadline = deadline
		_ = c.SetReadDeadline(deadline) // fails as Read does
	}
}

// limitWrite sets how long the upstream may take to read a request.
func (c *upstreamConn) limitWrite(limit time.Duration) {
	if deadline, changed := extend(c.writeDeadline, limit); changed {
		c.writeDeadline = deadline
		_ = c.SetWriteDeadline(deadline) // fails as Write does
	}
}

// extend returns the deadline that a limit of time sets, which is exceeded by up to 1/deadlineSlack of it, and whether it
// differs from the present one.
func extend(deadline time.Time, limit time.Duration) (time.Time, bool) {
	if limit == 0 {
		return time.Time{}, !deadline.IsZero()
	}
	end := time.Now().Add(limit)
	most := end.Add(limit / deadlineSlack)
	if !deadline.Before(end) && !deadline.After(most) {
		return deadline, false
	}
	return most, true
}

// connPool holds the idle connections to an upstream.
type connPool struct {
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	mu   sync.Mutex
	idle []*upstreamConn // the one that was used last is the last one
}

// get takes the connection that was used last, so that those that are not needed become old and are closed. It returns nil
// if there is none.
func (p *connPool) get() *upstreamConn {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			return nil
		}
		c := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if since := time.Since(c.idle); since < checkAfter || since < idleTimeout && !c.closed() {
			return c
		}
		c.Close()
	}
}

// put makes a connection available to the next request.
func (p *connPool) put(c *upstreamConn) {
	c.idle, c.reused = time.Now(), true
	p.mu.Lock()
	full := len(p.idle) >= maxIdleConns
	if !full {
		p.idle = append(p.idle, c)
	}
	p.mu.Unlock()
	if full {
		c.Close()
	}
}

// connect opens a new connection. size is that of its buffer.
func (p *connPool) connect(ctx context.Context, address string, size int) (*upstreamConn, error) {
	conn, err := p.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := &upstreamConn{Conn: conn}
	c.in = bufio.NewReaderSize(c, size)
	return c, nil
}

// closeIdle closes the connections that have been idle for at least that long.
func (p *connPool) closeIdle(least time.Duration) {
	p.mu.Lock()
	n := 0
	for n < len(p.idle) && (least == 0 || time.Since(p.idle[n].idle) >= least) {
		n++
	}
	old := slices.Clone(p.idle[:n])
	p.idle = slices.Delete(p.idle, 0, n)
	p.mu.Unlock()
	for _, c := range old {
		c.Close()
	}
}
