package edge

import (
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	"balanza/services/limits"
)

// requestID names a request in the logs of all tiers and in the answer. The outermost tier makes it.
const requestID = "X-Request-Id"

// edgeToken proves to the servers that a request comes from the balancer.
const edgeToken = "X-Balanza-Edge-Token"

// smallDraw matches the query of a draw of under a million numbers, which takes milliseconds and is not limited. It
// matches the whole query: of "CANT=1&cant=500000000" the server could take the second number.
var smallDraw = regexp.MustCompile(`^cant=\d{1,6}$`)

// handle checks a request, reads its body and sends it to the pool of its path. The whole body, which is short, is read
// before an upstream is chosen: a client that sends it slowly or breaks off never occupies one, nor counts against it.
func (b *Balancer) handle(w http.ResponseWriter, r *http.Request) {
	out := &responseWriter{ResponseWriter: w, b: b}
	status := b.checkSize(r)
	r.Header.Set(requestID, rand.Text())
	if status == 0 {
		status = bodyStatus(b.readBody(w, r))
	}
	if status != 0 {
		b.rejectUnread(out, r, status)
		return
	}
	if r.URL.Opaque != "" { // no path that an upstream could get, as in "GET a:b HTTP/1.1"
		b.writeError(out, r, http.StatusBadRequest)
		return
	}
	if !b.names.Allowed(r.Host) {
		b.writeError(out, r, http.StatusMisdirectedRequest)
		return
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		r.Header.Del("Upgrade") // no other protocol may bypass the checks of HTTP
	}
	// The site's router ignores case and a last slash, so the paths that are not for clients must not depend on them.
	switch route := strings.ToLower(path.Clean("/" + r.URL.Path)); {
	case r.Method == http.MethodConnect, route == "/metrics", route == "/healthz", route == "/readyz":
		b.writeError(out, r, http.StatusNotFound)
	case route == "/api/randoms", route == "/test/randoms", route == "/test/random":
		b.serveDraw(out, r)
	case r.Method == http.MethodPost && (route == "/login" || route == "/signup" || route == "/register"):
		b.serveForm(out, r)
	default:
		b.toSite.ServeHTTP(out, r)
	}
}

// checkSize returns the status that rejects a request with too long an URL or header, or 0.
func (b *Balancer) checkSize(r *http.Request) int {
	// An upstream gets these lines. It gets an URL with characters that should have been escaped in its longer form.
	url := max(len(r.RequestURI), len(r.URL.RequestURI()))
	header := len(r.Method) + len(" ") + url + len(" HTTP/1.1\r\nHost: ") + len(r.Host) + len("\r\n\r\n")
	for name, values := range r.Header {
		for _, value := range values {
			header += len(name) + len(": ") + len(value) + len("\r\n")
		}
	}
	if len(r.TransferEncoding) > 0 { // net/http takes the field out
		header += len("Transfer-Encoding: chunked\r\n")
	}
	switch {
	case url > b.config.Limits.URL:
		return http.StatusRequestURITooLong
	case header > b.config.Limits.Header:
		return http.StatusRequestHeaderFieldsTooLarge
	}
	return 0
}

// serveDraw passes on a request for random numbers, of which an address may have some at a time.
func (b *Balancer) serveDraw(w http.ResponseWriter, r *http.Request) {
	if !smallDraw.MatchString(r.URL.RawQuery) {
		address := requestAddress(r)
		if ok, _ := b.clients.change(address, 0, 1); !ok {
			b.writeError(w, r, http.StatusTooManyRequests)
			return
		}
		defer b.clients.change(address, 0, -1) // ReverseProxy returns, by a panic, when the client has disconnected
	}
	b.toDraws.ServeHTTP(w, r)
}

// serveForm passes on a log-in or sign-up, of which an address may send some in a minute.
func (b *Balancer) serveForm(w http.ResponseWriter, r *http.Request) {
	address := requestAddress(r)
	if ok, first := b.forms.allow(address, time.Now()); !ok {
		if first {
			b.log.Warn("log-ins and sign-ups rejected: too many of one address", "client", address, "path", r.URL.Path,
				"request", r.Header.Get(requestID))
		}
		b.writeError(w, r, http.StatusTooManyRequests)
		return
	}
	b.toSite.ServeHTTP(w, r)
}

// requestAddress is limits.Client of a request's client.
func requestAddress(r *http.Request) netip.Addr {
	remote, _ := netip.ParseAddrPort(r.RemoteAddr) // net/http writes it
	return limits.Client(remote.Addr())
}

// newProxy returns the proxy in front of a pool. The pool decides which upstream gets a request.
func (b *Balancer) newProxy(to *pool) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:    to,
		Rewrite:      b.rewrite,
		BufferPool:   &copyBuffers{},
		ErrorHandler: b.handleProxyError,
		ModifyResponse: func(res *http.Response) error {
			res.Header.Set(requestID, res.Request.Header.Get(requestID))
			return nil
		},
		ErrorLog: slog.NewLogLogger(b.log.Handler(), slog.LevelWarn),
	}
}

// rewrite turns a client's request into the upstream's. ReverseProxy has removed the forwarding headers that the client
// sent.
func (b *Balancer) rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme = "http"              // send sets the host
	r.Out.URL.RawQuery = r.In.URL.RawQuery // unparsed: the site answers a wrong query with its reason
	r.Out.Header.Del("Expect")             // the balancer has answered 100-continue
	r.SetXForwarded()
	// Once more: the client may have named the field in Connection, by which ReverseProxy has removed it.
	r.Out.Header.Set(requestID, r.In.Header.Get(requestID))
	r.Out.Header.Del(edgeToken)
	if b.config.Token != "" {
		r.Out.Header.Set(edgeToken, b.config.Token)
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
	status := http.StatusBadGateway
	switch {
	case errors.Is(err, errNoUpstream):
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	case timedOut(err):
		status = http.StatusGatewayTimeout
	}
	b.log.Warn("request failed", "method", r.Method, "path", r.URL.Path, "status", status, "error", err,
		"request", r.Header.Get(requestID))
	b.writeError(w, r, status)
}

// responseWriter closes the connection after an answer during the drain, so that the client's next request goes to the
// balancer's successor.
type responseWriter struct {
	http.ResponseWriter
	b *Balancer
}

// Unwrap is for http.ResponseController.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader sends the status.
func (w *responseWriter) WriteHeader(status int) {
	if status >= 200 && w.b.draining.Err() != nil {
		w.Header().Set("Connection", "close")
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
