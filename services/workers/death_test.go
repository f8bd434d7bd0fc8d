package workers

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
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
	type hold struct {
		at  time.Time
		pid string
	}
	holders := map[string][]hold{} // by address, which may come again
	for line := range strings.Lines(string(text)) {
		var at int64
		var pid, address string
		if _, err := fmt.Sscan(line, &at, &pid, &address); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		holders[address] = append(holders[address], hold{time.Unix(0, at), pid})
	}
	unknown := 0
	for _, f := range l.Failures() {
		within := func(h hold) bool { return h.at.After(f.Dialed) && h.at.Before(f.Failed) }
		switch i := slices.IndexFunc(holders[f.LocalAddress], within); {
		case f.NoConnection():
			t.Errorf("no connection: %v", f.Err)
		case i < 0: // killed between accept and writing it down
			unknown++
		case !killed[holders[f.LocalAddress][i].pid]:
			t.Errorf("a request on a worker that was not killed failed: %v", f.Err)
		}
	}
	if unknown > kills {
		t.Errorf("%d requests failed on connections that no worker had accepted", unknown)
	}
	t.Logf("%d kills: %d requests answered, %d in flight lost", kills, l.Responses(), len(l.Failures()))
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
	signalProcess(t, victim, syscall.SIGSTOP)
	awaitStopped(t, victim)
	eventually(t, "replacement", func() error {
		if _, pid := get(t, r.url("/")); pid == victim {
			t.Error("a process that is stopped answered")
		}
		if w := r.Status().Workers[1]; w.Pid == victim || w.Status != "online" {
			return fmt.Errorf("%+v", w)
		}
		return nil
	})
	awaitExit(t, victim)
	now := r.online(3)
	if now[0].Pid != all[0].Pid || now[2].Pid != all[2].Pid {
		t.Errorf("others were replaced too: %v, then %v", pids(all), pids(now))
	}
	if w := now[1]; w.Restarts != 1 {
		t.Errorf("restarts of the stopped worker: %d", w.Restarts)
	}
}

// awaitStopped waits until all threads of a process have stopped.
func awaitStopped(t *testing.T, pid int) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux shows the state of threads")
	}
	eventually(t, "stop", func() error { return proctree.Stopped(pid) })
}

// A worker that answers requests, but whose Health fails, is replaced.
func TestSickWorkerIsReplaced(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 2)
	s.HeartbeatTimeout = 2 * time.Second
	r := start(t, s)
	before := r.online(2)
	r.behave("sick 1")
	awaitExit(t, before[0].Pid)
	r.behave("")
	if after := r.online(2); after[1].Pid != before[1].Pid {
		t.Error("the healthy worker was replaced")
	}
}

// A worker that gets SIGTERM from another process finishes what it has, and its replacement does not wait for that.
func TestWorkerGetsSIGTERM(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t, 2))
	old, finish := r.busy()
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

// SIGHUP is for the master: a terminal that hangs up, or `kill -HUP` to all processes, must not end workers.
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

// A signal that arrives before the worker waits for it still counts.
func TestSignalBeforeReady(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 1)
	r := start(t, s)
	r.behave("slow")
	r.killWorker(0)
	if line := <-r.output.all; !strings.HasPrefix(line, "slow") {
		t.Fatalf("the worker said %q", line)
	}
	slow := r.Status().Workers[0]
	if slow.Status != "starting" {
		t.Fatalf("too late: %+v", slow)
	}
	r.behave("")
	signalProcess(t, slow.Pid, syscall.SIGTERM)
	awaitExit(t, slow.Pid)
	r.online(1)
}

// A worker that cannot start does not keep its siblings from serving. It is started less and less often, and disabled in
// the end. A reload gives it another chance.
func TestExitAtBoot(t *testing.T) {
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
		if w := second(); w.Status != "backoff" || !strings.Contains(w.Cause, "no wish to serve") {
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
		t.Errorf("disabled after %d tries", w.Restarts)
	}
	if st := r.Status(); st.Status != "online" || !strings.Contains(st.Cause, "no wish to serve") {
		t.Errorf("the server's status: %s, %s", st.Status, st.Cause)
	}
	get(t, r.url("/"))
	r.behave("")
	if err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.online(2)
}

// A worker that gets ready and dies at once is started again without end: the reason of its death may pass.
func TestBriefWorkersAreNotDisabled(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t, 1))
	r.behave("brief")
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
	eventually(t, "a pause of some length", func() error {
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
	how := filepath.Join(s.ControlDir, "behaviour")
	if err := os.WriteFile(how, []byte("exit"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, s)
	select {
	case r.result = <-r.ended:
	case <-time.After(waitLimit):
		t.Fatal("the server goes on")
	}
	r.ended = nil
	if r.result == nil || !strings.Contains(r.result.Error(), "no wish to serve") {
		t.Errorf("the server's end: %v", r.result)
	}
}

// A process that gets the pid of a worker that has ended is safe: the master signals processes, not numbers. Here the
// test's goroutine owns the server's state in place of Run's.
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
			s.stopping = true // so that nothing takes its place
			s.handleEvent(e)
			break
		}
	}
	var victim *os.Process
	for range 200 {
		if err := os.WriteFile(last, []byte(fmt.Sprint(p.pid()-1)), 0); err != nil {
			t.Skipf("pids can't be chosen here: %v", err)
		}
		o, err := os.StartProcess("/bin/sleep", []string{"sleep", "60"}, &os.ProcAttr{})
		if err != nil {
			t.Fatal(err)
		}
		if o.Pid == p.pid() {
			victim = o
			break
		}
		_ = o.Kill()
		_, _ = o.Wait()
	}
	if victim == nil {
		t.Skip("the pid could not be had again: too many processes start on this machine")
	}
	defer func() {
		_ = victim.Kill()
		_, _ = victim.Wait()
	}()
	s.drain(p, false)
	s.kill(p, "a test")
	s.check(time.Now().Add(time.Hour))
	time.Sleep(sendTimeout) // drain signals from a goroutine
	if proctree.Exited(victim.Pid) == nil {
		t.Errorf("the other process with pid %d was killed", victim.Pid)
	}
}
