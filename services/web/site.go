// Package web is the site: routes, pages, sessions and the websocket endpoint, on Fiber.
package web

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
	"golang.org/x/time/rate"

	"balanza/services/chat"
	"balanza/services/eventlog"
	"balanza/services/hosts"
	"balanza/services/limits"
	"balanza/services/processes"
	"balanza/services/store"
)

// Process describes the process that answers. /info shows it, and the headers of every answer name it.
type Process struct {
	Name    string    // the server's name, may be empty
	Mode    string    // FORK or CLUSTER
	Worker  int       // 1, 2 … in CLUSTER, 0 in FORK
	Server  string    // header X-Balanza-Server: the name, else host and port
	Started time.Time // of the process
}

// Config is what a site needs. Store, Clock, Log, Processes, Process and Logger must be set. The caller runs the log, and the
// registry with Source, until Serve has returned.
type Config struct {
	Store store.Store
	// Access tells whether Store lets this process in; the caller runs it. nil: it is not known until a request fails.
	Access    *store.Access
	Clock     *store.Clock // of Store
	Log       *eventlog.Log
	Processes *processes.Registry
	Process   Process
	Logger    *slog.Logger

	// TrustedProxies are the addresses, CIDR ranges and host names of proxies. X-Forwarded-Proto, the last address of
	// X-Forwarded-For and X-Request-Id are believed when a request comes from one of them. A name is looked up when such
	// a request comes, and again every few seconds.
	TrustedProxies []string
	// EdgeToken, when set, is a secret: a request that has it in the header X-Balanza-Edge-Token comes from a trusted
	// proxy, too.
	EdgeToken string
	// Hosts are the names that the site answers to; requests for others get 421. nil: localhost and the machine's
	// addresses.
	Hosts *hosts.Names

	// Cookie is the name of the session cookie: ASCII letters, digits, hyphens and underscores. Empty: balanza. Browsers
	// send the cookies of a host to all its ports, so that sites on one host need names of their own.
	Cookie string

	// Limits are what one client or one account can take. Zero: the defaults.
	Limits limits.Limits

	// KeepMessages is how long messages are kept at least. 0: for ever.
	KeepMessages time.Duration

	// DrainDelay is how long the listener stays open after readiness has failed, so that balancers, which ask every few
	// seconds, notice it before connections fail.
	DrainDelay time.Duration
	// Replaced, when set, reports at the start of a drain whether other processes go on accepting on the same listener:
	// then it is closed without delay.
	Replaced func() bool
	// DrainIdle is how long, from the start of the drain, idle connections stay open. A request that comes on one of
	// them is answered with Connection: close. 0 means 2 s.
	DrainIdle time.Duration
	// DrainTimeout is how long requests in flight may take after that. 0 means 10 s.
	DrainTimeout time.Duration

	// Acquire counts what one address does at a time; it fails when key has reached the limit, and else returns what is
	// called at the end. nil: this process alone is counted.
	Acquire func(key string, limit int) (release func(), ok bool)

	// Answered counts n answers of this process, and reports whether the connection of the last one should end, so that
	// another process of the same socket gets its next request. nil: there is no other process.
	Answered func(n int) bool
	// Drawing counts a draw of so many numbers until the caller calls ended. nil: there is no other process.
	Drawing func(numbers int64) (ended func())

	// Scrape returns what /metrics answers. nil: Metrics of this process.
	Scrape func() (string, error)
}

const (
	// forwardingSpace is how many bytes of a request's header are for what a trusted proxy adds to the client's.
	forwardingSpace = 2 << 10
	// nginx keeps its upstream connections for 60 s; with a shorter time here it would send requests into closed sockets.
	idleTimeout = 75 * time.Second
)

// Site answers the requests of one process. Its fields do not change after New, except the sets of connections, the
// counters and the two flags.
type Site struct {
	config     Config
	log        *slog.Logger
	app        *fiber.App
	handler    fasthttp.RequestHandler // the outermost one, recoverPanics
	info       *info
	metrics    requestMetrics
	conns      openSet[net.Conn] // HTTP
	clients    openSet[*client]  // websockets
	drawing    atomic.Int64      // requests for random numbers that are being answered
	hub        *chat.Hub
	panels     *panels
	upgrader   upgrader
	sockets    *websockets
	hashers    *hashers
	usedUp     usedUp
	storeSlots storeSlots
	refusals   refusalLog
	pages      map[string]*template.Template
	assets     assets
	texts      map[string]texts // by language

	proxies proxies
	// unreadable is Fiber's handler of requests that fasthttp cannot parse, which bypass handler.
	unreadable func(*fasthttp.RequestCtx, error)

	outages rate.Sometimes // limits the log lines of an outage, which every request meets

	drawsRejected     atomic.Int64
	started, draining atomic.Bool
	work              context.Context // of handlers; it ends when the drain's time is over
	stop              context.CancelFunc
	background        sync.WaitGroup // the goroutines that Serve starts
}

