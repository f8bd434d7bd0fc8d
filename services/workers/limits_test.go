package workers

import (
	"fmt"
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
