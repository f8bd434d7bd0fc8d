// Package line gives tests a network line of a certain rate and delay, between this host and a network namespace, and
// cuts its connections without a trace. It needs Linux, root and iproute2, but no module of the kernel besides tun.
package line

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"balanza/e2e/testenv"
)

// Config is how fast a line is. The zero value is as fast as this package can copy.
type Config struct {
	Rate  int           // bits a second, in each direction; 0: without a limit
	Delay time.Duration // in each direction: a round trip takes twice as long
}

const (
	mtu = 1500
	// buffer is how many bytes wait in each direction for their turn. A packet that finds it full is dropped, so that TCP
	// learns of the rate as it does on a real line: at 64 kbit/s a packet waits for up to 4 s.
	buffer = 32 << 10
	// maxOnTheWay is how many packets are in each direction, those that are being delayed included.
	maxOnTheWay = 4096
	protocolTCP = 6
)

// Line is a line between this host and a network namespace.
type Line struct {
	Address string // of the namespace, as this host reaches it

	namespace string

	mu       sync.Mutex
	config   Config
	seen     map[connection]struct{} // every TCP connection that had a packet on the line
	silenced map[connection]struct{}
	carried  int64 // bytes towards this host
}

// connection is a TCP connection between the two addresses of a line.
type connection struct{ hostPort, farPort uint16 }

// packet is an IP packet on its way.
type packet struct {
	data []byte
	at   time.Time // of its arrival
}

// count numbers the lines of this process.
var count atomic.Int32

// New makes a line. It is removed when the test ends, with all connections on it. The test is skipped where this process
// may not make one.
func New(t testing.TB, config Config) *Line {
	t.Helper()
	n := count.Add(1)
	id := fmt.Sprintf("%d-%d", os.Getpid(), n)
	hostAddress, farAddress, err := freeAddresses(os.Getpid() + int(n)<<10)
	if err != nil {
		t.Fatal(err)
	}
	l := &Line{
		Address: farAddress, namespace: "balanza-" + id, config: config,
		seen: map[connection]struct{}{}, silenced: map[connection]struct{}{},
	}
	host, far := "bh"+id, "bf"+id // a device's name has at most 15 characters

	hostEnd, err := openTUN(host)
	if err != nil {
		testenv.SkipOrFail(t, err)
	}
	t.Cleanup(func() { hostEnd.Close() })
	farEnd, err := openTUN(far)
	if err != nil {
		testenv.SkipOrFail(t, err)
	}
	t.Cleanup(func() { farEnd.Close() })
	if err := ip("netns", "add", l.namespace); err != nil {
		testenv.SkipOrFail(t, err)
	}
	t.Cleanup(func() {
		if err := ip("netns", "delete", l.namespace); err != nil {
			t.Error(err)
		}
	})
	for _, args := range [][]string{
		{"address", "add", hostAddress + "/30", "dev", host},
		{"link", "set", host, "mtu", fmt.Sprint(mtu), "up"},
		{"link", "set", far, "netns", l.namespace},
		{"-n", l.namespace, "address", "add", farAddress + "/30", "dev", far},
		{"-n", l.namespace, "link", "set", far, "mtu", fmt.Sprint(mtu), "up"},
		{"-n", l.namespace, "link", "set", "lo", "up"},
	} {
		if err := ip(args...); err != nil {
			t.Fatal(err)
		}
	}

	ctx, cancel := context.WithCancel(context.Background())
	var copiers sync.WaitGroup
	copiers.Go(func() { l.carry(ctx, hostEnd, farEnd, true) })
	copiers.Go(func() { l.carry(ctx, farEnd, hostEnd, false) })
	t.Cleanup(func() {
		cancel()
		hostEnd.Close()
		farEnd.Close()
		copiers.Wait()
	})
	return l
}