// New returns a site that answers once Serve is called. The error names the wrong trusted proxy. The store is not asked,
// so it may be down.
func New(config Config) (*Site, error) {
	proxies, err := newProxies(config.TrustedProxies)
	if err != nil {
		return nil, fmt.Errorf("trusted proxies: %w", err)
	}
	if config.Hosts == nil {
		config.Hosts, _ = hosts.Parse("") // an empty list has no wrong name
	}
	config.Cookie = cmp.Or(config.Cookie, "balanza")
	config.Limits = cmp.Or(config.Limits, limits.Default())
	if config.Access == nil {
		config.Access = store.NewAccess(config.Store, config.Logger, nil)
	}
	if config.Acquire == nil {
		config.Acquire = new(keyCounter).acquire
	}
	if config.Answered == nil {
		config.Answered = func(int) bool { return false }
	}
	if config.Drawing == nil {
		config.Drawing = func(int64) func() { return func() {} }
	}
	config.DrainIdle = cmp.Or(config.DrainIdle, 2*time.Second)
	config.DrainTimeout = cmp.Or(config.DrainTimeout, 10*time.Second)
	assets := loadAssets()
	s := &Site{
		config:  config,
		log:     config.Logger,
		info:    newInfo(config.Process),
		hub:     chat.NewHub(config.Store, config.Log, config.Limits.Messages),
		panels:  newPanels(config.Processes),
		hashers: newHashers(),
		pages:   loadPages(assets),
		assets:  assets,
		texts:   loadTexts(),
		outages: rate.Sometimes{Interval: time.Second},
		proxies: proxies,
	}
	s.work, s.stop = context.WithCancel(context.Background())
	s.app = fiber.New(fiber.Config{
		DisableStartupMessage:        true,
		BodyLimit:                    config.Limits.Body,
		ReadBufferSize:               s.headerBuffer(),
		WriteBufferSize:              writePiece,                  // see there
		ReadTimeout:                  config.Limits.ClientTimeout, // of a whole request
		IdleTimeout:                  idleTimeout,
		DisablePreParseMultipartForm: true,
		EnableTrustedProxyCheck:      true, // Fiber's own list stays empty: it knows no names. See checkForwarded.
		ErrorHandler:                 s.writeError,
	})
	if s.config.Scrape == nil {
		s.config.Scrape = s.scrape
	}
	s.upgrader = newUpgrader(s)
	s.sockets = newWebsockets(s)
	s.routes()
	s.handler = s.recoverPanics(s.checkRequests(s.app.Handler()))
	server := s.app.Server()
	server.Handler = s.handler
	server.ConnState = s.trackConn
	server.KeepHijackedConns = true // a websocket outlives its request
	s.unreadable = server.ErrorHandler
	server.ErrorHandler = s.rejectUnreadable
	return s, nil
}

// routes registers every route with its aliases. The last one catches the rest.
func (s *Site) routes() {
	s.get("/info", s.showInfo)
	s.get("/api/randoms", s.randoms, "/test/randoms", "/test/random")
	s.get("/randoms", s.page("randoms"))
	s.get("/healthz", func(c *fiber.Ctx) error { return c.SendString("ok\n") })
	s.get("/readyz", s.ready)
	s.get("/metrics", s.showMetrics)
	s.get("/assets/:name", s.asset)

	s.get("/", s.userPage("home", nil))
	s.get("/panel", s.userPage("panel", programName(s.info.fixed.Executable, s.info.fixed.Folder)))
	s.get("/login", s.page("login"))
	s.handleUnsafe(fiber.MethodPost, "/login", s.accountForm("login", fiber.StatusOK, s.authenticate))
	s.get("/signup", s.page("signup"), "/register")
	for _, path := range []string{"/signup", "/register"} {
		s.handleUnsafe(fiber.MethodPost, path, s.accountForm("signup", fiber.StatusCreated, s.register))
	}
	s.get("/faillogin", s.page("faillogin"))
	s.get("/failsignup", s.page("failsignup"))
	s.get("/logout", s.loggedIn(s.showLogout))
	s.handleUnsafe(fiber.MethodPost, "/logout", s.loggedIn(s.logout))

	s.get("/account", s.loggedIn(s.showAccount))
	s.handleUnsafe(fiber.MethodPost, "/account/password", s.accountAction("password", s.changePassword))
	s.handleUnsafe(fiber.MethodPost, "/account/sessions", s.accountAction("sessions", s.endSessions))
	s.handleUnsafe(fiber.MethodPost, "/account/delete", s.accountAction("delete", s.deleteAccount))
	s.get("/account/deleted", s.page("deleted"))

	s.get("/api/productos", s.products)
	s.handleUnsafe(fiber.MethodPost, "/api/productos", s.loggedIn(s.createProduct))
	s.get("/api/productos/:id", s.product)
	s.handleUnsafe(fiber.MethodPut, "/api/productos/:id", s.loggedIn(s.updateProduct))
	s.handleUnsafe(fiber.MethodDelete, "/api/productos/:id", s.loggedIn(s.deleteProduct))
	s.get("/api/productos-test", s.mockProducts)
	s.get("/productos-test", s.showMockProducts)

	s.get("/ws", s.checkUpgrade(s.loggedIn(s.openWebsocket)))
	s.get("/api/mensajes", s.loggedIn(s.messages))
	s.get("/api/processes", s.loggedIn(s.showProcesses))
	s.app.Use(s.counted("other", "other", notImplemented))
}

