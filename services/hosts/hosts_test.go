package hosts

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// address is an interface's address.
func address(t *testing.T, cidr string) net.Addr {
	t.Helper()
	ip, network, err := net.ParseCIDR(cidr)
	if err != nil {
		t.Fatal(err)
	}
	return &net.IPNet{IP: ip, Mask: network.Mask}
}

func TestAllowed(t *testing.T) {
	names, err := Parse("Balanza.example, *.example.org 203.0.113.7 2001:DB8:0::1")
	if err != nil {
		t.Fatal(err)
	}
	names.lookUp = func() ([]net.Addr, error) {
		return []net.Addr{address(t, "192.168.1.5/24"), address(t, "fe80::1/64")}, nil
	}
	for _, host := range []string{
		"localhost", "LOCALHOST:8000", "localhost.", "localhost.:80", "127.0.0.1", "127.8.8.8:1", "[::1]", "[::1]:8000",
		"balanza.example", "BALANZA.EXAMPLE:443", "a.example.org", "a.b.example.org:1", "203.0.113.7", "203.0.113.7:80",
		"[2001:db8::1]", "[2001:0db8:0::1]:80", "192.168.1.5:8000", "[fe80::1]:8000", "localhost:",
	} {
		if !names.Allowed(host) {
			t.Errorf("%q is refused", host)
		}
	}
	for _, host := range []string{
		"", ".", ":", ":80", "evil.example", "xbalanza.example", "balanza.example.evil.org", "example.org", ".example.org",
		"xexample.org", "*.example.org.evil", "192.168.1.6", "203.0.113.77", "[2001:db8::2]", "2001:db8::1", "::1",
		"localhost:80:80", "localhost:x", "[::1]x", "[::1", "::1]", "[localhost]", "[127.0.0.1]", "local host", "localhost/", "localhost@x",
		"localhost..", "[::1]:80x", "[]", "127.0.0.1.evil.org", strings.Repeat("a", 1<<16),
		strings.Repeat("a.", 200) + "example.org", "localhost:" + strings.Repeat("0", 300),
	} {
		if names.Allowed(host) {
			t.Errorf("%q is allowed", host)
		}
	}
}

func TestList(t *testing.T) {
	names, err := Parse("a.example,b.example  *.example.org,LOCALHOST 2001:DB8:0::1 [2001:db8::1]")
	want := []string{"localhost", "127.0.0.1", "[::1]", "a.example", "b.example", "*.example.org", "[2001:db8::1]"}
	if err != nil || !slices.Equal(names.List(), want) {
		t.Errorf("%v, error %v; want %v", names.List(), err, want)
	}
	for _, wrong := range []string{"a;b", "a.example }", "*", "*.*.example", "http://a", "a:80", "ñ.example", "a\nb", "-a", "a."} {
		if _, err := Parse(wrong); err == nil || !strings.Contains(err.Error(), "neither a host name nor an address") {
			t.Errorf("%q: error %v", wrong, err)
		}
	}
}

// The machine gets another address while the server runs, and requests with wrong hosts cost no look-up each.
func TestAddressesAreLookedUpAgain(t *testing.T) {
	names, _ := Parse("")
	lookUps, own, failure := 0, []net.Addr{address(t, "10.0.0.1/8")}, error(nil)
	names.lookUp = func() ([]net.Addr, error) {
		lookUps++
		return own, failure
	}
	if !names.Allowed("10.0.0.1") || names.Allowed("10.0.0.2") || names.Allowed("10.0.0.3") {
		t.Error("only 10.0.0.1 is the machine's")
	}
	own = append(own, address(t, "10.0.0.2/8"))
	if names.Allowed("10.0.0.2"); lookUps != 1 {
		t.Errorf("%d look-ups within a second, want 1", lookUps)
	}
	names.lookedUp = time.Now().Add(-2 * lookupInterval)
	if !names.Allowed("10.0.0.2") || lookUps != 2 {
		t.Errorf("the new address is refused, after %d look-ups", lookUps)
	}
	failure, own = errors.New("no netlink"), nil
	names.lookedUp = time.Now().Add(-2 * lookupInterval)
	if names.Allowed("10.0.0.9") || !names.Allowed("10.0.0.1") {
		t.Error("a failed look-up changes what is known")
	}
}

func TestTheMachinesOwnAddresses(t *testing.T) {
	names, _ := Parse("")
	all, err := net.InterfaceAddrs()
	if err != nil || len(all) == 0 {
		t.Skip("no interface")
	}
	for _, a := range all {
		host := a.(*net.IPNet).IP.String()
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		if !names.Allowed(host) {
			t.Errorf("%s is refused", host)
		}
	}
}
