package edge

import (
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	"balanza/services/limits"
)

// smallDraw matches the query of a draw of under a million numbers, which takes milliseconds and is not limited. It
// matches the whole query: of "CANT=1&cant=500000000" the server could take the second number.
var smallDraw = regexp.MustCompile(`^cant=\d{1,6}$`)

// handle checks a request, reads its body and sends it to the pool of its path. The whole body of a request to the site, which
// is short, is read before an upstream is chosen: a client that sends it slowly or breaks off never occupies one, nor counts
// against it.
func (b *Balancer) handle(w http.ResponseWriter, r *http.Request) {
	out := &responseWriter{ResponseWriter: w, b: b, r: r, began: time.Now()}
	b.requests.Add(1)
	defer b.requests.Done()
	defer out.end()
	uri := r.URL.RequestURI()
	status := b.checkSize(r, uri)
	r.Header[requestID] = []string{rand.Text()}
	var body requestBody
	if status == 0 {
		var err error
		if b.config.Dynamic {
			body, err = b.readStart(w, r)
		} else {
			body.start, err = b.readBody(w, r)
		}
		status = bodyStatus(err)
	}
	if status != 0 {
		b.rejectUnread(out, r, status)
		return
	}
	if r.URL.Opaque != "" { // no path that an upstream could get, as in "GET a:b HTTP/1.1"
		b.writeError(out, r, http.StatusBadRequest)
		return
	}
	if b.config.Dynamic && r.Method != http.MethodConnect {
		if strings.HasPrefix(r.RequestURI, "/") { // as the client wrote it
			uri = r.RequestURI
		}
		b.forward(out, r, uri, body, b.site)
		return
	}
	if !b.names.Allowed(r.Host) {
		b.writeError(out, r, http.StatusMisdirectedRequest)
		return
	}
	// The site's router ignores case and a last slash, so the paths that are not for clients must not depend on them.
	switch route := strings.ToLower(path.Clean("/" + r.URL.Path)); {
	case r.Method == http.MethodConnect, route == "/metrics", route == "/healthz", route == "/readyz":
		b.writeError(out, r, http.StatusNotFound)
	case route == "/api/randoms", route == "/test/randoms", route == "/test/random":
		if strings.EqualFold(strings.TrimSuffix(r.URL.Path, "/"), "/test/random") { // the servers know the longer name only
			uri = (&url.URL{Path: "/test/randoms", RawQuery: r.URL.RawQuery}).RequestURI()
		}
		b.serveDraw(out, r, uri, body)
	case r.Method == http.MethodPost && (route == "/login" || route == "/signup" || route == "/register"):
		b.serveForm(out, r, uri, body)
	default:
		b.forward(out, r, uri, body, b.site)
	}
}

