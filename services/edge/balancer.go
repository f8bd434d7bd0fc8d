// Package edge is the balancer of `balanza up` and of `balanza run`, which need no nginx: exact round robin over the upstreams
// that are ready, a backup for when none is, and retries of requests that can be sent twice without harm.
package edge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"balanza/services/hosts"
	"balanza/services/limits"
)

// Limits of a client's connection, besides Config.Limits.
const (
	headerTimeout = 10 * time.Second // for all headers: a client that sends them slowly holds no connection for long
	clientIdle    = 75 * time.Second // between two requests of one client connection
	maxToken      = 256              // bytes of Config.Token
	// rejectedHeader is how many bytes over Limits.Header are read of a header, so that the answer can be in the form and the
	// language that the client asks for there. A longer one gets net/http's own 431.
	rejectedHeader = 64 << 10

	defaultWaitTimeout = 5 * time.Second
	connsPollInterval  = 10 * time.Millisecond
)

// Config says where the upstreams are and how the balancer ends.
type Config struct {
	// Primary, Backup and Default are addresses, host:port. Draws of random numbers go to Primary, and to Backup while
	// no Primary is ready; everything else goes to Default. Only Backup may be empty.
	Primary, Backup, Default []string
	// Dynamic makes a balancer for any program, in place of one for the site. Its upstreams come by Add and leave by Remove,
	// and none of the addresses above is named. It passes on every path of every host name, and bodies of any length; of
	// Limits only Header, URL, Connections and ClientTimeout hold.
	Dynamic bool
	// DrainDelay is how long, from the start of the drain, connected clients still get answers, each with `Connection:
	// close`, before their idle connections are closed. A client that sends a request in this time does not lose it to
	// a closed connection.
	DrainDelay time.Duration
	// DrainTimeout is how long requests in flight may take after DrainDelay before they are cut off.
	DrainTimeout time.Duration
	// WaitTimeout is how long requests wait for an upstream to become ready, from the moment the last one became
	// unready. It bridges a restart; during a longer outage the answer is 503 at once. 0 means 5 s.
	WaitTimeout time.Duration
	// Limits are what one client can take. Zero: the defaults.
	Limits limits.Limits
	// ServerNames are the host names that the balancer answers to, besides localhost and the machine's addresses, as
	// hosts.Parse reads them.
	ServerNames string
	// Token, unless it is empty, is sent to the upstreams as X-Balanza-Edge-Token. It proves that the client's address in
	// X-Forwarded-For comes from this balancer.
	Token string
	// Logger gets changes of the upstreams' health, and failed requests. nil means slog's default.
	Logger *slog.Logger
	// AccessLog gets a line for each request, at its end: the id, the client, method and path, the status, bytes of the body,
	// seconds, and of an answer that was passed on X-Balanza-Server, X-Balanza-Pid and the upstream's address. nil: none.
	AccessLog *slog.Logger
}

// UpstreamStatus is what the balancer knows of an upstream.
type UpstreamStatus struct {
	Address  string    `json:"address"` // host:port
	Role     string    `json:"role"`    // primary, backup, default or instance
	Up       bool      `json:"up"`
	Since    time.Time `json:"since"`           // when Up last changed
	Uptime   float64   `json:"uptime"`          // seconds since then by the monotonic clock
	Cause    string    `json:"cause,omitempty"` // why it is not up
	Requests int64     `json:"requests"`        // that it answered, whatever the status
	Failures int64     `json:"failures"`        // attempts that got no answer; those of GETs were made again elsewhere
}

// Balancer shares requests among upstreams. Its methods may be called by several goroutines; Serve only once.
type Balancer struct {
	config        Config
	log           *slog.Logger
	draws, site   *pool
	noKeepAlive   *http.Transport // of health checks: a connection for each
	names         *hosts.Names
	headerTimeout time.Duration
	draining      context.Context // ends when the drain begins
	startDrain    context.CancelFunc

	conns           atomic.Int64   // clients' connections, websockets included
	requests        sync.WaitGroup // being handled
	maxConns        int64
	idle            idleConns
	clients         clients
	forms           *formLimiter
	totals          totals
	exhaustedLogged atomic.Pointer[time.Time] // when the log was told last
	changing        sync.Mutex                // held while the upstreams of Config.Dynamic change
}

// New makes a Balancer that takes no connection yet. The error names the address that is wrong.
func New(c Config) (*Balancer, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.WaitTimeout == 0 {
		c.WaitTimeout = defaultWaitTimeout
	}
	c.Limits = cmp.Or(c.Limits, limits.Default())
	names, err := hosts.Parse(c.ServerNames)
	if err != nil {
		return nil, fmt.Errorf("edge: server names: %w", err)
	}
	if len(c.Token) > maxToken || strings.ContainsFunc(c.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fmt.Errorf("edge: the token must have at most %d characters, all of ASCII and visible", maxToken)
	}
	b := &Balancer{
		config: c, log: c.Logger, names: names, maxConns: maxConnections(),
		headerTimeout: min(headerTimeout, c.Limits.ClientTimeout),
		clients:       clients{limits: c.Limits, byAddress: map[netip.Addr]*client{}},
		forms:         newFormLimiter(c.Limits.AccountForms),
	}
	b.noKeepAlive = &http.Transport{DialContext: dialTCP, DisableKeepAlives: true}
	b.draining, b.startDrain = context.WithCancel(context.Background())
	if c.Dynamic {
		return b.withDynamicPool(), nil
	}

	primary, err := b.parseTier("primary", c.Primary)
	if err != nil {
		return nil, err
	}
	backup, err := b.parseTier("backup", c.Backup)
	if err != nil {
		return nil, err
	}
	defaults, err := b.parseTier("default", c.Default)
	if err != nil {
		return nil, err
	}
	if len(c.Primary) == 0 || len(c.Default) == 0 {
		return nil, errors.New("edge: at least one primary and one default server must be named")
	}
	b.draws, b.site = b.newPool(primary, backup), b.newPool(defaults)
	return b, nil
}

