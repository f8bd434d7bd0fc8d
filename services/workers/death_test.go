package workers

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"balanza/e2e/proctree"
	"balanza/e2e/testenv"
	"balanza/services/workers/control"
)

// A killed worker loses the requests in flight on it; no connection is refused.
func TestWorkersKilledUnderLoad(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 3)
	accepts := filepath.Join(s.ControlDir, "accepts")
	s.Env = []string{acceptsVariable + "=" + accepts}
	r := start(t, s)
	l := startLoad(t, r.Port(), 6)
	kills, every := 10, 800*time.Millisecond
	if testenv.All() {
		kills, every = 60, time.Second
	}
	killed := map[string]bool{}
	for range kills {
		l.AwaitResponses(t, 20)
		all := r.online(3)
		victim := rand.N(len(all))
		r.killWorker(victim)
		killed[fmt.Sprint(all[victim].Pid)] = true
		time.Sleep(every)
	}
	r.online(3)
	l.AwaitResponses(t, 20)
	l.Stop()
	text, err := os.ReadFile(accepts)
	if err != nil {
		t.Fatal(err)
	}
	type accept struct {
		at  time.Time
		pid string
	}
	accepted := map[string][]accept{} // by the client's address, which may be used again
	for line := range strings.Lines(string(text)) {
		var at int64
		var pid, address string
		if _, err := fmt.Sscan(line, &at, &pid, &address); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		accepted[address] = append(accepted[address], accept{time.Unix(0, at), pid})
	}
	unknown := 0
	for _, f := range l.Failures() {
		within := func(a accept) bool { return a.at.After(f.Dialed) && a.at.Before(f.Failed) }
		switch i := slices.IndexFunc(accepted[f.LocalAddress], within); {
		case f.NoConnection():
			t.Errorf("no connection: %v", f.Err)
		case i < 0: // the worker was killed between accept and the write to the file
			unknown++
		case !killed[accepted[f.LocalAddress][i].pid]:
			t.Errorf("a request on a worker that was not killed failed: %v", f.Err)
		}
	}
	if unknown > kills {
		t.Errorf("%d requests failed on connections that no worker had accepted", unknown)
	}
	t.Logf("%d kills: %d responses, %d requests failed", kills, l.Responses(), len(l.Failures()))
	if restarts := r.Status().Restarts; restarts != kills {
		t.Errorf("%d restarts after %d kills", restarts, kills)
	}
}

func TestStoppedWorkerIsReplaced(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 3)
	s.HeartbeatTimeout = 2 * time.Second
	r := start(t, s)
	all := r.online(3)
	victim := all[1].Pid
	proctree.Stop(t, victim)
	eventually(t, "replacement", func() error {
		if _, pid := get(t, r.url("/")); pid == victim {
			t.Error("a stopped process answered")
		}
		if w := r.Status().Workers[1]; w.Pid == victim || w.Status != "online" {
			return fmt.Errorf("%+v", w)
		}
		return nil
	})
	awaitExit(t, victim)
	now := r.online(3)
	if now[0].Pid != all[0].Pid || now[2].Pid != all[2].Pid {
		t.Errorf("other workers were replaced, too: %v, then %v", pids(all), pids(now))
	}
	if w := now[1]; w.Restarts != 1 {
		t.Errorf("restarts of the stopped worker: %d", w.Restarts)
	}
}

// A worker whose Health fails is replaced, even if it answers requests.
func TestUnhealthyWorkerIsReplaced(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 2)
	s.HeartbeatTimeout = 2 * time.Second
	r := start(t, s)
	before := r.online(2)
	r.behave("unhealthy 1")
	awaitExit(t, before[0].Pid)
	r.behave("")
	if after := r.online(2); after[1].Pid != before[1].Pid {
		t.Error("the healthy worker was replaced")
	}
}

// A worker that gets SIGTERM from another process finishes its requests, and its replacement starts before that.
func TestWorkerGetsSIGTERM(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t, 2))
	old, finish := r.startRequest()
	signalProcess(t, old, syscall.SIGTERM)
	eventually(t, "replacement", func() error {
		online := 0
		for _, w := range r.Status().Workers {
			if w.Status == "online" {
				online++
			}
		}
		if online != 2 {
			return fmt.Errorf("%+v", r.Status().Workers)
		}
		return nil
	})
	finish()
	awaitExit(t, old)
}

// Workers ignore SIGHUP, which a terminal sends to the whole process group and which only the master handles.
func TestWorkersIgnoreHangUp(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t, 2))
	before := r.online(2)
	for _, w := range before {
		signalProcess(t, w.Pid, syscall.SIGHUP)
	}
	get(t, r.url("/"))
	time.Sleep(200 * time.Millisecond)
	if after := r.online(2); fmt.Sprint(pids(after)) != fmt.Sprint(pids(before)) {
		t.Errorf("workers %v became %v", pids(before), pids(after))
	}
}

// A signal that arrives before the worker waits for signals is handled later.
func TestSignalBeforeReady(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 1)
	r := start(t, s)
	r.behave("slow-start")
	r.killWorker(0)
	if line := <-r.output.all; !strings.HasPrefix(line, "slow start") {
		t.Fatalf("the worker wrote %q", line)
	}
	slow := r.Status().Workers[0]
	if slow.Status != "starting" {
		t.Fatalf("the worker is not starting any more: %+v", slow)
	}
	r.behave("")
	signalProcess(t, slow.Pid, syscall.SIGTERM)
	awaitExit(t, slow.Pid)
	r.online(1)
}

