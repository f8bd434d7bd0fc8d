package mongostore

import (
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"balanza/e2e/testenv"
	"balanza/services/store"
	"balanza/services/store/storetest"
)

// nameServer is the address of the name server that the driver asks in these tests.
var nameServer atomic.Value

func init() {
	nameServer.Store("127.0.0.1:1")
	net.DefaultResolver = testenv.Resolver(func() string { return nameServer.Load().(string) })
}

// A name that can't be looked up, since the DNS is away or does not have it, is an outage: the store opens at once, and works
// when the DNS does. A call does not wait for a DNS that is silent.
func TestNameServerAway(t *testing.T) {
	const name = "db.example.test"
	uri := "mongodb+srv://ana:" + secret + "@" + name + "/?tls=false&srvMaxHosts=1"
	port := uint16(listenWire(t))
	for _, away := range []string{"down", "silent", "no such name"} {
		t.Run(away, func(t *testing.T) {
			dns := testenv.ServeDNS(t)
			if away != "down" {
				nameServer.Store(dns.Address)
				dns.SetSilent(away == "silent")
			}
			defer nameServer.Store("127.0.0.1:1")
			began := time.Now()
			s := storetest.Open(t, Open, uri)
			_, err := s.Last(t.Context())
			if took := time.Since(began); took > 5*time.Second { // after which the resolver itself gives up
				t.Errorf("opened and called in %v", took)
			}
			if !errors.Is(err, store.ErrUnavailable) || errors.As(err, new(*store.RefusedError)) || strings.Contains(err.Error(), secret) ||
				!strings.Contains(err.Error(), name) {
				t.Errorf("error %v", err)
			}
			if away == "down" {
				storetest.Outage(t, s)
			}
			dns.AddMongo(name, port)
			dns.SetSilent(false)
			nameServer.Store(dns.Address)
			for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
				// The server refuses the password, so the store has found it.
				_, err := s.Last(t.Context())
				if refused, ok := errors.AsType[*store.RefusedError](err); ok && refused.Reason == wrongPassword {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("30 s after the name server came: %v", err)
				}
			}
		})
	}
}

// listenWire runs a server that refuses every password, and returns its port.
func listenWire(t *testing.T) int {
	ln := listen(t)
	serveWire(t, ln, fails("saslStart", authenticationFailed))
	return ln.Addr().(*net.TCPAddr).Port
}

// Records that lead to another domain are refused, as the specification of mongodb+srv demands.
func TestNameOfAnotherDomain(t *testing.T) {
	dns := testenv.ServeDNS(t)
	nameServer.Store(dns.Address)
	defer nameServer.Store("127.0.0.1:1")
	dns.AddSRV("db.example.test", "mongo.example.org", 27017)
	if got := refusalOf(t, "mongodb+srv://db.example.test/"); got != wrongRecords {
		t.Errorf("%q, want %q", got, wrongRecords)
	}
}

// A store that is closed before its name was found ends its look-up.
func TestCloseBeforeLookup(t *testing.T) {
	dns := testenv.ServeDNS(t)
	nameServer.Store(dns.Address)
	defer nameServer.Store("127.0.0.1:1")
	d, err := open("mongodb+srv://db.example.test/")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	dns.AddMongo("db.example.test", 1)
	time.Sleep(lookupInterval + 500*time.Millisecond)
	if d.client != nil {
		t.Error("a closed store has connected")
	}
}
