package workers

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"balanza/e2e/proctree"
	"balanza/services/workers/control"
)

// remote is a server whose master is a process of its own.
type remote struct {
	t      *testing.T
	cmd    *exec.Cmd
	pid    int // of the master, in the test's PID namespace
	home   string
	port   int
	mu     sync.Mutex
	text   strings.Builder
	exited chan struct{} // closed when cmd has exited
}

func (r *remote) Write(text []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(text)
}

func (r *remote) output() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// launch starts a master as a process, through the wrapper command if there is one, and waits until its workers are online.
func launch(t *testing.T, s Config, wrapper ...string) *remote {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0") // finds a free port
	if err != nil {
		t.Fatal(err)
	}
	s.Port = ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	config, err := json.Marshal(masterConfig{ControlDir: s.ControlDir, Port: s.Port, Count: s.Count, Single: s.Single})
	if err != nil {
		t.Fatal(err)
	}
	r := &remote{t: t, home: s.ControlDir, port: s.Port, exited: make(chan struct{})}
	args := append(slices.Clone(wrapper), os.Args[0])
	r.cmd = exec.Command(args[0], args[1:]...)
	r.cmd.Env = append(os.Environ(), roleVariable+"=master", specVariable+"="+string(config))
	r.cmd.Stdout, r.cmd.Stderr = r, r
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.exited)
		_ = r.cmd.Wait()
	}()
	t.Cleanup(func() {
		if r.pid > 0 {
			_ = syscall.Kill(r.pid, syscall.SIGKILL)
		}
		_ = r.cmd.Process.Kill()
		<-r.exited
		if t.Failed() {
			t.Log(r.output())
		}
	})
	eventually(t, "the master's workers", func() error {
		select {
		case <-r.exited:
			t.Fatal("the master exited")
		default:
		}
		st, err := r.status()
		if err == nil && st.Status != "online" {
			err = fmt.Errorf("%+v", st)
		}
		for _, w := range st.Workers {
			if w.Status != "online" {
				err = fmt.Errorf("%+v", st)
			}
		}
		return err
	})
	r.pid = r.cmd.Process.Pid
	if len(wrapper) > 0 {
		children := proctree.Children(t, r.pid)
		if len(children) != 1 {
			t.Fatalf("children of %s: %v", wrapper[0], children)
		}
		r.pid = children[0]
	}
	return r
}

func (r *remote) status() (control.Status, error) {
	return control.NewClient(r.home, "test").Status(r.t.Context())
}

func (r *remote) url(path string) string { return fmt.Sprintf("http://127.0.0.1:%d%s", r.port, path) }

// killMaster kills the master, with one worker stopped, and checks that all workers exit and the port becomes free.
func (r *remote) killMaster() {
	t := r.t
	t.Helper()
	children := proctree.Children(t, r.pid)
	if len(children) == 0 {
		t.Fatal("the master has no children")
	}
	proctree.Stop(t, children[0])
	signalProcess(t, r.pid, syscall.SIGKILL)
	<-r.exited
	began := time.Now()
	for _, pid := range children {
		eventually(t, "exit of a worker", func() error { return proctree.Exited(pid) })
	}
	t.Logf("all workers exited after %v", time.Since(began).Round(time.Millisecond))
	eventually(t, "free port", func() error { // a killed process closes its files with a delay
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", r.port))
		if err == nil {
			ln.Close()
		}
		return err
	})
}

func TestMasterKilled(t *testing.T) {
	t.Parallel()
	r := launch(t, testConfig(t, 3))
	for range 6 { // the exit does not wait for requests in flight
		answer, err := noKeepAlive.Get(r.url("/until?file=" + r.home + "/never"))
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
	}
	r.killMaster()
}

func TestMasterKilledAsProcess1(t *testing.T) {
	t.Parallel()
	launch(t, testConfig(t, 3), namespace(t)...).killMaster()
}

