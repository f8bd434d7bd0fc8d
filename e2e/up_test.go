package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"balanza/e2e/load"
	"balanza/e2e/proctree"
)

// serverStatus is a server in the output of `balanza ps --json`.
type serverStatus struct {
	Name     string
	Status   string
	Cause    string
	Pid      int // of the master
	Port     int
	Restarts int
	Workers  []workerStatus
}

type workerStatus struct {
	Pid        int
	Status     string
	Generation int
	Restarts   int
}

// list runs `balanza ps --json`.
func (s *server) list() (all []serverStatus, err error) {
	out, err := s.balanza("ps", "--json").Output()
	if err == nil {
		err = json.Unmarshal(out, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("balanza ps: %w", err)
	}
	return all, nil
}

// ps returns the servers of `balanza ps` by name.
func (s *server) ps() map[string]serverStatus {
	s.t.Helper()
	all, err := s.list()
	if err != nil {
		s.t.Fatal(err)
	}
	byName := map[string]serverStatus{}
	for _, l := range all {
		byName[l.Name] = l
	}
	return byName
}

// awaitOnline waits until exactly n servers are listed, with all their processes online, and returns them.
func (s *server) awaitOnline(n int) map[string]serverStatus {
	s.t.Helper()
	var all map[string]serverStatus
	eventually(s.t, "all servers online", func() error {
		all = s.ps()
		if len(all) != n {
			return fmt.Errorf("%+v", all)
		}
		for _, l := range all {
			if l.Status != "online" {
				return fmt.Errorf("%+v", l)
			}
			for _, w := range l.Workers {
				if w.Status != "online" {
					return fmt.Errorf("%+v", l)
				}
			}
		}
		return nil
	})
	return all
}

// awaitRestarts waits until a server has had exactly n restarts.
func (s *server) awaitRestarts(name string, n int) {
	s.t.Helper()
	eventually(s.t, "replacement", func() error {
		if now := s.ps()[name]; now.Restarts != n {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
}

// mustRun runs a command that must succeed.
func (s *server) mustRun(args ...string) {
	s.t.Helper()
	if out, err := s.balanza(args...).CombinedOutput(); err != nil {
		s.t.Fatalf("balanza %v: %v: %s", args, err, out)
	}
}

// fleet is a running `balanza up`: one process with the masters of all its servers.
type fleet struct {
	*server
	shift   int
	profile string
}

// fleetSize is the number of servers of `balanza up`, and fleetSizeCluster that with the profile "cluster".
const (
	fleetSize        = 3
	fleetSizeCluster = 7
)

// size is the number of servers.
func (f *fleet) size() int {
	if f.profile == "" {
		return fleetSize
	}
	return fleetSizeCluster
}

// up starts `balanza up` with two workers, on free ports.
func up(t *testing.T, settings ...string) *fleet {
	t.Helper()
	return upProfile(t, "", settings...)
}

// upProfile is up with a profile, "" or cluster.
func upProfile(t *testing.T, profile string, settings ...string) *fleet {
	t.Helper()
	home, err := os.MkdirTemp("", "b") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	f := &fleet{server: &server{t: t, home: home}, shift: freeShift(t), profile: profile}
	if f.log, err = os.Create(filepath.Join(home, "output")); err != nil {
		t.Fatal(err)
	}
	f.launch(settings...)
	t.Cleanup(func() {
		f.end(syscall.SIGTERM)
		if t.Failed() {
			output, _ := os.ReadFile(f.log.Name())
			t.Logf("output of balanza up:\n%s", tail(string(output), 4000))
		}
	})
	return f
}

// launch starts the process, in a process group of its own, and waits until all servers are online and the balancer
// forwards to them.
func (f *fleet) launch(settings ...string) {
	f.t.Helper()
	f.cmd = f.balanza("up", "--shift", strconv.Itoa(f.shift), "-i", "2", "--profile", f.profile)
	f.cmd.Env = append(f.cmd.Env, settings...)
	f.cmd.Stdout, f.cmd.Stderr = f.log, f.log
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := f.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.awaitOnline(f.size())
	f.url = "http://" + f.address("edge")
	eventually(f.t, "responses through the balancer", func() error {
		return errors.Join(load.Send(f.address("edge"), "GET /info"), load.Send(f.address("edge"), "GET /api/randoms?cant=1000"))
	})
}

// address is host:port of a server.
func (f *fleet) address(name string) string {
	return fmt.Sprintf("127.0.0.1:%d", map[string]int{"edge": 8000, "fork": 8080, "cluster": 8081}[name]+f.shift)
}

// triedShifts counts the shifts that this test process tried, so that two fleets that start at once use different ones.
var triedShifts atomic.Int64

// freeShift finds a value of --shift with which all ports are free.
func freeShift(t *testing.T) int {
	t.Helper()
	for range 1000 {
		shift := 2000 + os.Getpid()%1000*10 + int(triedShifts.Add(1))*7
		free := true
		for _, port := range []int{8000, 8080, 8081, 8082, 8083, 8084, 8085} {
			ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+shift))
			if err != nil {
				free = false
				break
			}
			ln.Close()
		}
		if free {
			return shift
		}
	}
	t.Fatal("no free ports")
	return 0
}

// processes returns the pids of the masters' process and of all workers.
func (f *fleet) processes() (pids []int) {
	pids = []int{f.cmd.Process.Pid}
	for _, l := range f.ps() {
		for _, w := range l.Workers {
			pids = append(pids, w.Pid)
		}
	}
	return pids
}

// awaitNothingLeft waits until the processes have exited and the ports are free.
func (f *fleet) awaitNothingLeft(pids []int) {
	f.t.Helper()
	began := time.Now()
	eventually(f.t, "exit of all processes", func() error {
		for _, pid := range pids {
			if err := proctree.Exited(pid); err != nil {
				return err
			}
		}
		for _, name := range []string{"edge", "fork", "cluster"} {
			ln, err := net.Listen("tcp", f.address(name))
			if err != nil {
				return err
			}
			ln.Close()
		}
		return nil
	})
	f.t.Logf("all processes exited and all ports free after %v", time.Since(began).Round(10*time.Millisecond))
	if all := f.ps(); len(all) != 0 {
		f.t.Errorf("balanza ps lists %+v", all)
	}
}

// startLoad starts clients that send these requests, like "GET /info", in turn. They end with the test.
func startLoad(t *testing.T, address string, clients int, requests ...string) *load.Load {
	t.Helper()
	return load.Start(t, load.Config{
		Address: address, Clients: clients, Requests: requests, Body: "{}",
		Interval: 5 * time.Millisecond, Timeout: time.Minute,
	})
}
