// Package web is the site: routes, pages, sessions and the websocket endpoint, on Fiber.
package web

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
	"golang.org/x/time/rate"

	"balanza/services/chat"
	"balanza/services/store"
)

// Process says who answers; it is shown by /info and, in part, by the headers of every answer.
type Process struct {
	Name    string    // the server's name, may be empty
	Mode    string    // FORK or CLUSTER
	Worker  int       // 1, 2 … in CLUSTER, 0 in FORK
	Server  string    // header X-Balanza-Server: the name, else host and port
	Started time.Time // of the process
}

// Config is what a site needs. Store, Log, Process and Logger must be set. The log is run by whoever made it, until
// Serve has returned.
type Config struct {
	Store   store.Store
	Log     *store.Log
	Process Process
	Logger  *slog.Logger

	// TrustedProxies are the addresses and CIDR ranges whose X-Forwarded-Proto, and the last address of whose
	// X-Forwarded-For, are believed.
	TrustedProxies []string

	// DrainDelay is how long the listener stays open after readiness has failed, so that balancers can notice.
	DrainDelay time.Duration
	// Replaced, when set, says at the start of a drain whether others go on accepting on the same listener: then it is
	// closed without delay.
	Replaced func() bool
	// DrainIdle is how long, from the start of the drain, an idle connection may still bring its next request, which is
	// answered with Connection: close. 0 means 2 s.
	DrainIdle time.Duration
	// DrainTimeout is how long requests in flight may take after that. 0 means 10 s.
	DrainTimeout time.Duration

	// Totals, when set, turns this process's counters into the sums over all workers of its server, for /metrics.
	Totals func(own map[string]float64) map[string]float64
}

// Limits of a request and of a connection.
const (
	maxBody   = 64 << 10 // bytes
	maxHeader = 8 << 10  // bytes

	readTimeout = 30 * time.Second
	// Longer than nginx keeps its upstream connections (60 s), or it would send requests into closed sockets.
	idleTimeout = 75 * time.Second
)

// Site answers the requests of one process.
type Site struct {
	config  Config
	log     *slog.Logger
	app     *fiber.App
	handler fasthttp.RequestHandler // what every request goes through
	info    *info
	metrics *metrics
	conns   conns
	sockets sockets
	hub     *chat.Hub
	hashers hashers
	pages   *template.Template
	assets  assets
	texts   map[string]texts // by language

	outages rate.Sometimes // an outage of the store meets every request

	started, draining atomic.Bool
	work              context.Context // ends when what is in flight has to give up
	stop              context.CancelFunc
	background        sync.WaitGroup // what Serve started
}

// New returns a site that serves nothing yet. It fails when the configuration cannot be used; a store that does not
// answer is no failure.
func New(config Config) (*Site, error) {
	for _, proxy := range config.TrustedProxies {
		if err := checkProxy(proxy); err != nil {
			return nil, err
		}
	}
	if config.DrainIdle == 0 {
		config.DrainIdle = 2 * time.Second
	}
	if config.DrainTimeout == 0 {
		config.DrainTimeout = 10 * time.Second
	}
	texts, err := loadTexts()
	if err != nil {
		return nil, err
	}
	assets, err := loadAssets()
	if err != nil {
		return nil, err
	}
	pages, err := loadPages(assets)
	if err != nil {
		return nil, err
	}
	s := &Site{
		config:  config,
		log:     config.Logger,
		info:    newInfo(config.Process),
		metrics: newMetrics(),
		conns:   newConns(),
		hub:     chat.NewHub(config.Store, config.Log),
		hashers: newHashers(),
		pages:   pages,
		assets:  assets,
		texts:   texts,
		outages: rate.Sometimes{Interval: time.Second},
	}
	s.work, s.stop = context.WithCancel(context.Background())
	s.app = fiber.New(fiber.Config{
		DisableStartupMessage:        true,
		BodyLimit:                    maxBody,
		ReadBufferSize:               maxHeader,
		ReadTimeout:                  readTimeout,
		IdleTimeout:                  idleTimeout,
		DisablePreParseMultipartForm: true,
		EnableTrustedProxyCheck:      true,
		TrustedProxies:               config.TrustedProxies,
		ErrorHandler:                 s.refuse,
	})
	s.routes()
	s.handler = s.door(s.app.Handler())
	s.app.Server().Handler = s.handler
	s.app.Server().ConnState = s.conns.state
	return s, nil
}

func checkProxy(proxy string) error {
	_, errAddress := netip.ParseAddr(proxy)
	_, errRange := netip.ParsePrefix(proxy)
	if errAddress != nil && errRange != nil {
		return fmt.Errorf("trusted proxy %q: neither an IP address nor a CIDR range", proxy)
	}
	return nil
}

