package workers

import (
	"errors"
	"math"
	"net"
	"sync"
	"testing"
)

// testTurns are turns that end with the test.
func testTurns(t *testing.T) *turns {
	t.Helper()
	f, page, err := newTurns()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { page.close(); f.Close() })
	return page
}

// Two workers that take turns end within the slack of each other, a third that came late included, and one that is asked
// in vain does not hold up the others for ever.
func TestTurns(t *testing.T) {
	page := testTurns(t)
	page.join(0)
	page.join(1)
	page.rows[0].accepted.Store(1000)
	if !page.ahead(0) || page.ahead(1) {
		t.Error("the one with 1000 is not ahead of the one with 0")
	}
	page.forfeit(0)
	if page.ahead(0) {
		t.Error("the turns of a worker that does not take them still count")
	}
	page.join(2)
	if n := page.rows[2].accepted.Load(); math.Abs(float64(n-1000)) > slack {
		t.Errorf("a worker that came late starts at %d", n)
	}
	page.rows[0].accepted.Add(slack + 1)
	page.leave(1)
	page.leave(2)
	if page.ahead(0) {
		t.Error("a worker is ahead of those that have left")
	}
	var wg sync.WaitGroup
	for i := range maxRows {
		wg.Go(func() { page.join(i) })
	}
	wg.Wait()
	if n := page.used.Load(); n != maxRows {
		t.Errorf("%d rows in use", n)
	}
}

// An accept loop that waits learns that its listener is closed, as servers expect to be told: a drain waits for that.
func TestCloseEndsAccept(t *testing.T) {
	page := testTurns(t)
	plain, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := page.shareOf(plain, 0)
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
