package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// listedProcess is what the list of processes says of one.
type listedProcess struct {
	ID, Service, Server, Mode, Host, State, Cause string
	Machine                                       string
	Worker, PID, Restarts                         int
	Requests, Memory                              int64
	Draws, Websockets, Interval                   int
	Started, Seen                                 time.Time
	Predecessor                                   struct {
		PID   int
		Cause string
	}
}

// processList is the answer of /api/processes, and a frame of the panel.
type processList struct {
	Type      string
	Now       time.Time
	Via       string
	Processes []listedProcess
	History   *struct{ Requests []int64 }
}

// processes asks a site for the list.
func (u *user) processes(site string) (l processList, err error) {
	answer, err := u.http.Get(site + "/api/processes")
	if err != nil {
		return l, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return l, fmt.Errorf("/api/processes: %s", answer.Status)
	}
	return l, json.NewDecoder(answer.Body).Decode(&l)
}

// awaitProcess waits until the list has a process that matches, and returns it. Each process answers with a list that may be
// half a second old: one that was read before the call does not count.
func (u *user) awaitProcess(t *testing.T, site, what string, matches func(listedProcess) bool) (found listedProcess) {
	t.Helper()
	began := time.Now()
	eventually(t, what, func() error {
		l, err := u.processes(site)
		if err != nil {
			return err
		}
		if l.Now.Before(began) {
			return fmt.Errorf("a list of %v before", began.Sub(l.Now))
		}
		i := slices.IndexFunc(l.Processes, matches)
		if i < 0 {
			return fmt.Errorf("%+v", l.Processes)
		}
		found = l.Processes[i]
		return nil
	})
	t.Logf("%s: in the list after %v", what, time.Since(began).Round(10*time.Millisecond))
	return found
}

// The list of processes has those of all servers on one store, and says of each that ended why: it was killed, it was
// reloaded, it got a signal, its server has fewer workers or has stopped.
func TestProcessesAreKnown(t *testing.T) {
	t.Parallel()
	home := homeWith(t, "BALANZA_MACHINE=the first machine")
	s := serve(t, home, "--m", "CLUSTER", "-i", "2", "--name", "site")
	fork := serve(t, home, "--m", "FORK", "--name", "other")
	u := newUser(t, s.url, "ana")
	online := func(server string, worker int) listedProcess {
		t.Helper()
		return u.awaitProcess(t, s.url, fmt.Sprintf("%s %d", server, worker), func(p listedProcess) bool {
			return p.Server == server && p.Worker == worker && p.State == "online"
		})
	}
	ended := func(pid int, what string) listedProcess {
		t.Helper()
		return u.awaitProcess(t, s.url, what, func(p listedProcess) bool { return p.PID == pid && p.State == "ended" })
	}

	host, _ := os.Hostname()
	for _, p := range []listedProcess{online("site", 1), online("site", 2), online("other", 0)} {
		if p.Machine != "the first machine" || p.Host != host || p.Service != p.Server || p.Restarts != 0 || p.Interval != 5 ||
			p.Memory < 1<<20 || p.Memory > 1<<30 || p.Seen.Before(p.Started) || (p.Mode == "FORK") != (p.Server == "other") {
			t.Errorf("%+v", p)
		}
	}
	if l, err := u.processes(fork.url); err != nil || len(l.Processes) != 3 {
		t.Errorf("the list of the other server: %+v, %v", l, err)
	}

	victim := online("site", 1)
	sendSignal(t, victim.PID, syscall.SIGKILL)
	if p := ended(victim.PID, "a killed worker"); p.Cause != "signal: killed" {
		t.Errorf("a killed worker: %+v", p)
	}
	successor := online("site", 1)
	if successor.Predecessor.PID != victim.PID || successor.Predecessor.Cause != "signal: killed" || successor.Restarts != 1 {
		t.Errorf("its successor: %+v", successor)
	}
	sendSignal(t, successor.PID, syscall.SIGTERM)
	if p := ended(successor.PID, "a worker that got a signal"); p.Cause != "signal" {
		t.Errorf("a worker that got a signal: %+v", p)
	}
	third := online("site", 1)
	if third.Predecessor.PID != 0 || third.Restarts != 2 {
		t.Errorf("its successor: %+v", third)
	}

	for order, cause := range map[string]string{"reload": "reload", "restart": "restart"} {
		before := online("site", 1)
		s.mustRun(order, "site")
		if p := ended(before.PID, order); p.Cause != cause {
			t.Errorf("after %s: %+v", order, p)
		}
		if p := online("site", 1); p.PID == before.PID || p.Predecessor.PID != 0 {
			t.Errorf("after %s: %+v", order, p)
		}
	}
	if p := online("site", 1); p.Restarts != 3 {
		t.Errorf("after two deaths and a restart: %+v", p)
	}
	second := online("site", 2)
	s.mustRun("scale", "site=1")
	if p := ended(second.PID, "a worker too many"); p.Cause != "scale" {
		t.Errorf("a worker too many: %+v", p)
	}
	last := online("other", 0)
	fork.end(syscall.SIGTERM)
	if p := ended(last.PID, "a stopped server"); p.Cause != "stop" {
		t.Errorf("a stopped server: %+v", p)
	}
}

