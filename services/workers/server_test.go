package workers

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"balanza/services/workers/control"
)

func TestControlSocket(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 2)
	s.KeepStopped = true
	s.Metadata = control.Metadata{LogFile: "a.log", Command: []string{"balanza"}, Dir: "/"}
	r := start(t, s)
	c := control.NewClient(s.ControlDir, s.Name)
	order := func(what string, count int) error { return c.Order(t.Context(), what, count) }
	status := func() control.Status {
		all, err := control.List(t.Context(), s.ControlDir)
		if err != nil || len(all) != 1 {
			t.Fatalf("%+v, %v", all, err)
		}
		return all[0]
	}
	first := status()
	if first.Name != "test" || first.Port != r.Port() || first.Pid != os.Getpid() || first.Status != "online" ||
		first.LogFile != "a.log" || len(first.Workers) != 2 {
		t.Errorf("%+v", first)
	}
	for _, o := range []struct {
		what  string
		count int
	}{{"reload", 0}, {"restart", 0}, {"scale", 3}, {"stop", 0}} {
		if err := order(o.what, o.count); err != nil {
			t.Errorf("%s %d: %v", o.what, o.count, err)
		}
		if o.what != "stop" {
			if err := order("scale", 0); err == nil || err.Error() != "workers: 0 is not between 1 and 100" {
				t.Errorf("scaled to 0: %v", err)
			}
		}
	}
	if st := status(); st.Status != "stopped" || len(st.Workers) != 0 {
		t.Errorf("stopped: %+v", st)
	}
	if _, _, err := request(r.url("/")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("stopped, it answers: %v", err)
	}
	for _, what := range []string{"reload", "scale"} {
		if err := order(what, 1); err == nil || err.Error() != "test is stopped" {
			t.Errorf("%s of a stopped server: %v", what, err)
		}
	}
	if err := order("stop", 0); err != nil { // a second stop is no error
		t.Error(err)
	}
	if err := order("start", 0); err != nil {
		t.Fatal(err)
	}
	r.online(3) // the number of workers is kept
	if err := order("start", 0); err != nil {
		t.Errorf("started twice: %v", err)
	}
	get(t, r.url("/"))
	if err := order("delete", 0); err != nil {
		t.Error(err)
	}
	if err := r.stopped(); err != nil {
		t.Error(err)
	}
	if all, err := control.List(t.Context(), s.ControlDir); err != nil || len(all) != 0 {
		t.Errorf("deleted: %+v, %v", all, err)
	}
}

// The socket of a server that was killed is not listed, and a server with the same name starts.
func TestStaleControlSocket(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 1)
	path := filepath.Join(s.ControlDir, s.Name+".sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	if all, err := control.List(t.Context(), s.ControlDir); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	start(t, s)
	if all, err := control.List(t.Context(), s.ControlDir); err != nil || len(all) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
}

// A server that does not answer on its socket is listed as unresponsive.
func TestUnresponsiveServer(t *testing.T) {
	t.Parallel()
	home := shortDir(t)
	ln, err := net.Listen("unix", filepath.Join(home, "silent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	all, err := control.List(t.Context(), home)
	if err != nil || len(all) != 1 || all[0].Name != "silent" || all[0].Status != "unresponsive" {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestSecondServer(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 1)
	r := start(t, s)
	s.Port = r.Port()
	if _, err := NewServer(s); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("port %d is taken", s.Port)) {
		t.Errorf("on the same port: %v", err)
	}
	s.Port = 0
	second, err := NewServer(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "a server named test is running already") {
		t.Errorf("of the same name: %v", err)
	}
	if all, err := control.List(t.Context(), s.ControlDir); err != nil || len(all) != 1 || all[0].Status != "online" {
		t.Errorf("the first: %+v, %v", all, err)
	}
	for _, name := range []string{"", "../up", "a/b", ".hidden", strings.Repeat("x", 65), "a b"} {
		if CheckName(name) == nil {
			t.Errorf("the name %q is accepted", name)
		}
	}
	s.ControlDir = filepath.Join(s.ControlDir, strings.Repeat("x", 103))
	long, err := NewServer(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := long.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("a path too long: %v", err)
	}
}

// With KeepStopped, a server that ended with an error is listed as errored and can be started again.
func TestErroredServerStartsAgain(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 1)
	s.KeepStopped = true
	if err := os.WriteFile(filepath.Join(s.ControlDir, "behaviour"), []byte("exit"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, s)
	eventually(t, "error", func() error {
		if st := r.Status(); st.Status != "errored" || !strings.Contains(st.Cause, "exit as ordered") {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	r.behave("")
	if err := r.Restart(); err != nil {
		t.Fatal(err)
	}
	r.online(1)
	get(t, r.url("/"))
}

// A slot that the system could not start a process in is tried again as long as it takes; one whose program fails is
// disabled.
func TestTemporaryFailuresDisableNothing(t *testing.T) {
	s := &Server{Config: Config{Name: "test", Logger: slog.New(slog.DiscardHandler)}, wasReady: true}
	slot := &workerSlot{number: 1, generation: 1}
	s.slots = []*workerSlot{slot, {number: 2}}
	for range 3 * maxFailures {
		s.spawnFailed(slot, fmt.Errorf("fork/exec: %w", syscall.EMFILE))
	}
	if slot.disabled || slot.retryAt.IsZero() || !strings.Contains(slot.cause, "too many open files") {
		t.Errorf("%+v", slot)
	}
	for range maxFailures {
		s.spawnFailed(slot, errors.New("no such file"))
	}
	if !slot.disabled {
		t.Errorf("%+v", slot)
	}
}