// namespace returns a wrapper command that runs another command as process 1 of a PID namespace.
func namespace(t *testing.T) []string {
	t.Helper()
	command := []string{"unshare", "--pid", "--fork", "--mount-proc", "--kill-child"}
	if out, err := exec.Command(command[0], append(command[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("making a PID namespace: %v: %s", err, out)
	}
	return command
}

// Process 1 reaps the orphans that it adopts, and not its workers: it still learns the cause of their exit.
func TestProcess1ReapsOrphans(t *testing.T) {
	t.Parallel()
	r := launch(t, testConfig(t, 2), namespace(t)...)
	for range 10 {
		get(t, r.url("/orphan"))
	}
	for n := 1; n <= 5; n++ {
		st, err := r.status()
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range proctree.Children(t, r.pid) {
			if innerPid(t, pid) == st.Workers[0].Pid {
				signalProcess(t, pid, syscall.SIGKILL)
			}
		}
		get(t, r.url("/orphan"))
		eventually(t, "replacement", func() error {
			st, err := r.status()
			if err == nil && (st.Restarts != n || st.Workers[0].Status != "online") {
				err = fmt.Errorf("%+v", st)
			}
			return err
		})
	}
	if n := strings.Count(r.output(), "signal: killed"); n != 5 {
		t.Errorf("5 workers were killed, the log has %d", n)
	}
	eventually(t, "exit of the orphans", func() error {
		left := proctree.Children(t, r.pid)
		if len(left) != 2 {
			return fmt.Errorf("%v", left)
		}
		return nil
	})
}

// innerPid returns a process's pid in its own namespace, 0 when it has exited.
func innerPid(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			numbers := strings.Fields(rest)
			n, _ := strconv.Atoi(numbers[len(numbers)-1])
			return n
		}
	}
	t.Skip("/proc/PID/status has no NSpid")
	return 0
}

// FORK serves in the master's own process. A reload moves the work to a child process, loses no request and keeps the counters.
func TestFork(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 1)
	s.Single = true
	r := launch(t, s)
	if _, pid := get(t, r.url("/")); pid != r.pid {
		t.Errorf("%d answered, not the master %d", pid, r.pid)
	}
	if children := proctree.Children(t, r.pid); len(children) != 0 {
		t.Errorf("FORK has children: %v", children)
	}
	answers := func() float64 {
		text, _ := get(t, r.url("/metrics"))
		return series(t, text)["answers_total"]
	}
	c := control.NewClient(r.home, "test")
	l := startLoad(t, r.port, 4)
	last := 0.0
	for range 5 {
		l.AwaitResponses(t, 20)
		if err := c.Order(t.Context(), "reload", 0); err != nil {
			t.Fatal(err)
		}
		now := answers()
		if now < last+20 {
			t.Errorf("after 20 more responses %v became %v", last, now)
		}
		last = now
	}
	l.Stop()
	l.CheckFailures(t, 0)
	if err := c.Order(t.Context(), "restart", 0); err != nil {
		t.Error(err)
	}
	if now := answers(); now < last {
		t.Errorf("a restart changed the counter from %v to %v", last, now)
	}
	if err := c.Order(t.Context(), "scale", 2); err == nil || err.Error() != errScaleFork.Error() {
		t.Errorf("scaled: %v", err)
	}
	if _, pid := get(t, r.url("/")); pid == r.pid {
		t.Error("the master still answers")
	}
	signalProcess(t, r.pid, syscall.SIGTERM)
	<-r.exited
	if code := r.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// After SIGTERM the server answers the requests in flight and refuses new connections at once.
func TestStopDrains(t *testing.T) {
	t.Parallel()
	for _, single := range []bool{true, false} {
		s := testConfig(t, 1)
		s.Single = single
		r := launch(t, s)
		file := s.ControlDir + "/go"
		answer, err := noKeepAlive.Get(r.url("/until?file=" + file))
		if err != nil {
			t.Fatal(err)
		}
		signalProcess(t, r.pid, syscall.SIGTERM)
		eventually(t, "refused connection", func() error {
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", r.port))
			if err == nil {
				conn.Close()
				return errors.New("the port accepts connections")
			}
			return nil
		})
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(answer.Body); err != nil || !strings.HasSuffix(string(text), "done\n") || answer.StatusCode != http.StatusOK {
			t.Errorf("single %v: the request in flight: %s, %v", single, text, err)
		}
		answer.Body.Close()
		<-r.exited
		if code := r.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("single %v: exit status %d", single, code)
		}
	}
}
