package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// testServer notes the orders that it gets. While silent, it answers nothing.
type testServer struct {
	got    chan string
	silent chan struct{} // nil: it answers
}

func (s *testServer) Status() Status {
	if s.silent != nil {
		<-s.silent
	}
	return Status{Name: "test", Status: "online", Pid: os.Getpid()}
}

func (s *testServer) Order(_ context.Context, order string, count int) error {
	s.got <- fmt.Sprint(order, " ", count)
	if s.silent != nil {
		<-s.silent
	}
	if order == Reload {
		return errors.New("no new code")
	}
	return nil
}

func (s *testServer) Update(_ context.Context, change json.RawMessage) error {
	s.got <- "update " + string(change)
	return errors.New("the new program fails")
}

// serve answers on the control socket of a folder whose path is short enough for one.
func serve(t *testing.T, s Server) (dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "c")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	stop, err := Serve(dir, "test", s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return dir
}

func TestOrdersReachTheServer(t *testing.T) {
	t.Parallel()
	s := &testServer{got: make(chan string, 1)}
	c := NewClient(serve(t, s), "test")
	for _, order := range orders {
		err := c.Order(t.Context(), order, 3)
		if want := order == Reload; (err != nil) != want || want && err.Error() != "no new code" {
			t.Errorf("%s: %v", order, err)
		}
		if got := <-s.got; got != order+" 3" {
			t.Errorf("%s arrives as %q", order, got)
		}
	}
	err := c.Update(t.Context(), []string{"a&b=c", "é"})
	if got := <-s.got; got != `update ["a\u0026b=c","é"]` || err == nil || err.Error() != "the new program fails" {
		t.Errorf("an update arrives as %s, and its error as %v", got, err)
	}
	if err := c.Order(t.Context(), "explode", 0); err == nil {
		t.Error("an unknown order is no error")
	}
}

// A server that does not answer is listed with the pid of its process, and an order to it ends with an error that names
// the pid, or at once with the caller's context.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	s := &testServer{got: make(chan string, 3), silent: make(chan struct{})}
	dir := serve(t, s)
	t.Cleanup(func() { close(s.silent) })
	all, err := List(t.Context(), dir)
	if err != nil || len(all) != 1 || all[0].Status != "unresponsive" || all[0].Pid != os.Getpid() {
		t.Errorf("%+v, %v", all, err)
	}
	c := NewClient(dir, "test")
	if err := c.Order(t.Context(), Stop, 0); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("does not answer (pid %d)", os.Getpid())) {
		t.Errorf("an order: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.Order(ctx, Stop, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an order whose caller gives up: %v", err)
	}
}

// A socket that a killed server left is not listed.
func TestStaleSocket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: socketPath(dir, "stale"), Net: "unix"})
	if err != nil {
		t.Skip(err) // the path of the temporary folder is too long for a socket
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	if all, err := List(t.Context(), dir); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
}

// endingServer ends its control socket some time after it has carried out the order to end, as a busy process does.
type endingServer struct {
	testServer
	stop func()
}

func (s *endingServer) Order(context.Context, string, int) error {
	go func() {
		time.Sleep(300 * time.Millisecond)
		s.stop()
	}()
	return nil
}

// A server of the same name can be started as soon as the order to end one has been carried out.
func TestNameIsFreeAfterDelete(t *testing.T) {
	dir, err := os.MkdirTemp("", "c")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for range 3 {
		s := &endingServer{}
		ready := make(chan struct{})
		stop, err := Serve(dir, "one", s)
		if err != nil {
			t.Fatal(err)
		}
		s.stop = func() { stop(); close(ready) }
		if err := NewClient(dir, "one").Order(t.Context(), Delete, 0); err != nil {
			t.Fatal(err)
		}
		if all, err := List(t.Context(), dir); err != nil || len(all) != 0 {
			t.Errorf("after Delete: %+v, %v", all, err)
		}
		defer func() { <-ready }()
	}
}

// A name whose lock is held without a socket, as a server does that starts or ends, is waited for. Where a server listens,
// Serve fails.
func TestServeAwaitsTheLock(t *testing.T) {
	t.Parallel()
	dir := serve(t, &testServer{})
	if _, err := Serve(dir, "test", &testServer{}); err == nil || err.Error() != "a server named test is running already" {
		t.Errorf("a second server of a name: %v", err)
	}
	lock, err := acquireLock(lockPath(dir, "ending"))
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { lock.Close() })
	stop, err := Serve(dir, "ending", &testServer{})
	if err != nil {
		t.Fatal("beside a server that ends:", err)
	}
	stop()
}
