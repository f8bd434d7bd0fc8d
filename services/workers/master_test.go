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

// remote is a server in a process of its own, which may be killed.
type remote struct {
	t    *testing.T
	cmd  *exec.Cmd
	pid  int // of the master, as this process sees it
	home string
	port int
	mu   sync.Mutex
	text strings.Builder
	over chan struct{}
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

// launch starts a master as a process, through the command given, if any, and waits until its workers are online.
func launch(t *testing.T, s Config, behind ...string) *remote {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free, to be known beforehand
	if err != nil {
		t.Fatal(err)
	}
	s.Port = ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	config, err := json.Marshal(masterConfig{ControlDir: s.ControlDir, Port: s.Port, Count: s.Count, External: s.External, Single: s.Single})
	if err != nil {
		t.Fatal(err)
	}
	r := &remote{t: t, home: s.ControlDir, port: s.Port, over: make(chan struct{})}
	args := append(slices.Clone(behind), os.Args[0])
	r.cmd = exec.Command(args[0], args[1:]...)
	r.cmd.Env = append(os.Environ(), roleVariable+"=master", specVariable+"="+string(config))
	r.cmd.Stdout, r.cmd.Stderr = r, r
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.over)
		_ = r.cmd.Wait()
	}()
	t.Cleanup(func() {
		if r.pid > 0 {
			_ = syscall.Kill(r.pid, syscall.SIGKILL)
		}
		_ = r.cmd.Process.Kill()
		<-r.over
		if t.Failed() {
			t.Log(r.output())
		}
	})
	eventually(t, "the master's workers", func() error {
		select {
		case <-r.over:
			t.Fatal("the master ended")
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
	if len(behind) > 0 {
		below := proctree.Children(t, r.pid)
		if len(below) != 1 {
			t.Fatalf("below %s: %v", behind[0], below)
		}
		r.pid = below[0]
	}
	return r
}

func (r *remote) status() (control.Status, error) {
	return control.NewClient(r.home, "test").Status(r.t.Context())
}

func (r *remote) url(path string) string { return fmt.Sprintf("http://127.0.0.1:%d%s", r.port, path) }

// killMaster kills the master, one of whose workers is stopped, and checks that nothing is left of it.
func (r *remote) killMaster() {
	t := r.t
	t.Helper()
	below := proctree.Children(t, r.pid)
	if len(below) == 0 {
		t.Fatal("the master has no children")
	}
	signalProcess(t, below[0], syscall.SIGSTOP)
	awaitStopped(t, below[0])
	signalProcess(t, r.pid, syscall.SIGKILL)
	<-r.over
	began := time.Now()
	for _, pid := range below {
		eventually(t, "end of a worker", func() error { return proctree.Exited(pid) })
	}
	t.Logf("no worker left after %v", time.Since(began).Round(time.Millisecond))
	eventually(t, "the port", func() error { // threads of a dead process may take a moment to end
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
	for range 6 { // requests without an end do not delay it
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

// An external program ends with its master.
func TestMasterOfExternalProgramKilled(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 2)
	s.External = true
	launch(t, s).killMaster()
}

// namespace is the command that runs another one as process 1.
func namespace(t *testing.T) []string {
	t.Helper()
	command := []string{"unshare", "--pid", "--fork", "--mount-proc", "--kill-child"}
	if said, err := exec.Command(command[0], append(command[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("no PID namespace here: %v: %s", err, said)
	}
	return command
}

// Process 1 waits for the orphans that it adopts, and only for those: it still learns why its workers died.
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
		t.Errorf("five were killed, the master logs %d", n)
	}
	eventually(t, "the orphans' end", func() error {
		left := proctree.Children(t, r.pid)
		if len(left) != 2 {
			return fmt.Errorf("%v", left)
		}
		return nil
	})
}

// innerPid is a process's pid in its own namespace.
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
	t.Skip("the kernel does not tell pids of namespaces")
	return 0
}

// An external program is replaced, reloaded and scaled like any other.
func TestExternalProgram(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 2)
	s.External = true
	s.Env = []string{roleVariable + "=external"}
	r := start(t, s)
	first := r.online(2)
	get(t, r.url("/"))
	r.killWorker(0)
	second := r.online(2)
	if second[0].Restarts != 1 || second[1].Pid != first[1].Pid {
		t.Errorf("after a crash: %+v", second)
	}
	if err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	third := r.online(2)
	for _, w := range third {
		if slices.Contains(pids(second), w.Pid) {
			t.Errorf("not reloaded: %+v", w)
		}
	}
	if _, pid := get(t, r.url("/")); !slices.Contains(pids(third), pid) {
		t.Errorf("%d answered, not one of %v", pid, pids(third))
	}
	if err := r.Scale(3); err != nil {
		t.Fatal(err)
	}
	r.online(3)
	if err := r.stopped(); err != nil {
		t.Error(err)
	}
}

// FORK is one process, the master's own. A reload moves the work to a child without losing a request, and counters go on.
func TestFork(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 1)
	s.Single = true
	r := launch(t, s)
	if _, pid := get(t, r.url("/")); pid != r.pid {
		t.Errorf("%d answered, not the master %d", pid, r.pid)
	}
	if below := proctree.Children(t, r.pid); len(below) != 0 {
		t.Errorf("FORK has children: %v", below)
	}
	answers := func() float64 {
		var totals map[string]float64
		text, _ := get(t, r.url("/totals"))
		if err := json.Unmarshal([]byte(text), &totals); err != nil {
			t.Fatal(err)
		}
		return totals["answers"]
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
			t.Errorf("20 answers more, and %v became %v", last, now)
		}
		last = now
	}
	l.Stop()
	l.CheckFailures(t, 0)
	if err := c.Order(t.Context(), "restart", 0); err != nil {
		t.Error(err)
	}
	if now := answers(); now < last {
		t.Errorf("a restart turned %v into %v", last, now)
	}
	if err := c.Order(t.Context(), "scale", 2); err == nil || err.Error() != errScaleFork.Error() {
		t.Errorf("scaled: %v", err)
	}
	if _, pid := get(t, r.url("/")); pid == r.pid {
		t.Error("the master answers still")
	}
	signalProcess(t, r.pid, syscall.SIGTERM)
	<-r.over
	if code := r.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// A request in flight when the server is told to stop is answered; later connections are refused and do not wait.
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
		eventually(t, "refusal", func() error {
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", r.port))
			if err == nil {
				conn.Close()
				return errors.New("somebody listens")
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
		<-r.over
		if code := r.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("single %v: exit status %d", single, code)
		}
	}
}
