package workers

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The descriptor that is handed down must not make accept block in all that share the socket, unless that is asked for.
func TestDescriptorBlocking(t *testing.T) {
	for _, want := range []bool{false, true} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		f, err := descriptor(ln.(*net.TCPListener), want)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0) // Fd is what starting a process calls
		if err != nil {
			t.Fatal(err)
		}
		if got := flags&unix.O_NONBLOCK == 0; got != want {
			t.Errorf("blocking: %v, not %v", got, want)
		}
	}
}

// Close returns only when the accept loop has noticed, so that what it accepted before is in its hands.
func TestCloseWaitsForTheAcceptLoop(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := newListener(inner)
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	taken := false // written before the loop's next Accept, which Close waits for
	go func() {
		time.Sleep(10 * time.Millisecond)
		taken = true
		_, _ = ln.Accept()
	}()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if !taken {
		t.Error("closed while a connection was on its way")
	}
}
