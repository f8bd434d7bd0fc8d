package web

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"balanza/services/limits"
)

// headerEdgeToken is the header in which the balancer of `balanza up` proves that a request comes from it.
const headerEdgeToken = "X-Balanza-Edge-Token"

const (
	lookUpInterval = time.Second            // between two look-ups of a proxy's name
	lookUpTimeout  = 2 * time.Second        // of one look-up
	lookUpWait     = 100 * time.Millisecond // of a request for a look-up; without its answer the last one holds
	proxyKept      = 5 * time.Second        // age at which a name's addresses are looked up again
	proxyForgotten = time.Minute            // age at which they are no longer trusted while no look-up gets an answer
)

// proxies are the trusted ones. The zero value trusts nobody.
type proxies struct {
	ranges []netip.Prefix
	names  []*proxyName
}

// hostName matches a name of the DNS. The last part has a letter in it, so that a mistyped address is none.
var hostName = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?\.)*[0-9]*[A-Za-z_]([A-Za-z0-9_-]*[A-Za-z0-9_])?\.?$`)

// newProxies reads addresses, CIDR ranges and host names. The error names the value that is none of these.
func newProxies(list []string) (p proxies, err error) {
	for _, proxy := range list {
		proxy = strings.TrimSpace(proxy)
		address, errAddress := netip.ParseAddr(proxy)
		prefix, errRange := netip.ParsePrefix(proxy)
		switch {
		case errAddress == nil:
			address = address.Unmap().WithZone("")
			p.ranges = append(p.ranges, netip.PrefixFrom(address, address.BitLen()))
		case errRange == nil:
			p.ranges = append(p.ranges, prefix)
		case hostName.MatchString(proxy):
			p.names = append(p.names, &proxyName{name: proxy, lookUp: lookUpHost})
		default:
			return p, fmt.Errorf("%q is neither an IP address nor a CIDR range nor a host name", proxy)
		}
	}
	return p, nil
}

// CheckProxies fails when one of the values is not what Config.TrustedProxies takes.
func CheckProxies(list []string) error {
	_, err := newProxies(list)
	return err
}

// trusted reports whether a proxy has the address.
func (p proxies) trusted(address netip.Addr) bool {
	address = address.Unmap().WithZone("")
	for _, r := range p.ranges {
		if r.Contains(address) {
			return true
		}
	}
	return slices.ContainsFunc(p.names, func(n *proxyName) bool { return n.has(address) })
}

// proxyName is a proxy that is known by its name. Its addresses are looked up when a request needs them, since they
// change with the proxy's container.
type proxyName struct {
	name   string
	lookUp func(context.Context, string) ([]netip.Addr, error)

	mu        sync.Mutex
	addresses []netip.Addr
	answered  time.Time     // when the addresses were looked up
	asked     time.Time     // when the last look-up began
	pending   chan struct{} // closed at the end of the look-up under way; nil: none is
}

// has reports whether the name has the address. An address that is not known, or has been known for long, is looked up.
func (n *proxyName) has(address netip.Addr) bool {
	n.mu.Lock()
	known := slices.Contains(n.addresses, address)
	if known && time.Since(n.answered) < proxyKept {
		n.mu.Unlock()
		return true
	}
	if n.pending == nil && time.Since(n.asked) >= lookUpInterval {
		n.asked, n.pending = time.Now(), make(chan struct{})
		go n.update(n.pending)
	}
	pending := n.pending
	n.mu.Unlock()
	if pending == nil {
		return known
	}
	select {
	case <-pending:
	case <-time.After(lookUpWait):
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Contains(n.addresses, address)
}

// update looks the name up. A name that does not exist has no addresses; when nobody answers, those known before hold for
// a while.
func (n *proxyName) update(done chan struct{}) {
	defer close(done)
	ctx, cancel := context.WithTimeout(context.Background(), lookUpTimeout)
	defer cancel()
	addresses, err := n.lookUp(ctx, n.name)
	failure, ok := errors.AsType[*net.DNSError](err)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pending = nil
	if err == nil || ok && failure.IsNotFound || time.Since(n.answered) > proxyForgotten {
		n.addresses, n.answered = addresses, time.Now()
	}
}

// lookUpHost asks the system's resolver.
func lookUpHost(ctx context.Context, name string) ([]netip.Addr, error) {
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	for i := range addresses {
		addresses[i] = addresses[i].Unmap().WithZone("")
	}
	return addresses, err
}

// forwardedHeaders are what a proxy says about a request.
var forwardedHeaders = []string{fiber.HeaderXForwardedFor, fiber.HeaderXForwardedProto, string(headerRequestID)}

// checkForwarded removes what a client may not say about a request: only a trusted proxy knows a client's address, the
// client's protocol and a request's id, and only the edge has its token. All handlers therefore believe these headers. A request without them, as most
// direct ones are, needs no look-up of a proxy's name.
func (s *Site) checkForwarded(c *fasthttp.RequestCtx) {
	h := &c.Request.Header
	sent := func(name string) bool { return len(h.Peek(name)) > 0 }
	if slices.ContainsFunc(forwardedHeaders, sent) && !s.fromProxy(c) {
		for _, name := range forwardedHeaders {
			h.Del(name)
		}
	}
	if !s.fromEdge(c) {
		h.Del(headerEdgeToken)
	}
}

// fromProxy reports whether a request comes from a trusted proxy, by the address or by the edge's token.
func (s *Site) fromProxy(c *fasthttp.RequestCtx) bool {
	if s.fromEdge(c) {
		return true
	}
	address, ok := netip.AddrFromSlice(c.RemoteIP())
	return ok && s.proxies.trusted(address)
}

// fromEdge reports whether a request has the edge's token.
func (s *Site) fromEdge(c *fasthttp.RequestCtx) bool {
	token := c.Request.Header.Peek(headerEdgeToken)
	return s.config.EdgeToken != "" && subtle.ConstantTimeCompare(token, []byte(s.config.EdgeToken)) == 1
}

// clientAddress is the client's address: behind a trusted proxy the last one of X-Forwarded-For, which the proxy added.
func clientAddress(c *fiber.Ctx) string {
	if lines := c.Request().Header.PeekAll(fiber.HeaderXForwardedFor); len(lines) > 0 {
		chain := string(lines[len(lines)-1])
		return strings.TrimSpace(chain[strings.LastIndexByte(chain, ',')+1:])
	}
	return c.Context().RemoteIP().String()
}

// network is limits.Client as a text. Texts that are no address share one range.
func network(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return "unknown"
	}
	client := limits.Client(ip)
	if client.Is6() {
		return client.String() + "/64"
	}
	return client.String()
}
