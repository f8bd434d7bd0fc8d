package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"balanza/e2e/proctree"
	"balanza/e2e/testenv"
)

// figure reads a line of a process's smaps_rollup, in bytes.
func figure(t *testing.T, pid int, name string) (n int64) {
	t.Helper()
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(rollup), "\n"+name+":")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatalf("%s of %s: %v", name, rollup, err)
	}
	return n << 10
}

// measured is a server in the output of ps --json.
type measured struct {
	Name, Status string
	Pid          int
	CPU          float64
	Memory       int64
	Master       *struct {
		Pid     int
		Memory  int64
		Servers []string
	}
	Workers []struct {
		Pid    int
		Memory int64
	}
}

func (h *home) measure(args ...string) (all []measured) {
	h.t.Helper()
	if err := json.Unmarshal([]byte(h.must(append([]string{"ps", "--json"}, args...)...)), &all); err != nil {
		h.t.Fatal(err)
	}
	return all
}

// sum adds up what servers and the masters that are told apart use.
func sum(all []measured) (bytes int64) {
	masters := map[int]bool{}
	for _, s := range all {
		bytes += s.Memory
		if s.Master != nil && !masters[s.Master.Pid] {
			masters[s.Master.Pid] = true
			bytes += s.Master.Memory
		}
	}
	return bytes
}

// Memory is counted once: the master that all servers of up share, and the program's code that all processes share.
func TestPsCountsSharedMemoryOnce(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.must("up", "-d", "-i", "2", "--shift", "18300")
	t.Cleanup(func() { h.run("down") })
	all := h.measure()
	if len(all) != 3 {
		t.Fatalf("%+v", all)
	}
	pids := []int{all[0].Pid}
	for _, s := range all {
		want := int64(0)
		for _, w := range s.Workers {
			want += w.Memory
			pids = append(pids, w.Pid)
			if rss, private := figure(t, w.Pid, "Rss"), figure(t, w.Pid, "Private_Dirty"); w.Memory < private/2 || w.Memory >= rss {
				t.Errorf("%s: a worker with %d bytes, of which %d are its own, resident are %d", s.Name, w.Memory, private, rss)
			}
		}
		if s.Memory != want || s.Memory == 0 {
			t.Errorf("%s: %d bytes, its workers %d", s.Name, s.Memory, want)
		}
		if s.Master == nil || s.Master.Pid != s.Pid || !slices.Equal(s.Master.Servers, []string{"cluster", "edge", "fork"}) {
			t.Errorf("%s: its master is %+v", s.Name, s.Master)
		}
	}
	var given int64
	for _, pid := range pids {
		given += figure(t, pid, "Pss")
	}
	if got := sum(all); got < given*7/10 || got > given*13/10 { // the processes go on living between the two looks
		t.Errorf("the sum is %d bytes, the kernel's %d", got, given)
	}

	// A stopped server uses nothing; its master goes on.
	h.must("stop", "fork")
	fork := h.measure("fork")[0]
	if fork.Memory != 0 || fork.CPU != 0 || fork.Master == nil || fork.Master.Memory == 0 {
		t.Errorf("a stopped server: %+v", fork)
	}

	// A master that does not answer does not tell its workers, which go on using memory.
	before := sum(h.measure())
	proctree.Stop(t, all[0].Pid)
	unresponsive := h.measure()
	table := h.must("ps")
	if err := syscall.Kill(all[0].Pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if got := sum(unresponsive); unresponsive[0].Status != "unresponsive" || got < before*7/10 || got > before*13/10 {
		t.Errorf("while the master does not answer %d bytes, before %d: %+v", got, before, unresponsive)
	}
	if got := cells(t, table, "edge"); strings.Join(got, " ") != fmt.Sprintf("- - %d - - unresponsive - - -", all[0].Pid) {
		t.Errorf("unresponsive: %q", got)
	}
}

// A server with a master of its own counts it, alone and stopped too.
func TestPsCountsAMasterOfOneServer(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.must("start", "--p", testenv.FreePort(t), "--m", "CLUSTER", "-i", "1", "--name", "one")
	h.must("start", "--p", testenv.FreePort(t), "--name", "two") // FORK: its master serves
	all := h.measure("one", "two")
	one, two := all[0], all[1]
	if one.Master != nil || one.Memory <= one.Workers[0].Memory {
		t.Errorf("CLUSTER: %+v", one)
	}
	if two.Master != nil || two.Memory != two.Workers[0].Memory || two.Workers[0].Pid != two.Pid {
		t.Errorf("FORK: %+v", two)
	}
	h.must("stop", "one")
	if one = h.measure("one")[0]; one.Memory != 0 || one.Master == nil || one.Master.Memory == 0 || len(one.Master.Servers) != 1 {
		t.Errorf("stopped: %+v", one)
	}
	if table := h.must("ps"); !strings.Contains(table, "master of one ") {
		t.Errorf("the master is not shown:\n%s", table)
	}
}
