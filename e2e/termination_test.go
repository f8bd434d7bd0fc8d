package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"balanza/e2e/load"
	"balanza/e2e/proctree"
)

// The table of docs/termination.md: what is killed and how, what `balanza ps` and the operating system show then, and which
// requests fail of clients behind the balancer that repeat none.

const loadClients = 4

// TestProcessTerminated has the rows in which one process ends. It is replaced, and no other process is.
func TestProcessTerminated(t *testing.T) {
	t.Parallel()
	f := up(t, "BALANZA_HEARTBEAT_TIMEOUT=2s")
	for _, row := range []struct {
		server   string // its first process ends
		how      string
		end      func(t *testing.T, pid int)
		failures int // allowed, in requests
	}{
		{"fork", "TERM", signalWith(syscall.SIGTERM), 0},
		{"fork", "INT", signalWith(syscall.SIGINT), 0},
		{"fork", "KILL", signalWith(syscall.SIGKILL), 0},
		{"fork", "STOP", signalWith(syscall.SIGSTOP), 0},
		{"fork", "OOM", outOfMemory, 0},
		{"cluster", "TERM", signalWith(syscall.SIGTERM), 0},
		{"cluster", "INT", signalWith(syscall.SIGINT), 0},
		{"cluster", "KILL", signalWith(syscall.SIGKILL), 0},
		{"cluster", "STOP", signalWith(syscall.SIGSTOP), 0},
		{"cluster", "OOM", outOfMemory, 0},
		// A connection to the balancer's process breaks with it; new ones wait in the queue of its socket.
		{"edge", "TERM", signalWith(syscall.SIGTERM), 0},
		{"edge", "INT", signalWith(syscall.SIGINT), 0},
		{"edge", "KILL", signalWith(syscall.SIGKILL), loadClients},
		{"edge", "STOP", signalWith(syscall.SIGSTOP), loadClients},
		{"edge", "OOM", outOfMemory, loadClients},
	} {
		t.Run(row.server+" "+row.how, func(t *testing.T) {
			before := f.awaitOnline(fleetSize)
			l := startLoad(t, f.address("edge"), loadClients, "GET /info", "GET /api/randoms?cant=1000")
			l.AwaitResponses(t, 20)
			victim := before[row.server].Workers[0].Pid
			row.end(t, victim)
			eventually(t, "end of the process", func() error { return proctree.Exited(victim) })
			after := f.awaitOnline(fleetSize)
			l.AwaitResponses(t, 40)
			l.Stop()
			l.CheckFailures(t, row.failures)
			for name, was := range before {
				is, restarts := after[name], 0
				if name == row.server {
					restarts = 1
				}
				if is.Restarts != was.Restarts+restarts || is.Pid != was.Pid || len(is.Workers) != len(was.Workers) {
					t.Errorf("%s was %+v and is %+v", name, was, is)
				}
				for i, w := range is.Workers {
					if changed := w.Pid != was.Workers[i].Pid; changed != (name == row.server && i == 0) {
						t.Errorf("%s was %+v and is %+v", name, was, is)
					}
				}
			}
		})
	}
}

// signalWith returns a function that sends a signal to a process.
func signalWith(signal syscall.Signal) func(*testing.T, int) {
	return func(t *testing.T, pid int) {
		t.Helper()
		sendSignal(t, pid, signal)
	}
}

// sendSignal sends a signal to a process, or to the process group -pid when pid is negative.
func sendSignal(t *testing.T, pid int, signal syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, signal); err != nil {
		t.Fatalf("%v to process %d: %v", signal, pid, err)
	}
}