// get registers a route that changes nothing, under a path and its aliases. They share their counters.
func (s *Site) get(path string, h fiber.Handler, aliases ...string) {
	counted := s.counted(fiber.MethodGet, path, h)
	for _, p := range append(aliases, path) {
		s.app.Get(p, counted)
	}
}

// handleUnsafe registers a route that changes something (RFC 9110, 9.2.1), and so must not be called by other sites.
func (s *Site) handleUnsafe(method, path string, h fiber.Handler) {
	s.app.Add(method, path, s.counted(method, path, checkOrigin(h)))
}

// userPage is the handler of a page for users, with data. Browsers that are not logged in are redirected to the log-in.
func (s *Site) userPage(name string, data any) fiber.Handler {
	page := s.loggedIn(func(_ context.Context, c *fiber.Ctx, session store.Session) error {
		return s.show(c, name, Page{Email: session.Email, Data: data})
	})
	return func(c *fiber.Ctx) error {
		err := page(c)
		if err == errLoginRequired && !wantsJSON(c, false) { // also where loggedIn would answer 401
			return c.Redirect("/login", fiber.StatusSeeOther)
		}
		return err
	}
}

// counted wraps a route's handler: an error that it returns becomes the answer, and the answer is counted. Fiber would
// write the error only after this wrapper has returned, when its status can no longer be counted.
func (s *Site) counted(method, path string, h fiber.Handler) fiber.Handler {
	route := s.metrics.route(method, path)
	return func(c *fiber.Ctx) error {
		err := checkQuery(c)
		if err == nil {
			err = h(c)
		}
		if err != nil {
			err = s.writeError(c, err)
		}
		switch stream, ok := c.Response().BodyStream().(*drawStream); {
		case c.Context().ConnRequestNum() == 0: // Healthy calls the handler without a connection
		case ok: // it has not begun
			stream.route = route
		default:
			route.count(c.Response().StatusCode(), time.Since(c.Context().Time()))
		}
		return err
	}
}

// checkQuery rejects names and values that are no text, and nested names such as users[99999999]: no route takes them, and
// Fiber would allocate for the index.
func checkQuery(c *fiber.Ctx) error {
	for name, value := range pairs(c.Request().URI().QueryString()) {
		if !value.valid {
			return invalid(name, "error.unicode")
		}
		if strings.ContainsRune(name, '[') {
			return invalid(name, "error.nested")
		}
	}
	return nil
}

// recoverPanics wraps the other handlers: it runs for every request, including those that no route gets.
func (s *Site) recoverPanics(next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(c *fasthttp.RequestCtx) {
		defer s.setCommonHeaders(c)
		defer s.balance(c)
		defer s.recoverPanic(c)
		next(c)
	}
}

// checkRequests wraps the Fiber handler within recoverPanics: it prepares the headers that all handlers believe, and
// answers the requests that no route gets.
func (s *Site) checkRequests(next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(c *fasthttp.RequestCtx) {
		received(c)
		err := s.checkSize(c)
		s.checkForwarded(c)
		setRequestID(c)
		if err == nil {
			err = s.checkRoute(c)
		}
		if err == nil {
			next(c)
		} else {
			s.reject(c, err)
		}
	}
}

// reject answers a request that no route gets.
func (s *Site) reject(c *fasthttp.RequestCtx, err *httpError) {
	rejected := s.app.AcquireCtx(c)
	defer s.app.ReleaseCtx(rejected)
	_ = s.writeError(rejected, err)
}