// freeAddresses returns the two addresses of a network 10.x.y.0/30 that overlaps with none of this host's. Different
// seeds give different networks: a process that makes a line at the same time has another one.
func freeAddresses(seed int) (host, far string, err error) {
	used, err := net.InterfaceAddrs()
	if err != nil {
		return "", "", err
	}
	for range 1000 {
		network := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(seed >> 8), byte(seed), 0}), 30)
		free := true
		for _, a := range used {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Overlaps(network) {
				free = false
			}
		}
		if free {
			one := network.Addr().Next()
			return one.String(), one.Next().String(), nil
		}
		seed++
	}
	return "", "", fmt.Errorf("no free network among the addresses %v", used)
}

// ip runs a command of iproute2.
func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %v: %w\n%s", args, err, out)
	}
	return nil
}

// Command returns a command that runs in the namespace. Its process is the program's own, without a parent in between.
func (l *Line) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", l.namespace, name}, args...)...)
}

// Set changes the line's rate and delay for packets that come from now on.
func (l *Line) Set(config Config) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.config = config
}

// Silence drops from now on every packet of the TCP connections that the line has carried so far, in both directions and
// without an answer. New connections are not affected. A client of a server whose machine has lost its power sees the
// same, when a balancer leads its next connection to another one.
func (l *Line) Silence() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.seen {
		l.silenced[c] = struct{}{}
	}
}

// Carried returns how many bytes, with all headers, have reached this host.
func (l *Line) Carried() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.carried
}

// carry copies packets in one direction until a device is closed or ctx ends.
func (l *Line) carry(ctx context.Context, from, to *os.File, fromHost bool) {
	onTheWay := make(chan packet, maxOnTheWay)
	var writer sync.WaitGroup
	defer writer.Wait()
	defer close(onTheWay)
	writer.Go(func() {
		for p := range onTheWay {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Until(p.at)):
			}
			if l.arrive(p, fromHost) {
				_, _ = to.Write(p.data) // fails when the device is closed: then the reader ends too
			}
		}
	})
	var sent time.Time // when the last bit of all packets so far is on the line
	for {
		data := make([]byte, mtu)
		n, err := from.Read(data)
		if err != nil {
			return
		}
		p := packet{data: data[:n]}
		if data[0]>>4 != 4 {
			continue // the kernel looks for IPv6 routers on every new device
		}
		config := l.depart(p, fromHost)
		now := time.Now()
		if sent.Before(now) {
			sent = now
		}
		if config.Rate > 0 {
			waiting := int(sent.Sub(now).Seconds() * float64(config.Rate) / 8)
			if waiting+n > buffer {
				continue
			}
			sent = sent.Add(time.Duration(n) * 8 * time.Second / time.Duration(config.Rate))
		}
		p.at = sent.Add(config.Delay)
		select {
		case onTheWay <- p:
		default: // dropped, as by a full buffer
		}
	}
}

// depart remembers a packet's connection and returns the line's present configuration.
func (l *Line) depart(p packet, fromHost bool) Config {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c, ok := p.connection(fromHost); ok {
		l.seen[c] = struct{}{}
	}
	return l.config
}

// arrive reports whether a packet may leave the line.
func (l *Line) arrive(p packet, fromHost bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c, ok := p.connection(fromHost); ok {
		if _, dropped := l.silenced[c]; dropped {
			return false
		}
	}
	if !fromHost {
		l.carried += int64(len(p.data))
	}
	return true
}

// connection returns the TCP connection of an IPv4 packet (RFC 791, RFC 9293). TCP does not let it be fragmented.
func (p packet) connection(fromHost bool) (connection, bool) {
	const protocol = 9 // offset of that field
	header := int(p.data[0]&15) * 4
	if len(p.data) < header+4 || len(p.data) <= protocol || p.data[protocol] != protocolTCP {
		return connection{}, false
	}
	source, destination := binary.BigEndian.Uint16(p.data[header:]), binary.BigEndian.Uint16(p.data[header+2:])
	if fromHost {
		return connection{source, destination}, true
	}
	return connection{destination, source}, true
}