// newPool makes a pool of these tiers.
func (b *Balancer) newPool(tiers ...*tier) *pool {
	return &pool{tiers: tiers, waitTimeout: b.config.WaitTimeout, freeDescriptors: b.freeDescriptors}
}

// parseTier checks the addresses of a role and makes their upstreams.
func (b *Balancer) parseTier(role string, addresses []string) (*tier, error) {
	var upstreams []*upstream
	seen := map[string]bool{}
	for _, address := range addresses {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("edge: %s server %q: want host:port", role, address)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
			return nil, fmt.Errorf("edge: %s server %q: want a host and a port from 1 to 65535", role, address)
		}
		if seen[address] {
			return nil, fmt.Errorf("edge: %s server %q is named twice", role, address)
		}
		seen[address] = true
		upstreams = append(upstreams, newUpstream(address, b.noKeepAlive, b.log))
	}
	return newTier(role, upstreams), nil
}

// Serve accepts connections from ln until ctx ends, then closes ln, waits for the requests in flight, closes websockets
// with 1012 (service restart) and returns nil, or an error if it had to cut connections off. ln may be shared with
// another process: it is closed, not shut down, so that the other one accepts what is queued there. The health of every
// upstream of Config is checked once before the first connection is accepted.
func (b *Balancer) Serve(ctx context.Context, ln net.Listener) error {
	// Health checks go on during the drain, whose last requests need an upstream.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	var checks sync.WaitGroup
	defer checks.Wait()
	defer stop()
	if b.config.Dynamic {
		defer b.removeAll()
	} else {
		b.checkAll(work)
		for _, u := range b.upstreams() {
			checks.Go(func() { u.checkPeriodically(work) })
		}
	}

	// net/http limits no time by default, so a client could hold a connection without making progress. The limits for
	// bodies and answers are set for each read and write, by readBody and clientConn. handle checks the exact size of the header.
	httpServer := &http.Server{
		Handler:           http.HandlerFunc(b.handle),
		ReadHeaderTimeout: b.headerTimeout,
		IdleTimeout:       clientIdle,
		MaxHeaderBytes:    b.config.Limits.Header + rejectedHeader,
		ErrorLog:          slog.NewLogLogger(b.log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return work },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, clientConnKey{}, c)
		},
		ConnState: func(c net.Conn, state http.ConnState) { c.(*clientConn).setState(state) },
	}
	ended := make(chan error, 1)
	go func() { ended <- httpServer.Serve(&clientListener{ln, b}) }()
	select {
	case err := <-ended: // the listener has failed
		b.startDrain()
		return errors.Join(fmt.Errorf("edge: %w", err), httpServer.Close())
	case <-ctx.Done():
		b.startDrain()
		ln.Close()
		<-ended
		return b.drain(httpServer)
	}
}

// drain closes the clients' connections: first those that have got an answer, then idle ones, in the end all.
func (b *Balancer) drain(httpServer *http.Server) error {
	delay, cancel := context.WithTimeout(context.Background(), b.config.DrainDelay)
	defer cancel()
	_ = b.awaitNoConns(delay)

	limit, cancel := context.WithTimeout(context.Background(), b.config.DrainTimeout)
	defer cancel()
	err := httpServer.Shutdown(limit)
	if err == nil {
		err = b.awaitNoConns(limit) // Shutdown does not wait for websockets
	}
	if err != nil {
		cut := b.conns.Load()
		httpServer.Close()
		return fmt.Errorf("edge: %d connections cut off, %v after the drain began", cut,
			b.config.DrainDelay+b.config.DrainTimeout)
	}
	b.requests.Wait() // websockets whose connection is closed still have their line to write
	return nil
}

// awaitNoConns waits until no client is connected, or returns ctx's error. It polls, so that outside a drain the count
// costs no more than an atomic addition.
func (b *Balancer) awaitNoConns(ctx context.Context) error {
	tick := time.NewTicker(connsPollInterval)
	defer tick.Stop()
	for b.conns.Load() > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// Status describes every upstream, in the order of Config (primaries, backups, defaults) or of Add.
func (b *Balancer) Status() []UpstreamStatus {
	var all []UpstreamStatus
	for _, t := range b.tiers() {
		for _, u := range t.all() {
			h := u.health.Load()
			all = append(all, UpstreamStatus{
				Address: u.address, Role: t.role, Up: h.up, Since: h.since, Uptime: time.Since(h.since).Seconds(), Cause: h.cause,
				Requests: u.requests.Load(), Failures: u.failures.Load(),
			})
		}
	}
	return all
}

// tiers are all tiers, in the order of Config.
func (b *Balancer) tiers() []*tier { return slices.Concat(b.draws.tiers, b.site.tiers) }

// upstreams are those of all tiers. An address with two roles has two upstreams.
func (b *Balancer) upstreams() []*upstream {
	var all []*upstream
	for _, t := range b.tiers() {
		all = append(all, t.all()...)
	}
	return all
}
