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

// handle sends a request to the servers that it is for.
func (b *Balancer) handle(w http.ResponseWriter, r *http.Request) {
	out := &answer{ResponseWriter: w, b: b}
	if r.ContentLength > maxBody {
		b.refuse(out, r, http.StatusRequestEntityTooLarge)
		return
	}
	if r.ContentLength != 0 {
		r.Body = newBody(w, r.Body)
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		r.Header.Del("Upgrade") // no other protocol may pass unseen
	}
	// The site's router takes no notice of case or of a last slash, so what is kept inside must not depend on them.
	switch where := strings.ToLower(path.Clean("/" + r.URL.Path)); {
	case r.Method == http.MethodConnect, where == "/metrics", where == "/healthz", where == "/readyz":
		b.refuse(out, r, http.StatusNotFound)
	case where == "/api/randoms", where == "/test/randoms", where == "/test/random":
		b.toDraws.ServeHTTP(out, r)
	default:
		b.toSite.ServeHTTP(out, r)
	}
}

func (b *Balancer) newProxy(to *pool) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:    to,
		Rewrite:      rewrite,
		BufferPool:   &buffers{},
		ErrorHandler: b.failed,
		ErrorLog:     slog.NewLogLogger(b.log.Handler(), slog.LevelWarn),
	}
}

// rewrite makes the servers' request of a client's. ReverseProxy has removed the forwarding headers that the client
// sent.
func rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme = "http"              // each try names its server
	r.Out.URL.RawQuery = r.In.URL.RawQuery // unread: it is the server that says what is wrong with it
	r.Out.Header.Del("Expect")             // 100-continue was for us
	r.SetXForwarded()
	if r.Out.Header.Get("X-Request-Id") == "" {
		r.Out.Header.Set("X-Request-Id", rand.Text())
	}
	if p := strings.TrimSuffix(r.Out.URL.Path, "/"); strings.EqualFold(p, "/test/random") {
		r.Out.URL.Path, r.Out.URL.RawPath = "/test/randoms", ""
	}
}

// failed answers a request that got no answer from a server.
func (b *Balancer) failed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // the client has gone: nobody to answer
	}
	status := http.StatusBadGateway
	var bad bodyError
	switch {
	case errors.As(err, &bad):
		b.refuse(w, r, bad.status())
		return
	case errors.Is(err, errNoServer):
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	case timedOut(err):
		status = http.StatusGatewayTimeout
	}
	b.log.Warn("request failed", "method", r.Method, "path", r.URL.Path, "status", status, "error", err,
		"request", r.Header.Get("X-Request-Id"))
	b.refuse(w, r, status)
}

// body is a request's body, limited in size and time.
type body struct {
	io.ReadCloser
	client *http.ResponseController
}

func newBody(w http.ResponseWriter, r io.ReadCloser) *body {
	client := http.NewResponseController(w)
	_ = client.SetReadDeadline(time.Now().Add(bodyTimeout)) // every connection of net/http has deadlines
	return &body{http.MaxBytesReader(w, r, maxBody), client}
}

// Read marks errors as the client's fault.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		_ = b.client.SetReadDeadline(time.Time{}) // the wait for the answer is not the client's
	}
	if err != nil && err != io.EOF {
		err = bodyError{err}
	}
	return n, err
}

// bodyError: the client's body could not be read.
type bodyError struct{ error }

func (e bodyError) Unwrap() error { return e.error }

func (e bodyError) status() int {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(e.error, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case timedOut(e.error):
		return http.StatusRequestTimeout
	}
	return http.StatusBadRequest
}

// answer is what the client gets: within a limited time, and told to come on a new connection during the drain.
type answer struct {
	http.ResponseWriter
	b *Balancer
}

// Unwrap serves http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader sends the status.
func (a *answer) WriteHeader(status int) {
	if status >= 200 {
		_ = http.NewResponseController(a.ResponseWriter).SetWriteDeadline(time.Now().Add(sendTimeout))
		if a.b.draining.Err() != nil {
			a.Header().Set("Connection", "close")
		}
	}
	a.ResponseWriter.WriteHeader(status)
}

// buffers are what answers are copied with.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[32 << 10]byte); ok {
		return buf[:]
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(buf []byte) { b.pool.Put((*[32 << 10]byte)(buf)) }
