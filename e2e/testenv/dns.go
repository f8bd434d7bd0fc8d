package testenv

import (
	"context"
	"net"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// DNS is a name server of a test. It knows no name at first.
type DNS struct {
	Address string // 127.0.0.1:port, UDP

	mu      sync.Mutex
	silent  bool
	records map[string]dnsmessage.ResourceBody // by type and name
}

// ServeDNS serves until the test ends.
func ServeDNS(t testing.TB) *DNS {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	d := &DNS{Address: conn.LocalAddr().String(), records: map[string]dnsmessage.ResourceBody{}}
	go func() {
		buffer := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			if answer := d.answer(buffer[:n]); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	return d
}

// SetSilent makes the server answer nothing, or again.
func (d *DNS) SetSilent(silent bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.silent = silent
}

// AddMongo makes a mongodb+srv URI of name lead to a port of 127.0.0.1. The name has at least three parts.
func (d *DNS) AddMongo(name string, port uint16) { d.AddSRV(name, "mongo-1."+name, port) }

// AddSRV is AddMongo with the name of the server.
func (d *DNS) AddSRV(name, target string, port uint16) {
	d.mu.Lock()
	defer d.mu.Unlock()
	target += "."
	d.records[recordKey(dnsmessage.TypeSRV, "_mongodb._tcp."+name+".")] = &dnsmessage.SRVResource{
		Target: dnsmessage.MustNewName(target), Port: port,
	}
	d.records[recordKey(dnsmessage.TypeA, target)] = &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}
}

func recordKey(t dnsmessage.Type, name string) string { return t.String() + " " + name }

// answer answers a question, nil where there is no answer.
func (d *DNS) answer(question []byte) []byte {
	var m dnsmessage.Message
	d.mu.Lock()
	defer d.mu.Unlock()
	if m.Unpack(question) != nil || len(m.Questions) != 1 || d.silent {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.Additionals = true, nil
	if body, ok := d.records[recordKey(q.Type, q.Name.String())]; ok {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}, Body: body,
		}}
	} else {
		m.RCode = dnsmessage.RCodeNameError
	}
	answer, err := m.Pack()
	if err != nil {
		return nil
	}
	return answer
}

// Resolver returns a resolver that asks the server at an address alone.
func Resolver(address func() string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", address())
	}}
}
