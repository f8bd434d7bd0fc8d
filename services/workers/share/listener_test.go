package share

import (
	"errors"
	"fmt"
	"net"
	"syscall"
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

// Close returns only when the accept loop has seen it, so that what the loop accepted before is in its server's hands.
func TestCloseWaitsForTheAcceptLoop(t *testing.T) {
	inner := &lateListener{called: make(chan struct{}, 2), closed: make(chan struct{})}
	ln := newListener(inner)
	ln.closeTimeout = time.Minute
	handled := false // written before the loop's second Accept, which Close waits for
	go func() {
		_, _ = ln.Accept()
		time.Sleep(10 * time.Millisecond)
		handled = true
		_, _ = ln.Accept()
	}()
	<-inner.called
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if !handled {
		t.Error("Close returned while the accept loop held a connection")
	}
}

// lateListener accepts one connection, at the moment when it is closed.
type lateListener struct {
	net.Listener
	called chan struct{}
	closed chan struct{}
	once   bool
}

func (l *lateListener) Accept() (net.Conn, error) {
	l.called <- struct{}{}
	<-l.closed
	if l.once {
		return nil, net.ErrClosed
	}
	l.once = true
	return nil, nil
}

func (l *lateListener) Close() error {
	close(l.closed)
	return nil
}

// After RejectNew the connections that are in the queue are still accepted, and new ones are not established: nobody
// sends a request into a socket that is about to be closed.
func TestRejectNew(t *testing.T) {
	s, err := Listen("127.0.0.1", "0", false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ln, err := s.InProcess()
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	var queued []net.Conn
	for range 20 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		queued = append(queued, conn)
	}
	if err := ln.RejectNew(); err != nil {
		t.Skipf("no socket filter here: %v", err)
	}
	late := make(chan error, 1)
	go func() { // the kernel repeats the SYN after a second; by then the socket is closed
		conn, err := net.DialTimeout("tcp", address, 30*time.Second)
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
			if err != nil {
				err = fmt.Errorf("established, then: %w", err)
			}
		}
		late <- err
	}()
	time.Sleep(100 * time.Millisecond)
	for i := range queued {
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if _, err := queued[i].Read(make([]byte, 1)); err != nil {
			t.Errorf("queued connection %d: %v", i, err)
		}
	}
	ln.Close()
	s.StopListening()
	if err := <-late; !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a connection after RejectNew: %v, want it refused", err)
	}
}