// A worker that cannot start does not affect the others. The pause between its starts grows, until it is disabled. A reload
// starts it once more.
func TestExitAtStart(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 2)
	r := run(t, s)
	r.behave("exit 2")
	killSecond := func() { // it may have started before the behaviour was written
		for _, w := range r.Status().Workers {
			if w.Worker == 2 && w.Status == "online" {
				_ = syscall.Kill(w.Pid, syscall.SIGKILL)
			}
		}
	}
	second := func() (w control.WorkerStatus) {
		for _, w = range r.Status().Workers {
			if w.Worker == 2 {
				return w
			}
		}
		return w
	}
	eventually(t, "backoff", func() error {
		killSecond()
		if w := second(); w.Status != "backoff" || !strings.Contains(w.Cause, "exit as ordered") {
			return fmt.Errorf("%+v", w)
		}
		return nil
	})
	for range 20 {
		get(t, r.url("/"))
	}
	deadline := time.Now().Add(60 * time.Second)
	for second().Status != "errored" {
		if time.Now().After(deadline) {
			t.Fatalf("not disabled: %+v", second())
		}
		time.Sleep(50 * time.Millisecond)
	}
	if w := second(); w.Restarts < maxFailures {
		t.Errorf("disabled after %d restarts", w.Restarts)
	}
	if st := r.Status(); st.Status != "online" || !strings.Contains(st.Cause, "exit as ordered") {
		t.Errorf("the server's status: %s, %s", st.Status, st.Cause)
	}
	get(t, r.url("/"))
	disabled := second()
	r.behave("exit")
	if err := r.Reload(t.Context()); err == nil { // it fails at the first worker
		t.Error("a reload to code that exits succeeded")
	}
	if w := second(); w.Status != "errored" || w.Restarts != disabled.Restarts {
		t.Errorf("a reload that did not reach the disabled worker changed it: %+v, before %+v", w, disabled)
	}
	r.behave("")
	if err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.online(2)
}

// A worker that exits soon after it was ready is restarted without a limit, as the cause may be temporary.
func TestShortLivedWorkersAreNotDisabled(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t, 1))
	r.behave("short-lived")
	r.killWorker(0)
	eventually(t, "restarts", func() error {
		st := r.Status()
		if st.Workers[0].Status == "errored" {
			t.Fatalf("disabled: %+v", st)
		}
		if st.Restarts < maxFailures+2 {
			return fmt.Errorf("%d", st.Restarts)
		}
		return nil
	})
	r.behave("")
	r.online(1)
}

func TestStopDuringBackoff(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t, 1))
	r.behave("exit")
	r.killWorker(0)
	eventually(t, "backoff after several restarts", func() error {
		if w := r.Status().Workers[0]; w.Status != "backoff" || w.Restarts < 4 {
			return fmt.Errorf("%+v", w)
		}
		return nil
	})
	if err := r.stopped(); err != nil {
		t.Error(err)
	}
}

func TestNoWorkerStarts(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 3)
	if err := os.WriteFile(filepath.Join(s.ControlDir, "behaviour"), []byte("exit"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, s)
	select {
	case r.result = <-r.ended:
	case <-time.After(waitLimit):
		t.Fatal("the server did not end")
	}
	r.ended = nil
	if r.result == nil || !strings.Contains(r.result.Error(), "exit as ordered") {
		t.Errorf("Run returned %v", r.result)
	}
}

// The master signals a worker by its os.Process, never by its pid, so another process that reuses the pid gets no signal.
// The test's goroutine owns the server's state here, in place of Run's.
func TestReusedPid(t *testing.T) {
	const last = "/proc/sys/kernel/ns_last_pid"
	c := testConfig(t, 1)
	c.Output = &lines{make(chan string, 1000)}
	s, err := NewServer(c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.socket.Close()
	s.start()
	p := s.slots[0].current
	signalProcess(t, p.pid(), syscall.SIGKILL)
	for e := range s.events {
		if e.exited {
			s.stopping = true // so that the worker is not replaced
			s.handleEvent(e)
			break
		}
	}
	var other *os.Process
	for range 200 {
		if err := os.WriteFile(last, []byte(fmt.Sprint(p.pid()-1)), 0); err != nil {
			t.Skipf("choosing the next pid: %v", err)
		}
		o, err := os.StartProcess("/bin/sleep", []string{"sleep", "60"}, &os.ProcAttr{})
		if err != nil {
			t.Fatal(err)
		}
		if o.Pid == p.pid() {
			other = o
			break
		}
		_ = o.Kill()
		_, _ = o.Wait()
	}
	if other == nil {
		t.Skip("no process got the worker's pid: too many other processes start")
	}
	defer func() {
		_ = other.Kill()
		_, _ = other.Wait()
	}()
	s.drain(p, false, control.Stop)
	s.kill(p, "a test")
	s.check(time.Now().Add(time.Hour))
	time.Sleep(sendTimeout) // drain sends its signal from a goroutine
	if proctree.Exited(other.Pid) == nil {
		t.Errorf("the other process with pid %d was killed", other.Pid)
	}
}
