package main

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v4/process"
	"github.com/spf13/cobra"

	"balanza/services/workers"
	"balanza/services/workers/control"
)

// ps lists servers and their processes: as a table, or as JSON, whose field names programs rely on.
func (p *program) ps() *cobra.Command {
	var asJSON bool
	c := p.forServers("ps [--json] [NAME|PORT|all …]", "the servers and their processes", func(ctx context.Context, names []string) error {
		all, err := p.measure(ctx, names)
		switch {
		case err != nil:
			return err
		case asJSON:
			e := json.NewEncoder(p.out)
			e.SetIndent("", "  ")
			return e.Encode(all)
		case len(all) == 0:
			p.printf("nothing runs; start with: balanza up -d\n")
			return nil
		}
		return table(p.out, all, nil, p.columns())
	})
	c.Aliases = []string{"list", "ls", "status"}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON, for programs")
	return c
}

// usage is what processes use.
type usage struct {
	CPU    float64 `json:"cpu"`    // percent of one CPU, during cpuInterval
	Memory int64   `json:"memory"` // bytes; memory that n processes share counts as an n-th part: see workers.ProportionalMemory
}

func (u *usage) add(v usage) { u.CPU, u.Memory = u.CPU+v.CPU, u.Memory+v.Memory }

// processStatus is a worker with what it uses.
type processStatus struct {
	control.WorkerStatus
	usage
}

// masterStatus is a master with what it uses.
type masterStatus struct {
	Pid int `json:"pid"`
	usage
	Servers []string `json:"servers"` // all those in it, by name
}

// serverStatus is a server as `ps --json` gives it.
type serverStatus struct {
	control.Status
	usage                   // of its workers and, unless that is told apart, its master
	Master  *masterStatus   `json:"master,omitempty"` // told apart: several servers share it, or the server does not run
	Workers []processStatus `json:"workers"`
}

// InProcess tells whether the server is one process: its master, which serves.
func (s serverStatus) InProcess() bool { return len(s.Workers) == 1 && s.Workers[0].Pid == s.Pid }

// Runs tells whether the server has processes, or may have them.
func (s serverStatus) Runs() bool {
	return s.Status.Status != "stopped" && s.Status.Status != "errored"
}

// cpuInterval is how long CPU use is measured. The kernel counts in steps of 10 ms, so a shorter one would tell little.
const cpuInterval = 200 * time.Millisecond

// measure returns the servers of these names (see pick), with what their processes use. Each process counts once, so that
// servers and the masters that are told apart add up to what all use.
func (p *program) measure(ctx context.Context, names []string) ([]serverStatus, error) {
	all, err := p.list(ctx)
	if err != nil {
		return nil, err
	}
	servers, err := named(all, names)
	if err != nil {
		return nil, err
	}
	masters := map[int]*masterStatus{}
	var pids, workerPids, unresponsive []int
	for _, st := range all {
		if masters[st.Pid] == nil {
			masters[st.Pid] = &masterStatus{Pid: st.Pid}
			pids = append(pids, st.Pid)
		}
		masters[st.Pid].Servers = append(masters[st.Pid].Servers, st.Name)
		for _, w := range st.Workers {
			workerPids = append(workerPids, processesOf(w)...)
		}
		if st.Status == "unresponsive" && st.Pid > 0 {
			unresponsive = append(unresponsive, st.Pid)
		}
	}
	// A master that does not answer does not tell its workers: they count with it.
	untold := map[int][]int{}
	if len(unresponsive) > 0 {
		untold = children(ctx, unresponsive)
	}
	pids = append(pids, workerPids...)
	for _, master := range unresponsive {
		untold[master] = slices.DeleteFunc(untold[master], func(pid int) bool { return slices.Contains(workerPids, pid) })
		pids = append(pids, untold[master]...)
	}
	uses := measureProcesses(ctx, pids)
	for pid, m := range masters {
		m.usage = uses[pid]
		for _, worker := range untold[pid] {
			m.add(uses[worker])
		}
	}
	measured := make([]serverStatus, len(servers))
	for i, st := range servers {
		st.Origin = nil // for save alone
		s := serverStatus{Status: st, Workers: make([]processStatus, len(st.Workers))}
		for j, w := range st.Workers {
			s.Workers[j].WorkerStatus = w
			for _, pid := range processesOf(w) {
				s.Workers[j].add(uses[pid])
			}
			s.add(s.Workers[j].usage)
		}
		if m := masters[st.Pid]; len(m.Servers) > 1 || !s.Runs() {
			s.Master = m
		} else if !s.InProcess() {
			s.add(m.usage)
		}
		measured[i] = s
	}
	return measured, context.Cause(ctx)
}

// processesOf are the pids of a worker: of a program all that it has started.
func processesOf(w control.WorkerStatus) []int {
	if len(w.Processes) > 0 {
		return w.Processes
	}
	return []int{w.Pid}
}

// children returns the pids of the processes that these processes have started, by their parents.
func children(ctx context.Context, parents []int) map[int][]int {
	all, _ := process.ProcessesWithContext(ctx)
	byParent := map[int][]int{}
	for _, ps := range all {
		if parent, err := ps.PpidWithContext(ctx); err == nil && slices.Contains(parents, int(parent)) {
			byParent[int(parent)] = append(byParent[int(parent)], int(ps.Pid))
		}
	}
	return byParent
}

// measureProcesses returns what processes use, by pid. All are measured at the same time.
func measureProcesses(ctx context.Context, pids []int) map[int]usage {
	uses := map[int]usage{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	slices.Sort(pids)
	for _, pid := range slices.Compact(pids) {
		if pid == 0 { // a worker without a process
			continue
		}
		wg.Go(func() {
			u := usage{cpuPercent(ctx, pid), workers.ProportionalMemory(pid)}
			mu.Lock()
			defer mu.Unlock()
			uses[pid] = u
		})
	}
	wg.Wait()
	return uses
}

// cpuPercent is how much of one CPU a process uses during cpuInterval, 0 for one that has ended.
func cpuPercent(ctx context.Context, pid int) float64 {
	ps, err := process.NewProcessWithContext(ctx, int32(pid))
	if err != nil {
		return 0
	}
	percent, _ := ps.PercentWithContext(ctx, cpuInterval)
	return float64(int(percent*10+0.5)) / 10
}
