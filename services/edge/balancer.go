// Package edge is the balancer of `balanza up`, where no nginx is: exact round robin over the servers that are ready,
// a backup for when none is, and retries of what can be sent twice without harm.
package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxHeader     = 16 << 10         // bytes of a request's line and headers
	maxBody       = 1 << 20          // bytes of a request's body
	headerTimeout = 10 * time.Second // for all headers: a client that drips them ties up no connection for long
	bodyTimeout   = time.Minute      // for a whole body
	sendTimeout   = 2 * time.Minute  // for a client to take its whole answer
	clientIdle    = 75 * time.Second // between two requests of one client connection

	defaultPatience = 5 * time.Second
	connsPoll       = 10 * time.Millisecond
)

// Config says where the servers are and how the balancer ends.
type Config struct {
	// Primary, Backup and Default are addresses, host:port. Draws of random numbers go to Primary, and to Backup while
	// no Primary is ready; everything else goes to Default. Only Backup may be empty.
	Primary, Backup, Default []string
	// DrainDelay is how long, once it is to end, clients that stay connected still get answers, each with `Connection:
	// close`, before their idle connections are closed. A client never loses a request to a closed connection if it
	// sends one in this time.
	DrainDelay time.Duration
	// DrainTimeout is how long requests in flight may take after DrainDelay before they are cut off.
	DrainTimeout time.Duration
	// Patience is how long requests wait for a server to come back, from the moment the last one went. It bridges a
	// restart; an outage that lasts longer is answered 503 at once. 0 means 5 s.
	Patience time.Duration
	// Logger gets servers' coming and going and failed requests. nil means slog's default.
	Logger *slog.Logger
}

// UpstreamStatus is what the balancer knows of a server.
type UpstreamStatus struct {
	Address string    `json:"address"` // host:port
	Role    string    `json:"role"`    // primary, backup or default
	Up      bool      `json:"up"`
	Since   time.Time `json:"since"`           // when Up last changed
	Cause   string    `json:"cause,omitempty"` // why it is not up
}

// Balancer shares requests among servers. Its methods may be called by several goroutines; Serve only once.
type Balancer struct {
	config      Config
	log         *slog.Logger
	draws, site *pool
	toDraws     *httputil.ReverseProxy
	toSite      *httputil.ReverseProxy
	fresh       *http.Transport // a connection per request
	own         classes         // answers of the balancer itself
	conns       atomic.Int64    // clients' connections, websockets too
	serving     atomic.Bool
	forHeaders  time.Duration
	draining    context.Context // ends when the drain begins
	drain       context.CancelFunc
}

// New makes a Balancer that takes no connection yet. The error names the address that is wrong.
func New(c Config) (*Balancer, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	b := &Balancer{config: c, log: c.Logger, fresh: newTransport(), forHeaders: headerTimeout}
	b.fresh.DisableKeepAlives = true
	b.draining, b.drain = context.WithCancel(context.Background())

	primary, err := b.newTier("primary", c.Primary)
	if err != nil {
		return nil, err
	}
	backup, err := b.newTier("backup", c.Backup)
	if err != nil {
		return nil, err
	}
	others, err := b.newTier("default", c.Default)
	if err != nil {
		return nil, err
	}
	if len(c.Primary) == 0 || len(c.Default) == 0 {
		return nil, errors.New("edge: at least one primary and one default server must be named")
	}
	b.draws = &pool{tiers: []*tier{primary, backup}, patience: c.Patience}
	b.site = &pool{tiers: []*tier{others}, patience: c.Patience}
	b.toDraws, b.toSite = b.newProxy(b.draws), b.newProxy(b.site)
	return b, nil
}

func (b *Balancer) newTier(role string, addresses []string) (*tier, error) {
	t := &tier{role: role}
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
		t.servers = append(t.servers, newServer(address, b.fresh, b.log))
	}
	return t, nil
}

