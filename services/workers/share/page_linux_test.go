package share

import (
	"errors"
	"math"
	"net"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// testPage is a page that is freed at the test's end.
func testPage(t testing.TB) *page {
	t.Helper()
	f, p, err := newPage()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.close(); f.Close() })
	return p
}

// Processes that accept in turn end within a burst of each other, one that joins late included, and one that accepts
// nothing does not delay the others for ever.
func TestPage(t *testing.T) {
	page := testPage(t)
	page.join(0)
	page.join(1)
	page.rows[0].answers.Store(1000)
	if !page.ahead(0) || page.ahead(1) {
		t.Error("the row with 1000 is not ahead of the row with 0")
	}
	page.catchUp(0)
	if page.ahead(0) {
		t.Error("the row that accepts nothing still counts as behind")
	}
	page.join(2)
	if n := page.rows[2].answers.Load(); math.Abs(float64(n-1000)) > burst {
		t.Errorf("a process that joins late starts at %d", n)
	}
	page.rows[0].answers.Add(burst + 1)
	page.leave(1)
	page.leave(2)
	if page.ahead(0) {
		t.Error("a row is ahead of rows that have left")
	}
	var wg sync.WaitGroup
	for i := range MaxProcesses {
		wg.Go(func() { page.join(i) })
	}
	wg.Wait()
	if n := page.used.Load(); n != MaxProcesses {
		t.Errorf("%d rows in use", n)
	}
}

// counting returns a Listener of row i that only counts.
func counting(p *page, i int) *Listener {
	l := newListener(nil)
	l.counted, l.own, l.seed = p.countersOf(i)
	return l
}

// All processes together reach a limit, exactly; what a process that has ended counted is taken off.
func TestAcquire(t *testing.T) {
	f, parent, err := newPage()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	defer parent.close()
	var listeners []*Listener
	for i := range 2 {
		child, err := openPage(f) // as a process of its own has it
		if err != nil {
			t.Fatal(err)
		}
		defer child.close()
		child.join(i)
		listeners = append(listeners, counting(child, i))
	}
	const limit = 16
	all := func(key string) (releases []func()) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 10 * limit {
			wg.Go(func() {
				if release, ok := listeners[i%2].Acquire(key, limit); ok {
					mu.Lock()
					defer mu.Unlock()
					releases = append(releases, release)
				}
			})
		}
		wg.Wait()
		return releases
	}
	for range 3 {
		releases := all("192.0.2.1")
		if len(releases) != limit {
			t.Fatalf("%d at a time, the limit is %d", len(releases), limit)
		}
		if _, ok := listeners[1].Acquire("192.0.2.2", limit); !ok {
			t.Fatal("another key is at the limit")
		}
		for _, release := range releases {
			release()
		}
	}
	all("192.0.2.1")
	parent.clear(0) // the process has ended
	mine := int(listeners[1].own[0].Load())
	for slot := range listeners[1].own {
		mine = max(mine, int(listeners[1].own[slot].Load()))
	}
	if got := len(all("192.0.2.1")); got != limit-mine {
		t.Errorf("%d at a time beside the %d of the other process, the limit is %d", got, mine, limit)
	}
}

// A page that a master of an older build has made is smaller: it grows.
func TestOldPage(t *testing.T) {
	f, parent, err := newPage()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	parent.close()
	if err := f.Truncate(64 * (MaxProcesses + 1)); err != nil {
		t.Fatal(err)
	}
	p, err := openPage(f)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if _, ok := counting(p, MaxProcesses-1).Acquire("192.0.2.1", 1); !ok {
		t.Error("nothing was counted yet, and the limit is reached")
	}
}

// An accept loop that waits gets net.ErrClosed when its listener is closed: a drain waits for that.
func TestCloseEndsAccept(t *testing.T) {
	page := testPage(t)
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := page.listener(tcp, 0)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				ended <- err
				return
			}
			conn.Close()
		}
	}()
	client, err := net.Dial("tcp", ln.Addr().String()) // the loop runs
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept ended with %v, want %v", err, net.ErrClosed)
	}
}

// A connection that was accepted with the last descriptor is not lost: it waits for the second one that it needs.
func TestAcceptWithTheLastDescriptor(t *testing.T) {
	page := testPage(t)
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := page.listener(tcp, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	free, err := unix.Dup(0) // the lowest free number
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(free)
	few := before
	few.Cur = uint64(free + 1)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	_, err = ln.Accept()
	if restored := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); restored != nil {
		t.Fatal(restored)
	}
	if !errors.Is(err, unix.EMFILE) {
		t.Fatalf("with one descriptor: %v", err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("a")); err != nil {
		t.Fatal(err)
	}
	if n, err := client.Read(make([]byte, 1)); n != 1 {
		t.Errorf("the client of the waiting connection: %v", err)
	}
}
