package edge

import (
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"path"
	"strings"
	"sync"
	"time"
)

// handle checks a request and sends it to the pool of its path.
func (b *Balancer) handle(w http.ResponseWriter, r *http.Request) {
	out := &responseWriter{ResponseWriter: w, b: b}
	if r.ContentLength > maxBody {
		b.writeError(out, r, http.StatusRequestEntityTooLarge)
		return
	}
	if r.ContentLength != 0 { // -1 is an unknown length: that body is limited while it is read
		r.Body = newRequestBody(w, r.Body)
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		r.Header.Del("Upgrade") // no other protocol may bypass the checks of HTTP
	}
	// The site's router ignores case and a last slash, so the paths that are not for clients must not depend on them.
	switch route := strings.ToLower(path.Clean("/" + r.URL.Path)); {
	case r.Method == http.MethodConnect, route == "/metrics", route == "/healthz", route == "/readyz":
		b.writeError(out, r, http.StatusNotFound)
	case route == "/api/randoms", route == "/test/randoms", route == "/test/random":
		b.toDraws.ServeHTTP(out, r)
	default:
		b.toSite.ServeHTTP(out, r)
	}
}

// newProxy returns the proxy in front of a pool. The pool decides which upstream gets a request.
func (b *Balancer) newProxy(to *pool) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:    to,
		Rewrite:      rewrite,
		BufferPool:   &copyBuffers{},
		ErrorHandler: b.handleProxyError,
		ErrorLog:     slog.NewLogLogger(b.log.Handler(), slog.LevelWarn),
	}
}

// rewrite turns a client's request into the upstream's. ReverseProxy has removed the forwarding headers that the client
// sent.
func rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme = "http"              // send sets the host
	r.Out.URL.RawQuery = r.In.URL.RawQuery // unparsed: the site answers a wrong query with its reason
	r.Out.Header.Del("Expect")             // the balancer has answered 100-continue
	r.SetXForwarded()
	if r.Out.Header.Get("X-Request-Id") == "" {
		r.Out.Header.Set("X-Request-Id", rand.Text())
	}
	if p := strings.TrimSuffix(r.Out.URL.Path, "/"); strings.EqualFold(p, "/test/random") {
		r.Out.URL.Path, r.Out.URL.RawPath = "/test/randoms", ""
	}
}

// handleProxyError answers a request that got no answer from an upstream.
func (b *Balancer) handleProxyError(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // the client has disconnected
	}
	if bad, ok := errors.AsType[bodyError](err); ok {
		b.writeError(w, r, bad.status())
		return
	}
	status := http.StatusBadGateway
	switch {
	case errors.Is(err, errNoUpstream):
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	case timedOut(err):
		status = http.StatusGatewayTimeout
	}
	b.log.Warn("request failed", "method", r.Method, "path", r.URL.Path, "status", status, "error", err,
		"request", r.Header.Get("X-Request-Id"))
	b.writeError(w, r, status)
}

// requestBody is a request's body, limited in size and time.
type requestBody struct {
	io.ReadCloser
	client *http.ResponseController
}

// newRequestBody limits the body of a request that w answers. The time starts now.
func newRequestBody(w http.ResponseWriter, r io.ReadCloser) *requestBody {
	client := http.NewResponseController(w)
	_ = client.SetReadDeadline(time.Now().Add(bodyTimeout)) // every connection of net/http has deadlines
	return &requestBody{http.MaxBytesReader(w, r, maxBody), client}
}

// Read wraps errors in bodyError: they are the client's fault.
func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		_ = b.client.SetReadDeadline(time.Time{}) // the time for the answer is not limited by it
	}
	if err != nil && err != io.EOF {
		err = bodyError{err}
	}
	return n, err
}

// bodyError means that the client's body could not be read.
type bodyError struct{ error }

// Unwrap is for errors.AsType.
func (e bodyError) Unwrap() error { return e.error }

// status is the answer for the client: 408, 413 or 400.
func (e bodyError) status() int {
	if _, ok := errors.AsType[*http.MaxBytesError](e.error); ok {
		return http.StatusRequestEntityTooLarge
	}
	if timedOut(e.error) {
		return http.StatusRequestTimeout
	}
	return http.StatusBadRequest
}

// responseWriter limits the time in which the client may take the answer, and closes the connection after it during the
// drain, so that the client's next request goes to the balancer's successor.
type responseWriter struct {
	http.ResponseWriter
	b *Balancer
}

// Unwrap is for http.ResponseController.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader sends the status, and starts the time limit unless the status is informational (1xx).
func (w *responseWriter) WriteHeader(status int) {
	if status >= 200 {
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(sendTimeout))
		if w.b.draining.Err() != nil {
			w.Header().Set("Connection", "close")
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// copyBuffers are reused by ReverseProxy to copy answers. Without them it allocates 32 KB for each.
type copyBuffers struct{ pool sync.Pool }

// Get returns a buffer with any contents.
func (b *copyBuffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[32 << 10]byte); ok {
		return buf[:]
	}
	return make([]byte, 32<<10)
}

// Put makes a buffer that Get returned available again.
func (b *copyBuffers) Put(buf []byte) { b.pool.Put((*[32 << 10]byte)(buf)) }
