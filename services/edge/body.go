package edge

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"time"
)

// errBodyTooLarge means that a body has more bytes than Limits.Body.
var errBodyTooLarge = errors.New("the body is too large")

// readBody reads a request's body and puts what it read in its place. An error is the client's fault.
func (b *Balancer) readBody(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength == 0 {
		return nil
	}
	limit := int64(b.config.Limits.Body)
	if r.ContentLength > limit {
		return errBodyTooLarge
	}
	client := http.NewResponseController(w)
	timeout := b.config.Limits.ClientTimeout
	timed := &timedReader{r.Body, client, timeout, time.Now().Add(2 * timeout)}
	content, err := io.ReadAll(io.LimitReader(timed, limit+1))
	if err != nil {
		return err
	}
	if int64(len(content)) > limit {
		return errBodyTooLarge
	}
	_ = client.SetReadDeadline(time.Time{}) // the time for the answer is not limited by it
	r.Body, r.ContentLength, r.TransferEncoding, r.Trailer = io.NopCloser(bytes.NewReader(content)), int64(len(content)), nil, nil
	return nil
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

// bodyStatus is the answer to a body that could not be read: 408, 413 or 400.
func bodyStatus(err error) int {
	switch {
	case errors.Is(err, errBodyTooLarge):
		return http.StatusRequestEntityTooLarge
	case timedOut(err):
		return http.StatusRequestTimeout
	}
	return http.StatusBadRequest
}
