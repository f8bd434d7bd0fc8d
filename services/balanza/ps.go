package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
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
		return table(p.out, all, nil)
	})
	c.Aliases = []string{"list", "ls", "status"}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON, for programs")
	return c
}

// processStatus is a worker with what it uses.
type processStatus struct {
	control.WorkerStatus
	CPU    float64 `json:"cpu"`    // percent of one CPU, during cpuInterval
	Memory int64   `json:"memory"` // resident bytes
}

// serverStatus is a server as `ps --json` gives it.
type serverStatus struct {
	control.Status
	CPU     float64         `json:"cpu"`    // of all its workers
	Memory  int64           `json:"memory"` // of all its workers and, where it is not one of them, its master
	Workers []processStatus `json:"workers"`
}

// InProcess tells whether the server is one process: its master, which serves.
func (s serverStatus) InProcess() bool { return len(s.Workers) == 1 && s.Workers[0].Pid == s.Pid }

// cpuInterval is how long CPU use is measured. The kernel counts in steps of 10 ms, so a shorter one would tell little.
const cpuInterval = 200 * time.Millisecond

// measure returns the servers that pick finds, with what their processes use. All processes are measured at the same time.
func (p *program) measure(ctx context.Context, names []string) ([]serverStatus, error) {
	servers, err := p.pick(ctx, names)
	if err != nil {
		return nil, err
	}
	all := make([]serverStatus, len(servers))
	var wg sync.WaitGroup
	for i, st := range servers {
		s := serverStatus{Status: st, Workers: make([]processStatus, len(st.Workers))}
		for j, w := range st.Workers {
			s.Workers[j] = processStatus{WorkerStatus: w, Memory: workers.ResidentMemory(w.Pid)}
			s.Memory += s.Workers[j].Memory
			wg.Go(func() { s.Workers[j].CPU = cpuPercent(ctx, w.Pid) })
		}
		if !s.InProcess() {
			s.Memory += workers.ResidentMemory(st.Pid)
		}
		all[i] = s
	}
	wg.Wait()
	for i := range all {
		for _, w := range all[i].Workers {
			all[i].CPU += w.CPU
		}
	}
	return all, context.Cause(ctx)
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

// table prints servers and, below each, its workers; with rates, their requests a second by pid too.
func table(to io.Writer, all []serverStatus, rates map[int]float64) error {
	return render(to, "ps.tmpl", struct {
		Servers []serverStatus
		Rates   map[int]float64
		Live    bool
	}{all, rates, rates != nil})
}

// age is how long something has lived, in its one or two largest units; - for what does not live.
func age(seconds float64, status string) string {
	if seconds == 0 || status == "stopped" || status == "errored" {
		return "-"
	}
	d := time.Duration(seconds * float64(time.Second)).Round(time.Second)
	switch days := int(d.Hours()) / 24; {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, int(d.Hours())%24)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return d.String()
}
