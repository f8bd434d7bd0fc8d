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

// listed is a server as `balanza ps --json` shows it.
type listed struct {
	Name     string
	Status   string
	Cause    string
	Pid      int // of the master
	Port     int
	Restarts int
	Workers  []listedWorker
}

type listedWorker struct {
	Pid        int
	Status     string
	Generation int
	Restarts   int
}

// ps is what `balanza ps --json` says, by name.
func (s *server) ps() map[string]listed {
	s.t.Helper()
	out, err := s.balanza("ps", "--json").Output()
	if err != nil {
		s.t.Fatalf("balanza ps: %v", err)
	}
	var all []listed
	if err := json.Unmarshal(out, &all); err != nil {
		s.t.Fatal(err)
	}
	byName := map[string]listed{}
	for _, l := range all {
		byName[l.Name] = l
	}
	return byName
}

// calm waits until exactly n servers are listed, all processes of them online, and returns them.
func (s *server) calm(n int) map[string]listed {
	s.t.Helper()
	var all map[string]listed
	eventually(s.t, "all online", func() error {
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

// order gives a command that must succeed.
func (s *server) order(args ...string) {
	s.t.Helper()
	if said, err := s.balanza(args...).CombinedOutput(); err != nil {
		s.t.Fatalf("balanza %v: %v: %s", args, err, said)
	}
}

// fleet is a running `balanza up`: its server is the process that holds all masters.
type fleet struct {
	*server
	shift int
}

// fleetSize is how many servers `balanza up` has.
const fleetSize = 3

// up starts the small topology with two workers, on ports that are free.
func up(t *testing.T, settings ...string) *fleet {
	t.Helper()
	home, err := os.MkdirTemp("", "b") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	f := &fleet{server: &server{t: t, home: home}, shift: freeShift(t)}
	if f.log, err = os.Create(filepath.Join(home, "said")); err != nil {
		t.Fatal(err)
	}
	f.launch(settings...)
	t.Cleanup(func() {
		f.end(syscall.SIGTERM)
		if t.Failed() {
			said, _ := os.ReadFile(f.log.Name())
			t.Logf("said:\n%s", tail(string(said), 4000))
		}
	})
	return f
}

// launch starts it, in a process group of its own, and waits until everything is online and the balancer knows.
func (f *fleet) launch(settings ...string) {
	f.t.Helper()
	f.cmd = f.balanza("up", "--shift", strconv.Itoa(f.shift), "-i", "2")
	f.cmd.Env = append(f.cmd.Env, settings...)
	f.cmd.Stdout, f.cmd.Stderr = f.log, f.log
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := f.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.calm(fleetSize)
	f.url = "http://" + f.address("edge")
	eventually(f.t, "answers through the balancer", func() error {
		return errors.Join(load.Send(f.address("edge"), "GET /info"), load.Send(f.address("edge"), "GET /api/randoms?cant=1000"))
	})
}

// address is where a server of the fleet listens.
func (f *fleet) address(name string) string {
	return fmt.Sprintf("127.0.0.1:%d", map[string]int{"edge": 8000, "fork": 8080, "cluster": 8081}[name]+f.shift)
}

// tried counts the shifts that fleets of this test process tried, so that two that start at once take different ones.
var tried atomic.Int64

// freeShift is one that leads to ports which are free.
func freeShift(t *testing.T) int {
	t.Helper()
	for range 1000 {
		shift := 2000 + os.Getpid()%1000*10 + int(tried.Add(1))*7
		free := true
		for _, port := range []int{8000, 8080, 8081} {
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

// processes are all of the fleet's: the master's and those of every server.
func (f *fleet) processes() (pids []int) {
	pids = []int{f.cmd.Process.Pid}
	for _, l := range f.ps() {
		for _, w := range l.Workers {
			pids = append(pids, w.Pid)
		}
	}
	return pids
}

// nothingLeft waits until the operating system shows none of the processes, and the ports can be bound.
func (f *fleet) nothingLeft(pids []int) {
	f.t.Helper()
	began := time.Now()
	eventually(f.t, "the end of all", func() error {
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
	f.t.Logf("nothing left after %v", time.Since(began).Round(10*time.Millisecond))
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
