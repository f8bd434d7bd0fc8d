package workers

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// A worker above the memory limit is replaced once its successor is ready.
func TestMaxMemory(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 2)
	s.MaxMemory = 100 << 20
	r := start(t, s)
	before := r.online(2)
	l := startLoad(t, r.Port(), 4)
	_, large := get(t, r.url("/allocate"))
	for try := 0; r.hasProcess(large) && try < 20; try++ { // 64 MB may stay below the limit, 128 MB do not
		if _, pid := get(t, r.url("/allocate")); pid != large {
			continue
		}
		break
	}
	awaitExit(t, large)
	after := r.online(2)
	l.AwaitResponses(t, 20)
	l.Stop()
	l.CheckFailures(t, 0)
	for i, w := range after {
		if w.Restarts != 0 {
			t.Errorf("a replacement counted as a restart: %+v, before %+v", w, before[i])
		}
	}
}

// hasProcess reports whether a process is one of the server's.
func (r *running) hasProcess(pid int) bool {
	for _, w := range r.Status().Workers {
		if w.Pid == pid {
			return true
		}
	}
	return false
}

// A worker is replaced after about MaxRequests requests. The number differs between workers, and no request is lost.
func TestMaxRequests(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 2)
	s.MaxRequests, s.HeartbeatTimeout = 300, 2500*time.Millisecond
	r := start(t, s)
	quotas := map[int64]bool{}
	for range 20 {
		quotas[r.requestQuota()] = true
	}
	for q := range quotas {
		if q < 270 || q > 330 {
			t.Errorf("quota %d, want 300 ± 10 %%", q)
		}
	}
	if len(quotas) < 5 {
		t.Errorf("only these quotas: %v", quotas)
	}
	before := r.online(2)
	l := startLoad(t, r.Port(), 4)
	for _, w := range before {
		eventually(t, "the replacement of a worker", func() error {
			if r.hasProcess(w.Pid) {
				return fmt.Errorf("%+v", r.Status().Workers)
			}
			return nil
		})
	}
	l.Stop()
	l.CheckFailures(t, 0)
}

// A worker that does not drain is killed after StopTimeout.
func TestStopTimeout(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 1)
	s.StopTimeout, s.HeartbeatTimeout = time.Second, time.Minute
	r := start(t, s)
	r.behave("no-drain")
	if err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	pid := r.online(1)[0].Pid
	r.behave("")
	if err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitExit(t, pid)
	get(t, r.url("/"))
	r.behave("no-drain")
	if err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.stopped(); err != nil { // the server does not wait longer, either
		t.Error(err)
	}
}

// Kill does not wait for requests in flight.
func TestKill(t *testing.T) {
	t.Parallel()
	s := testConfig(t, 2)
	s.StopTimeout, s.HeartbeatTimeout = time.Hour, time.Hour
	r := run(t, s)
	r.behave("no-drain")
	r.online(2)
	r.Kill()
	if err := r.stopped(); err != nil {
		t.Error(err)
	}
}

// A late heartbeat that was sampled before a scrape does not lower what the scrape reported.
func TestCountersOnlyGrow(t *testing.T) {
	p := &process{}
	p.merge(Heartbeat{Requests: 5, Counters: map[string]float64{"a": 5, "b": 1}})
	p.merge(Heartbeat{Requests: 4, Counters: map[string]float64{"a": 4, "b": 2}})
	if p.requests != 5 || p.counters["a"] != 5 || p.counters["b"] != 2 {
		t.Errorf("%d, %v", p.requests, p.counters)
	}
}

// Output with lines of any length, or without an end of line, reaches the log unchanged.
func TestCopyLines(t *testing.T) {
	s := &Server{Config: Config{Output: &lines{make(chan string, 10)}}}
	p := &process{}
	long := strings.Repeat("y", maxLine+10)
	s.copyLines(p, strings.NewReader("one\n"+long+"\npanic: why\n\ngoroutine 1\nexit status 2"))
	var all string
	for len(s.Output.(*lines).all) > 0 {
		all += <-s.Output.(*lines).all
	}
	if all != "one\n"+long+"\npanic: why\n\ngoroutine 1\nexit status 2" {
		t.Errorf("%d bytes arrived in the log", len(all))
	}
	if got := *p.lastLine.Load(); got != "panic: why" {
		t.Errorf("the cause is %q", got)
	}
}

// A successor is told why the process died, and of its output only the line of a crash.
func TestPredecessor(t *testing.T) {
	long := "panic: " + strings.Repeat("Ñ", maxCause)
	for _, c := range []struct{ line, killCause, want string }{
		{"", "", "exit status 2"},
		{"a line of its log", "", "exit status 2"},
		{"panic: why", "", "exit status 2: panic: why"},
		{"fatal error: stack overflow", "", "exit status 2: fatal error: stack overflow"},
		{"a line of its log", "no heartbeat for 5s", "no heartbeat for 5s"},
		{long, "", "exit status 2: " + long[:maxCause-len("exit status 2: ")]},
	} {
		p := &process{exit: errors.New("exit status 2"), killCause: c.killCause}
		if c.line != "" {
			p.lastLine.Store(&c.line)
		}
		if got := p.asPredecessor(); got.Cause != strings.ToValidUTF8(c.want, "") || got.PID != os.Getpid() {
			t.Errorf("%+v, want %q", got, c.want)
		}
	}
}