// outOfMemory moves a process into a cgroup with hardly any memory, where the kernel kills it.
func outOfMemory(t *testing.T, pid int) {
	t.Helper()
	var cause error
	for _, kind := range [][2]string{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, // version 1
		{"/sys/fs/cgroup", "memory.max"},                   // version 2
	} {
		group := filepath.Join(kind[0], fmt.Sprintf("balanza-e2e-%d", os.Getpid()))
		if err := os.Mkdir(group, 0o700); err != nil {
			cause = errors.Join(cause, err)
			continue
		}
		t.Cleanup(func() {
			eventually(t, "removal of "+group, func() error { return os.Remove(group) })
		})
		err := os.WriteFile(filepath.Join(group, kind[1]), []byte("65536"), 0)
		if err == nil {
			err = os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		}
		if err == nil {
			return
		}
		cause = errors.Join(cause, err)
	}
	t.Skipf("limiting a process's memory: %v", cause)
}

// TestMasterTerminated has the rows in which the master ends, or all processes.
func TestMasterTerminated(t *testing.T) {
	t.Parallel()
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run("master "+map[syscall.Signal]string{syscall.SIGTERM: "TERM", syscall.SIGINT: "INT"}[s], func(t *testing.T) {
			t.Parallel()
			f := up(t, "BALANZA_DRAIN_TIMEOUT=2m") // a long draw ends within it, whatever else this machine does
			all := f.processes()
			inFlight := make(chan error, 1)
			go func() { inFlight <- load.Send(f.address("cluster"), "GET /api/randoms?cant=1000000000") }()
			eventually(t, "a long draw", func() error { return drawing(f.ps()["cluster"]) })
			if err := f.cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
			if err := f.cmd.Wait(); err != nil {
				t.Errorf("exit of the master: %v", err)
			}
			if err := <-inFlight; err != nil {
				t.Errorf("the request in flight: %v", err)
			}
			f.awaitNothingLeft(all)
		})
	}

	t.Run("master TERM twice", func(t *testing.T) {
		t.Parallel()
		f := up(t)
		all := f.processes()
		inFlight := make(chan error)
		const draws = 10 // together they take longer than the rest of this test, on any machine
		for range draws {
			go func() { inFlight <- load.Send(f.address("cluster"), "GET /api/randoms?cant=1000000000") }()
		}
		eventually(t, "a long draw", func() error { return drawing(f.ps()["cluster"]) })
		sendSignal(t, f.cmd.Process.Pid, syscall.SIGTERM)
		eventually(t, "the drain", func() error {
			if now := f.ps()["cluster"]; now.Status != "stopping" {
				return fmt.Errorf("%+v", now)
			}
			return nil
		})
		sendSignal(t, f.cmd.Process.Pid, syscall.SIGTERM)
		_ = f.cmd.Wait()
		if code := f.cmd.ProcessState.ExitCode(); code != 1 {
			t.Errorf("exit status %d", code)
		}
		failed := 0
		for range draws {
			if err := <-inFlight; err != nil {
				failed++
			}
		}
		if failed == 0 {
			t.Error("no request in flight failed after the second signal")
		}
		f.awaitNothingLeft(all)
	})

	t.Run("master KILL", func(t *testing.T) {
		t.Parallel()
		f := up(t)
		all := f.processes()
		stopped := f.ps()["cluster"].Workers[0].Pid // a stopped process exits, too
		proctree.Stop(t, stopped)
		sendSignal(t, f.cmd.Process.Pid, syscall.SIGKILL)
		_ = f.cmd.Wait()
		f.awaitNothingLeft(all)
		f.launch() // the files that it left do not prevent a second start
	})

	t.Run("master HUP", func(t *testing.T) {
		t.Parallel()
		f := up(t)
		before := f.awaitOnline(fleetSize)
		l := startLoad(t, f.address("edge"), loadClients, "GET /info", "GET /api/randoms?cant=1000")
		l.AwaitResponses(t, 20)
		sendSignal(t, -f.cmd.Process.Pid, syscall.SIGHUP) // the whole process group, as a terminal does
		for _, was := range before {
			for _, w := range was.Workers {
				_ = syscall.Kill(w.Pid, syscall.SIGHUP) // it may have exited
			}
		}
		eventually(t, "reload", func() error {
			for _, l := range f.ps() {
				for _, w := range l.Workers {
					if w.Generation < 2 || w.Status != "online" {
						return fmt.Errorf("%+v", l)
					}
				}
			}
			return nil
		})
		l.AwaitResponses(t, 40)
		l.Stop()
		l.CheckFailures(t, 0)
		for name, is := range f.awaitOnline(fleetSize) {
			for _, w := range is.Workers {
				if w.Generation != 2 {
					t.Errorf("%s was reloaded more than once: %+v", name, is)
				}
			}
			if is.Restarts != 0 {
				t.Errorf("%s: a worker exited on SIGHUP: %+v", name, is)
			}
		}
	})

	t.Run("master STOP", func(t *testing.T) {
		t.Parallel()
		f := up(t, "BALANZA_HEARTBEAT_TIMEOUT=2s")
		before := f.awaitOnline(fleetSize)
		l := startLoad(t, f.address("edge"), loadClients, "GET /info", "GET /api/randoms?cant=1000")
		l.AwaitResponses(t, 20)
		proctree.Stop(t, f.cmd.Process.Pid)
		for name, is := range f.ps() {
			if is.Status != "unresponsive" {
				t.Errorf("%s is %s while its master is stopped", name, is.Status)
			}
		}
		l.AwaitResponses(t, 40)
		time.Sleep(3 * time.Second) // longer than the heartbeat timeout
		sendSignal(t, f.cmd.Process.Pid, syscall.SIGCONT)
		after := f.awaitOnline(fleetSize)
		l.AwaitResponses(t, 40)
		l.Stop()
		l.CheckFailures(t, 0)
		for name, is := range after {
			if was := before[name]; is.Restarts != 0 || !slices.Equal(is.Workers, was.Workers) {
				t.Errorf("%s was %+v and is %+v", name, was, is)
			}
		}
	})

	t.Run("all KILL", func(t *testing.T) {
		t.Parallel()
		f := up(t)
		all := f.processes()
		for _, pid := range all {
			sendSignal(t, pid, syscall.SIGKILL)
		}
		_ = f.cmd.Wait()
		f.awaitNothingLeft(all)
		f.launch()
		c := http.Client{Timeout: 5 * time.Second}
		answer, err := c.Get(f.url + "/info")
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
	})

	t.Run("all TERM", func(t *testing.T) {
		t.Parallel()
		f := up(t)
		all := f.processes()
		for _, pid := range slices.Backward(all) { // workers first, as an init that signals everything might
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
		if err := f.cmd.Wait(); err != nil {
			t.Errorf("exit of the master: %v", err)
		}
		f.awaitNothingLeft(all)
		if conn, err := net.Dial("tcp", f.address("edge")); err == nil {
			conn.Close()
			t.Error("the port accepts connections")
		}
	})
}

// TestForkTerminated has the rows of a FORK server alone: it is one process, which nothing supervises.
func TestForkTerminated(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		how    syscall.Signal
		status int
	}{{syscall.SIGTERM, 0}, {syscall.SIGINT, 0}, {syscall.SIGKILL, -1}} {
		t.Run(row.how.String(), func(t *testing.T) {
			s := serve(t, t.TempDir(), "--name", "site")
			s.end(row.how)
			if code := s.cmd.ProcessState.ExitCode(); code != row.status {
				t.Errorf("exit status %d", code)
			}
			if all := s.ps(); len(all) != 0 {
				t.Errorf("balanza ps lists %+v", all)
			}
			s.start() // on the same port
			s.awaitOnline(1)
		})
	}
}

// drawing returns nil when the server's processes used 30 ms of CPU time or more within 200 ms, which only a draw does.
func drawing(l serverStatus) error {
	used := func() (sum time.Duration) {
		for _, w := range l.Workers {
			sum += proctree.UserTime(w.Pid)
		}
		return sum
	}
	before := used()
	time.Sleep(200 * time.Millisecond)
	if d := used() - before; d < 30*time.Millisecond { // not much: other processes want the CPU too
		return fmt.Errorf("%v of CPU time", d)
	}
	return nil
}