// checkSize returns the status that rejects a request with too long an URL or header, or 0. uri is what an upstream gets.
func (b *Balancer) checkSize(r *http.Request, uri string) int {
	// Characters that should have been escaped are longer in uri.
	url := max(len(r.RequestURI), len(uri))
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
func (b *Balancer) serveDraw(w *responseWriter, r *http.Request, uri string, body requestBody) {
	if !smallDraw.MatchString(r.URL.RawQuery) {
		address := requestAddress(r)
		if ok, _ := b.clients.change(address, 0, 1); !ok {
			b.writeError(w, r, http.StatusTooManyRequests)
			return
		}
		defer b.clients.change(address, 0, -1) // forward returns, by a panic, when the client has disconnected
	}
	b.forward(w, r, uri, body, b.draws)
}

// serveForm passes on a log-in or sign-up, of which an address may send some in a minute.
func (b *Balancer) serveForm(w *responseWriter, r *http.Request, uri string, body requestBody) {
	address := requestAddress(r)
	if ok, first := b.forms.allow(address, time.Now()); !ok {
		if first {
			b.log.Warn("log-ins and sign-ups rejected: too many of one address", "client", address, "path", r.URL.Path,
				"request", r.Header.Get(requestID))
		}
		b.writeError(w, r, http.StatusTooManyRequests)
		return
	}
	b.forward(w, r, uri, body, b.site)
}

// requestAddress is limits.Client of a request's client.
func requestAddress(r *http.Request) netip.Addr {
	remote, _ := netip.ParseAddrPort(r.RemoteAddr) // net/http writes it
	return limits.Client(remote.Addr())
}

// buffers hold what is sent together.
var buffers = sync.Pool{New: func() any { return new(make([]byte, 0, 4<<10)) }}

// putBuffer makes a buffer available again, unless it has become larger than nearly all need.
func putBuffer(b *[]byte) {
	if cap(*b) <= 16<<10 {
		buffers.Put(b)
	}
}

// forward sends a request to an upstream of the pool, and its answer to the client.
func (b *Balancer) forward(w *responseWriter, r *http.Request, uri string, body requestBody, to *pool) {
	q := &upstreamRequest{
		ctx: r.Context(), in: r, repeatable: isRepeatable(r), upgrade: isWebsocket(r.Header), informational: w.writeInformational,
		rest: body.rest,
	}
	if body.rest != nil {
		defer body.rest.end()
	}
	buffer := buffers.Get().(*[]byte)
	*buffer = b.appendRequest((*buffer)[:0], r, uri, body, q.repeatable, q.upgrade)
	q.content = *buffer
	a, err := to.roundTrip(q)
	putBuffer(buffer)
	if err != nil {
		if body.rest != nil && body.rest.failed() != nil {
			b.rejectUnread(w, r, bodyStatus(body.rest.failed()))
			return
		}
		b.handleProxyError(w, r, err)
		return
	}
	defer a.finish()
	w.answer = a
	if a.StatusCode == http.StatusSwitchingProtocols {
		a.uncount()
		w.serveWebsocket(a)
		return
	}
	if isEventStream(a.Header) {
		a.uncount()
	}
	copyAnswerHeader(w.Header(), a.Header)
	if _, typed := a.Header["Content-Type"]; !typed { // net/http would guess one, and could make a page of an upload
		w.Header()["Content-Type"] = nil
	}
	if body.rest != nil && !body.rest.complete() {
		w.Header().Set("Connection", "close") // the rest of the body is not read
	}
	w.Header()[requestID] = r.Header[requestID]
	if a.conn != nil {
		err = w.passOn(a)
	} else {
		err = writeTogether(r, w.ResponseWriter, a.length, func() (err error) {
			w.WriteHeader(a.StatusCode)
			if a.length > 0 {
				_, err = w.Write(a.buffer[:a.length])
			}
			return err
		})
	}
	if err == nil {
		return
	}
	if r.Context().Err() == nil {
		b.log.Warn("answer broken off", "method", r.Method, "path", r.URL.Path, "upstream", a.from.address, "error", err,
			"request", r.Header.Get(requestID))
	}
	panic(http.ErrAbortHandler) // the end of the connection tells the client that something is missing
}

// passOn sends an answer to the client while it comes from the upstream.
func (w *responseWriter) passOn(a *answer) error {
	announced := len(a.Trailer)
	for name := range a.Trailer {
		w.Header().Add("Trailer", name)
	}
	w.WriteHeader(a.StatusCode)
	client := http.NewResponseController(w.ResponseWriter)
	// An answer whose length is not known may be made piece by piece, and each is for now.
	flush := a.ContentLength < 0 || isEventStream(a.Header)
	if flush && a.conn.in.Buffered() == 0 {
		if err := client.Flush(); err != nil {
			return err
		}
	}
	buffer := answerBuffers.Get().(*answerBuffer)
	defer answerBuffers.Put(buffer)
	for {
		n, err := a.Body.Read(buffer[:])
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return err
			}
			if flush {
				if err := client.Flush(); err != nil {
					return err
				}
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	a.release(true)
	for name, values := range a.Trailer {
		if len(a.Trailer) != announced { // net/http needs the prefix for those that were not announced
			name = http.TrailerPrefix + name
		}
		w.Header()[name] = values
	}
	return nil
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
// balancer's successor, and remembers what the access log says of the answer.
type responseWriter struct {
	http.ResponseWriter
	b      *Balancer
	r      *http.Request
	began  time.Time
	answer *answer // nil: the balancer's own
	status int     // 0: none was sent
	bytes  int64   // of the body, without its encoding in chunks
}

// Unwrap is for http.ResponseController.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader sends the status.
func (w *responseWriter) WriteHeader(status int) {
	if w.b.draining.Err() != nil {
		w.Header().Set("Connection", "close")
	}
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Write sends a piece of the body.
func (w *responseWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// writeInformational passes an answer with a status 1xx on, which HTTP/1.0 does not know.
func (w *responseWriter) writeInformational(status int, header http.Header) {
	if !w.r.ProtoAtLeast(1, 1) {
		return
	}
	copyAnswerHeader(w.Header(), header)
	w.ResponseWriter.WriteHeader(status)
	clear(w.Header()) // they are not those of the final answer
}
