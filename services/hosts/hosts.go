// Package hosts decides by the Host header of a request whether a server answers it. A page elsewhere whose name was
// pointed at this machine (DNS rebinding) is kept out by its own name, which the site does not have.
package hosts

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxHost is how long a Host header can be: a name of DNS and a port. Proxies repeat it in headers of their own.
const maxHost = 253 + len(":65535")

// lookupInterval is the time between two look-ups of the machine's addresses, which change with its networks.
const lookupInterval = time.Second

// validName matches what may follow nginx's server_name: nothing that could end the directive.
var validName = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)

// Names are the host names that a server answers to. Its methods may be called by several goroutines.
type Names struct {
	list   []string // as nginx writes them
	lookUp func() ([]net.Addr, error)

	mu       sync.Mutex
	own      []net.Addr // of the machine's interfaces
	lookedUp time.Time
}

// Parse reads a list of host names and addresses, separated by spaces or commas. "*.example.org" stands for all names
// below example.org. localhost and the addresses of the machine are always known.
func Parse(list string) (*Names, error) {
	n := &Names{list: []string{"localhost", "127.0.0.1", "[::1]"}, lookUp: net.InterfaceAddrs}
	for _, name := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		if ip := net.ParseIP(strings.Trim(name, "[]")); ip != nil && ip.To4() == nil {
			name = "[" + ip.String() + "]"
		} else if !validName.MatchString(name) {
			return nil, fmt.Errorf("%q is neither a host name nor an address", name)
		}
		if name = strings.ToLower(name); !slices.Contains(n.list, name) {
			n.list = append(n.list, name)
		}
	}
	return n, nil
}

// List returns the names as nginx's server_name takes them, localhost first: IPv6 addresses are in brackets. The other
// addresses of the machine are not among them.
func (n *Names) List() []string { return slices.Clone(n.list) }

// Allowed tells whether a request with this Host header, with or without a port, is for the site.
func (n *Names) Allowed(host string) bool {
	name, ok := withoutPort(strings.ToLower(host))
	if !ok {
		return false
	}
	for _, known := range n.list {
		if name == known || known[0] == '*' && len(name) >= len(known) && strings.HasSuffix(name, known[1:]) {
			return true
		}
	}
	address, err := netip.ParseAddr(strings.Trim(name, "[]"))
	if err != nil || address.Is4() == strings.HasPrefix(name, "[") {
		return false
	}
	return address.IsLoopback() || slices.Contains(n.list, "["+address.String()+"]") || n.isOwn(address)
}

// withoutPort splits the port off a host, and the dot that ends an absolute name. It fails for what is no host, such as
// an IPv6 address without brackets.
func withoutPort(host string) (name string, ok bool) {
	end := strings.LastIndexByte(host, ']') + 1
	if len(host) > maxHost || (end > 0) != strings.HasPrefix(host, "[") {
		return "", false
	}
	rest := host[end:]
	name, port, found := strings.Cut(rest, ":")
	if found && strings.Trim(port, "0123456789") != "" || end > 0 && name != "" {
		return "", false
	}
	name = host[:end] + strings.TrimSuffix(name, ".")
	return name, name != ""
}

// isOwn tells whether an interface of the machine has the address. The addresses are looked up again when it is not
// among those known, at most once in lookupInterval.
func (n *Names) isOwn(address netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	known := func() bool {
		return slices.ContainsFunc(n.own, func(a net.Addr) bool {
			network, err := netip.ParsePrefix(a.String())
			return err == nil && network.Addr() == address
		})
	}
	if known() {
		return true
	}
	if now := time.Now(); now.Sub(n.lookedUp) > lookupInterval {
		n.lookedUp = now
		if own, err := n.lookUp(); err == nil {
			n.own = own
		}
		return known()
	}
	return false
}