// checkSize returns the error of a request whose URL or header is too large. The header is measured as it was received,
// with the blank line at its end; the space for what a proxy adds is only for proxies.
func (s *Site) checkSize(c *fasthttp.RequestCtx) (err *httpError) {
	h := &c.Request.Header
	line := len(h.Method()) + len(" ") + len(h.RequestURI()) + len(" ") + len(h.Protocol()) + len("\r\n")
	switch {
	case len(h.RequestURI()) > s.config.Limits.URL:
		err = s.errLongURL()
	case line+len(h.RawHeaders()) > s.config.Limits.Header && !s.fromProxy(c):
		err = s.errLongHeader()
	}
	if err != nil {
		closeAfter(c, true)
	}
	return err
}

// rejectUnreadable answers a request that fasthttp cannot read, and closes the connection.
func (s *Site) rejectUnreadable(c *fasthttp.RequestCtx, err error) {
	defer s.recoverPanic(c)
	var received []byte // of a header that is too large
	if _, full := errors.AsType[*fasthttp.ErrSmallBuffer](err); full {
		if conn, ok := c.Conn().(*clientConn); ok {
			received = conn.buffer
		}
	}
	lines := bytes.LastIndexByte(received, '\n') + 1
	if lines > 0 {
		// These lines tell which form and language the client wants. Browsers send the cookies last.
		header := io.MultiReader(bytes.NewReader(received[:lines]), strings.NewReader("\r\n"))
		_ = c.Request.Header.Read(bufio.NewReaderSize(header, lines+len("\r\n"))) // without them the answer is JSON
	}
	s.checkForwarded(c)
	setRequestID(c)
	closeAfter(c, true)
	if len(received) > 0 && lines == 0 { // the first line is not complete
		s.reject(c, s.errLongURL())
		return
	}
	s.unreadable(c, err)
}

// headerBuffer is the size of fasthttp's buffer for a request's header.
func (s *Site) headerBuffer() int { return s.config.Limits.Header + forwardingSpace }

// checkRoute returns the error of a request that no route gets, nil for others.
func (s *Site) checkRoute(c *fasthttp.RequestCtx) *httpError {
	switch {
	case !s.config.Hosts.Allowed(string(c.Host())):
		return errMisdirected
	case !slices.Contains(fiber.DefaultMethods, string(c.Method())): // Fiber would answer these in its own form
		return noRoute(c)
	}
	return nil
}

// recoverPanic answers 500 to the request whose handler has panicked. fasthttp does not recover: without it one request
// would end the process.
func (s *Site) recoverPanic(c *fasthttp.RequestCtx) {
	if r := recover(); r != nil {
		s.log.Error("panic in a handler", "path", string(c.Path()), "request", string(c.Request.Header.PeekBytes(headerRequestID)),
			"panic", r, "stack", string(debug.Stack()))
		c.Response.Reset()
		c.SetStatusCode(fasthttp.StatusInternalServerError)
		closeAfter(c, false)
	}
}

// The names and values are canonical byte slices, since every answer has them: setting them converts nothing.
var (
	headerPid     = []byte("X-Balanza-Pid")
	headerServer  = []byte("X-Balanza-Server")
	headerOptions = []byte("X-Content-Type-Options")
	nosniff       = []byte("nosniff")
)

// setCommonHeaders sets the headers of every answer.
func (s *Site) setCommonHeaders(c *fasthttp.RequestCtx) {
	h := &c.Response.Header
	h.SetCanonical(headerPid, s.info.pid)
	h.SetCanonical(headerServer, s.info.server)
	h.SetCanonical(headerOptions, nosniff)
	h.SetCanonical(headerRequestID, c.Request.Header.PeekBytes(headerRequestID))
	if s.draining.Load() || c.Response.ConnectionClose() {
		closeAfter(c, false)
	}
}

// ready answers 200 between the start of Serve and the start of the drain, unless the store refuses this process and has
// never worked: such a server was given wrong settings. It does not ask the store: without it many routes still work, and
// all processes would leave the balancer at once.
func (s *Site) ready(c *fiber.Ctx) error {
	if !s.started.Load() || s.draining.Load() {
		return errStopping
	}
	if reason := s.config.Access.Blocked(); reason != "" {
		return &httpError{status: fiber.StatusServiceUnavailable, code: codeMisconfigured, text: "error.notready", args: []any{reason}}
	}
	return c.SendString("ready\n")
}

// Healthy returns nil when the site answers /healthz, and else an error with the status. It calls the handler itself,
// without a connection, so it works while the listener is closed or its queue is full.
func (s *Site) Healthy() error {
	var c fasthttp.RequestCtx
	c.Init(&fasthttp.Request{}, nil, nil)
	c.Request.SetRequestURI("http://localhost/healthz")
	s.handler(&c)
	if status := c.Response.StatusCode(); status != fasthttp.StatusOK {
		return fmt.Errorf("/healthz answered %d", status)
	}
	return nil
}
