package edge

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"balanza/services/limits"
)

// maxFormClients is how many addresses formLimiter remembers at least. More addresses that send forms at the same time
// push older ones out, which then start anew.
const maxFormClients = 1 << 16

// clients counts what each address has open at the moment.
type clients struct {
	limits limits.Limits

	mu        sync.Mutex
	byAddress map[netip.Addr]*client // those that have something open
}

// client is an address that has something open.
type client struct {
	conns, draws int
	rejected     bool // a connection was
}

// remoteAddress is limits.Client of a connection's other end.
func remoteAddress(remote net.Addr) netip.Addr {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return limits.Client(tcp.AddrPort().Addr())
}

// change adds to the connections and draws of an address unless a limit would be exceeded. first tells whether an
// excess of connections is the first since the address had none open.
func (c *clients) change(address netip.Addr, conns, draws int) (ok, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.byAddress[address]
	if one == nil {
		one = &client{}
		c.byAddress[address] = one
	}
	if conns > 0 && one.conns+conns > c.limits.Connections {
		first, one.rejected = !one.rejected, true
		return false, first
	}
	if draws > 0 && one.draws+draws > c.limits.Draws {
		return false, false
	}
	one.conns += conns
	one.draws += draws
	if one.conns == 0 && one.draws == 0 {
		delete(c.byAddress, address)
	}
	return true, false
}

// formLimiter limits log-ins and sign-ups of each address in time, as nginx's limit_req does. An address is forgotten
// when it could send a whole burst again.
type formLimiter struct {
	rate   rate.Limit
	refill time.Duration // for a whole burst

	mu               sync.Mutex
	recent, previous map[netip.Addr]*formClient // used since turned, or in the period of refill before
	turned           time.Time
}

// formClient is an address that has sent forms.
type formClient struct {
	*rate.Limiter
	rejected bool // its latest form was
}

func newFormLimiter(perMinute int) *formLimiter {
	f := &formLimiter{rate: rate.Limit(float64(perMinute) / 60), recent: map[netip.Addr]*formClient{}}
	f.refill = time.Duration(float64(limits.AccountFormsBurst+1) / float64(f.rate) * float64(time.Second))
	return f
}

// allow counts a form and tells whether it may pass. first tells whether a rejected one is the first in a row.
func (f *formLimiter) allow(address netip.Addr, now time.Time) (ok, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(f.turned) > f.refill || len(f.recent) >= maxFormClients {
		f.recent, f.previous, f.turned = map[netip.Addr]*formClient{}, f.recent, now
	}
	c := f.recent[address]
	if c == nil {
		c = f.previous[address]
	}
	if c == nil {
		c = &formClient{Limiter: rate.NewLimiter(f.rate, limits.AccountFormsBurst+1)}
	}
	f.recent[address] = c
	if c.AllowN(now, 1) {
		c.rejected = false
		return true, false
	}
	first, c.rejected = !c.rejected, true
	return false, first
}
