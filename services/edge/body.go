package edge

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"sync/atomic"
	"time"
)

// errBodyTooLarge means that a body has more bytes than Limits.Body.
var errBodyTooLarge = errors.New("the body is too large")

// readBody reads a request's body and sets its length. An error is the client's fault.
func (b *Balancer) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength == 0 {
		return nil, nil
	}
	limit := int64(b.config.Limits.Body)
	if r.ContentLength > limit {
		return nil, errBodyTooLarge
	}
	client := http.NewResponseController(w)
	timeout := b.config.Limits.ClientTimeout
	timed := &timedReader{r.Body, client, timeout, time.Now().Add(2 * timeout)}
	content, err := io.ReadAll(io.LimitReader(timed, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > limit {
		return nil, errBodyTooLarge
	}
	_ = client.SetReadDeadline(time.Time{}) // the time for the answer is not limited by it
	r.ContentLength = int64(len(content))
	return content, nil
}

// requestBody is a request's body as it is sent to an upstream.
type requestBody struct {
	start []byte    // all of it, if rest is nil
	rest  *bodyRest // what follows
}

// maxHeldBody is how many bytes of a body a balancer of Config.Dynamic reads before it chooses an upstream.
const maxHeldBody = 64 << 10

// readStart reads a short body whole, and of a longer one the first maxHeldBody bytes. An error is the client's fault.
func (b *Balancer) readStart(w http.ResponseWriter, r *http.Request) (body requestBody, err error) {
	if r.ContentLength == 0 {
		return body, nil
	}
	client := http.NewResponseController(w)
	timed := &timedReader{r.Body, client, b.config.Limits.ClientTimeout, time.Time{}}
	body.start, err = io.ReadAll(io.LimitReader(timed, maxHeldBody))
	if err != nil {
		return body, err
	}
	if len(body.start) == maxHeldBody && r.ContentLength != maxHeldBody {
		body.rest = &bodyRest{body: timed, client: client, chunked: r.ContentLength < 0, ended: make(chan struct{})}
		return body, client.EnableFullDuplex() // an upstream may answer before the body's end
	}
	_ = client.SetReadDeadline(time.Time{}) // the time for the answer is not limited by it
	r.ContentLength = int64(len(body.start))
	return body, nil
}

// bodyRest is the part of a long body that is sent to an upstream while it comes from the client.
type bodyRest struct {
	body    io.Reader
	client  *http.ResponseController
	chunked bool // its length is not known
	began   bool
	ended   chan struct{}         // closed when no goroutine reads the body any more
	err     atomic.Pointer[error] // of the client; nil: none
	// answered: the header of the answer has come, so that no limit of time for it holds any more.
	answered atomic.Bool
}

// appendStart appends the first part of the body.
func (r *bodyRest) appendStart(to, start []byte) []byte {
	if !r.chunked {
		return append(to, start...)
	}
	to = fmt.Appendf(to, "%x\r\n", len(start))
	to = append(to, start...)
	return append(to, "\r\n"...)
}

// sendTo begins to send the rest. The upstream may answer meanwhile; it has answerTimeout for it from the end of the body on.
// What the client does not send ends the connection, so that the upstream does not take a part for the whole.
func (r *bodyRest) sendTo(c *upstreamConn) {
	r.began = true
	var to io.Writer = c.Conn
	if r.chunked {
		to = httputil.NewChunkedWriter(c.Conn)
	}
	_ = c.SetWriteDeadline(time.Time{}) // an upstream may read slowly
	go func() {
		defer close(r.ended)
		_, err := io.CopyBuffer(struct{ io.Writer }{to}, r, make([]byte, writePiece))
		switch {
		case r.failed() != nil:
			c.Close()
			return
		case err != nil: // the upstream has closed, perhaps after an answer
			return
		}
		if r.chunked {
			_ = to.(io.Closer).Close()       // writes the last chunk
			_, _ = io.WriteString(c, "\r\n") // there are no trailers
		}
		_ = c.SetReadDeadline(time.Now().Add(answerTimeout))
		if r.answered.Load() {
			_ = c.SetReadDeadline(time.Time{})
		}
	}()
}

// onAnswer lifts the limit of time for the answer's header.
func (r *bodyRest) onAnswer(c *upstreamConn) {
	r.answered.Store(true)
	_ = c.SetReadDeadline(time.Time{})
}

// complete tells whether the whole body was sent, or no more of it will be.
func (r *bodyRest) complete() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// Read reads a piece from the client and remembers its error.
func (r *bodyRest) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	if err != nil && err != io.EOF {
		r.err.Store(&err)
	}
	return n, err
}

// end stops the sending, and returns when it has ended.
func (r *bodyRest) end() {
	if !r.began {
		return
	}
	if !r.complete() { // the answer came first
		_ = r.client.SetReadDeadline(time.Unix(1, 0))
		<-r.ended
	}
	_ = r.client.SetReadDeadline(time.Time{})
}

// failed returns why the client's body could not be read to its end, nil if it could so far.
func (r *bodyRest) failed() error {
	if err := r.err.Load(); err != nil {
		return *err
	}
	return nil
}

// timedReader reads a body with a limit for the time without a byte, and an end of the time for all; zero: none.
type timedReader struct {
	body    io.Reader
	client  *http.ResponseController
	timeout time.Duration
	end     time.Time
}

// Read reads some bytes.
func (t *timedReader) Read(p []byte) (int, error) {
	deadline := time.Now().Add(t.timeout)
	if !t.end.IsZero() && deadline.After(t.end) {
		deadline = t.end
	}
	_ = t.client.SetReadDeadline(deadline) // every connection of net/http has deadlines
	return t.body.Read(p)
}

// rejectUnread answers a request whose body was not read to its end, and then discards the rest, for lingerTime at most:
// closing the connection before would reset it, and the client could lose the answer (RFC 9112, 9.6). A client that
// waits for a 100 sends none, and what follows a broken or late body is not waited for.
func (b *Balancer) rejectUnread(w http.ResponseWriter, r *http.Request, status int) {
	client := http.NewResponseController(w)
	_ = client.EnableFullDuplex() // otherwise net/http would read before it sends the answer, or not at all
	w.Header().Set("Connection", "close")
	b.writeError(w, r, status)
	if status == http.StatusRequestTimeout || status == http.StatusBadRequest || r.Header.Get("Expect") != "" {
		return
	}
	if client.Flush() == nil {
		_ = client.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.Copy(io.Discard, r.Body)
	}
}

// bodyStatus is the answer to a body that could not be read: 408, 413 or 400. Without an error it is 0.
func bodyStatus(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errBodyTooLarge):
		return http.StatusRequestEntityTooLarge
	case timedOut(err):
		return http.StatusRequestTimeout
	}
	return http.StatusBadRequest
}
