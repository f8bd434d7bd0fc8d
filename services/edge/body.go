package edge

import (
	"errors"
	"io"
	"net/http"
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

// timedReader reads a body with a limit for the time without a byte, and an end of the time for all.
type timedReader struct {
	body    io.Reader
	client  *http.ResponseController
	timeout time.Duration
	end     time.Time
}

// Read reads some bytes.
func (t *timedReader) Read(p []byte) (int, error) {
	deadline := time.Now().Add(t.timeout)
	if deadline.After(t.end) {
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