func (s *Site) routes() {
	s.get("/info", s.showInfo)
	s.get("/api/randoms", s.randoms, "/test/randoms", "/test/random")
	s.get("/healthz", func(c *fiber.Ctx) error { return c.SendString("ok\n") })
	s.get("/readyz", s.ready)
	s.get("/metrics", s.showMetrics)
	s.get("/assets/:name", s.asset)

	s.get("/", s.home)
	s.get("/login", s.page("login"))
	s.post("/login", s.login)
	s.get("/signup", s.page("signup"), "/register")
	s.post("/signup", s.signup, "/register")
	s.get("/faillogin", s.page("faillogin"))
	s.get("/failsignup", s.page("failsignup"))
	s.get("/logout", guard(s.loggedIn(s.logout)))
	s.post("/logout", s.loggedIn(s.logout))

	s.get("/api/productos", s.products)
	s.post("/api/productos", s.loggedIn(s.createProduct))
	s.get("/api/productos/:id", s.product)
	s.change(fiber.MethodPut, "/api/productos/:id", s.loggedIn(s.updateProduct))
	s.change(fiber.MethodDelete, "/api/productos/:id", s.loggedIn(s.deleteProduct))
	s.get("/api/productos-test", s.mockProducts)
	s.get("/productos-test", s.showMockProducts)

	s.get("/ws", s.socket)
	s.app.Use(s.counted("other", "other", notImplemented))
}

func (s *Site) get(path string, h fiber.Handler, aliases ...string) {
	counted := s.counted(fiber.MethodGet, path, h)
	for _, p := range append(aliases, path) {
		s.app.Get(p, counted)
	}
}

func (s *Site) post(path string, h fiber.Handler, aliases ...string) {
	for _, p := range append(aliases, path) {
		s.change(fiber.MethodPost, p, h)
	}
}

// change registers what changes something.
func (s *Site) change(method, path string, h fiber.Handler) {
	s.app.Add(method, path, s.counted(method, path, guard(h)))
}

// home is the application, for users only.
func (s *Site) home(c *fiber.Ctx) error {
	ctx, cancel := s.asking()
	defer cancel()
	session, err := s.session(ctx, c)
	if err == loginNeeded && !wantsJSON(c, false) {
		return c.Redirect("/login", fiber.StatusSeeOther)
	}
	if err != nil {
		return err
	}
	return s.show(c, "home", Page{Email: session.Email})
}

// counted wraps a route's handler: what it returns becomes the answer, and the answer is counted.
func (s *Site) counted(method, path string, h fiber.Handler) fiber.Handler {
	route := s.metrics.route(method, path)
	return func(c *fiber.Ctx) error {
		err := checkQuery(c)
		if err == nil {
			err = h(c)
		}
		if err != nil {
			err = s.refuse(c, err)
		}
		if c.Context().ConnRequestNum() > 0 { // not what Healthy asks: that came over no connection
			route.count(c.Response().StatusCode(), time.Since(c.Context().Time()))
		}
		return err
	}
}

// checkQuery refuses nested names such as users[99999999], which no route takes.
func checkQuery(c *fiber.Ctx) error {
	if len(c.Context().URI().QueryString()) == 0 {
		return nil
	}
	for key := range c.Context().QueryArgs().All() {
		if strings.ContainsRune(string(key), '[') {
			return invalid(string(key), "error.nested")
		}
	}
	return nil
}

// door is what every request passes, whatever Fiber makes of it.
func (s *Site) door(next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(c *fasthttp.RequestCtx) {
		defer s.sign(c)
		defer func() {
			if r := recover(); r != nil { // fasthttp has no recover: one request would end the process
				s.log.Error("panic in a handler", "path", string(c.Path()), "panic", r, "stack", stack())
				c.Response.Reset()
				c.SetStatusCode(fasthttp.StatusInternalServerError)
				c.SetConnectionClose()
			}
		}()
		if !slices.Contains(fiber.DefaultMethods, string(c.Method())) { // Fiber answers these in a form of its own
			unknown := s.app.AcquireCtx(c)
			defer s.app.ReleaseCtx(unknown)
			_ = s.refuse(unknown, notImplemented(unknown))
			return
		}
		next(c)
	}
}

var (
	headerPid     = []byte("X-Balanza-Pid")
	headerServer  = []byte("X-Balanza-Server")
	headerOptions = []byte("X-Content-Type-Options")
	nosniff       = []byte("nosniff")
)

// sign adds what every answer carries.
func (s *Site) sign(c *fasthttp.RequestCtx) {
	h := &c.Response.Header
	h.SetCanonical(headerPid, s.info.pid)
	h.SetCanonical(headerServer, s.info.server)
	h.SetCanonical(headerOptions, nosniff)
	if s.draining.Load() {
		c.SetConnectionClose()
	}
}

func (s *Site) ready(c *fiber.Ctx) error {
	if !s.started.Load() || s.draining.Load() {
		return stopping
	}
	return c.SendString("ready\n")
}

// Healthy is nil when the site answers /healthz, asked past the network.
func (s *Site) Healthy() error {
	var c fasthttp.RequestCtx
	c.Init(&fasthttp.Request{}, nil, nil)
	c.Request.SetRequestURI("/healthz")
	s.handler(&c)
	if status := c.Response.StatusCode(); status != fasthttp.StatusOK {
		return errors.New("/healthz answered " + strconv.Itoa(status))
	}
	return nil
}