// An open panel hears of a death and of the successor, whatever process it is connected to, and of the requests that all
// answer. Without the panel processes write every five seconds again.
func TestPanelFrames(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	s := serve(t, home, "--m", "FORK", "--name", "fork")
	cluster := serve(t, home, "--m", "CLUSTER", "-i", "2", "--name", "cluster")
	u := newUser(t, s.url, "ana")
	d := websocket.Dialer{Jar: u.http.Jar}
	conn, _, err := d.DialContext(t.Context(), strings.Replace(s.url, "http", "ws", 1)+"/ws?panel=1", http.Header{"Origin": {s.url}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	known := make(map[string]listedProcess)
	// await reads frames until the processes fulfil a condition.
	await := func(what string, done func() bool) {
		t.Helper()
		began := time.Now()
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		for !done() {
			var f processList
			if err := conn.ReadJSON(&f); err != nil {
				t.Fatalf("waiting for %s: %v, %+v", what, err, known)
			}
			for _, p := range f.Processes {
				known[p.ID] = p
			}
		}
		t.Logf("%s: seen in the panel after %v", what, time.Since(began).Round(10*time.Millisecond))
	}
	find := func(matches func(listedProcess) bool) (found *listedProcess) {
		for _, p := range known {
			if matches(p) {
				found = &p
			}
		}
		return found
	}
	worker := func(pid int) func(listedProcess) bool {
		return func(p listedProcess) bool {
			return p.Server == "cluster" && p.Worker == 2 && p.State == "online" && p.PID != pid
		}
	}
	await("all processes, every second", func() bool {
		n := 0
		for _, p := range known {
			if p.State == "online" && p.Interval == 1 {
				n++
			}
		}
		return n == 3
	})

	victim := *find(worker(0))
	sendSignal(t, victim.PID, syscall.SIGKILL)
	await("a death and a successor", func() bool {
		return known[victim.ID].State == "ended" && find(worker(victim.PID)) != nil
	})
	if cause := known[victim.ID].Cause; cause != "signal: killed" {
		t.Errorf("the cause is %q", cause)
	}

	for range 20 {
		answer, err := u.http.Get(cluster.url + "/api/randoms?cant=10")
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
	}
	await("the requests of the others", func() bool {
		n := int64(0)
		for _, p := range known {
			if p.Server == "cluster" {
				n += p.Requests
			}
		}
		return n >= 20
	})

	_ = conn.Close()
	u.awaitProcess(t, cluster.url, "five seconds between records", func(p listedProcess) bool {
		return p.Server == "cluster" && p.State == "online" && p.Interval == 5
	})
}