// Serve takes connections from ln until ctx ends, then closes ln, lets requests in flight end, closes websockets with
// 1012 and returns nil, or an error if it had to cut something off. ln may be shared with another process: it is
// closed, not shut down, so what is queued there is the other's. Every server is asked once for its health before the
// first connection is taken.
func (b *Balancer) Serve(ctx context.Context, ln net.Listener) error {
	// Health checks go on while the drain's last requests need a server.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	var checks sync.WaitGroup
	defer checks.Wait()
	defer stop()
	b.checkAll(work)
	for _, s := range b.servers() {
		checks.Go(func() { s.watch(work) })
	}

	server := &http.Server{
		Handler:           http.HandlerFunc(b.handle),
		ReadHeaderTimeout: b.forHeaders,
		IdleTimeout:       clientIdle,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(b.log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return work },
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				b.conns.Add(1)
			case http.StateClosed: // a hijacked one is counted off by its socket
				b.conns.Add(-1)
			}
		},
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ln) }()
	b.serving.Store(true)
	select {
	case err := <-ended: // nothing can be accepted any more
		b.serving.Store(false)
		b.drain()
		return errors.Join(fmt.Errorf("edge: %w", err), server.Close())
	case <-ctx.Done():
		b.serving.Store(false)
		b.drain()
		ln.Close()
		<-ended
		return b.end(server)
	}
}

// end closes the connections that there are: first those that got an answer, then idle ones, then all.
func (b *Balancer) end(server *http.Server) error {
	delay, cancel := context.WithTimeout(context.Background(), b.config.DrainDelay)
	defer cancel()
	_ = b.connsGone(delay)

	limit, cancel := context.WithTimeout(context.Background(), b.config.DrainTimeout)
	defer cancel()
	err := server.Shutdown(limit)
	if err == nil {
		err = b.connsGone(limit) // Shutdown does not know of websockets
	}
	if err != nil {
		cut := b.conns.Load()
		server.Close()
		return fmt.Errorf("edge: %d connections cut off, %v after the drain began", cut,
			b.config.DrainDelay+b.config.DrainTimeout)
	}
	return nil
}

// connsGone waits until no client is connected, or returns ctx's error.
func (b *Balancer) connsGone(ctx context.Context) error {
	tick := time.NewTicker(connsPoll)
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

// Ready says whether connections are taken and each kind of request has a server that is up.
func (b *Balancer) Ready() bool {
	return b.serving.Load() && b.draws.up() && b.site.up()
}

// Status tells of every server, in the order of Config: primaries, backups, default ones.
func (b *Balancer) Status() []UpstreamStatus {
	var all []UpstreamStatus
	for _, t := range b.tiers() {
		for _, s := range t.servers {
			h := s.health.Load()
			all = append(all, UpstreamStatus{
				Address: s.address, Role: t.role, Up: h.up, Since: h.since, Cause: h.cause,
			})
		}
	}
	return all
}

// Counters are Prometheus series and their values, which only grow. A failed try counts as class "error" of its server,
// an answer of the balancer itself under the role "edge".
func (b *Balancer) Counters() map[string]float64 {
	series := map[string]float64{
		"balanza_edge_retries_total": float64(b.draws.retries.Load() + b.site.retries.Load()),
	}
	b.own.addTo(series, "edge", "")
	for _, t := range b.tiers() {
		for _, s := range t.servers {
			s.answers.addTo(series, t.role, s.address)
		}
	}
	return series
}

func (b *Balancer) tiers() []*tier {
	return append(append([]*tier{}, b.draws.tiers...), b.site.tiers...)
}

func (b *Balancer) servers() []*server {
	var all []*server
	for _, t := range b.tiers() {
		all = append(all, t.servers...)
	}
	return all
}

// classes counts answers by the first digit of their status; [0] is tries that got none.
type classes [6]atomic.Int64

func (c *classes) count(status int) {
	if class := status / 100; class < len(c) {
		c[class].Add(1)
	}
}

func (c *classes) addTo(series map[string]float64, role, address string) {
	for class := range c {
		name := "error"
		if class > 0 {
			name = fmt.Sprintf("%dxx", class)
		}
		if n := c[class].Load(); n > 0 {
			labels := fmt.Sprintf("{class=%q,role=%q,upstream=%q}", name, role, address)
			series["balanza_edge_requests_total"+labels] = float64(n)
		}
	}
}
