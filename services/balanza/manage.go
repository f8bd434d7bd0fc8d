package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/shirou/gopsutil/v4/process"

	"balanza/services/workers"
	"balanza/services/workers/control"
)

// list is all servers of this user on this machine.
func (p *program) list() ([]control.Status, error) {
	return control.List(context.Background(), p.settings.runDir())
}

// pick is the servers that the words name, by name or port; all without words.
func (p *program) pick(words []string) (picked []control.Status, err error) {
	all, err := p.list()
	if err != nil || len(words) == 0 {
		return all, err
	}
	for _, word := range words {
		i := slices.IndexFunc(all, func(st control.Status) bool { return st.Name == word || strconv.Itoa(st.Port) == word })
		if i < 0 {
			return nil, fmt.Errorf("no server is named %s or has that port (balanza ps)", word)
		}
		picked = append(picked, all[i])
	}
	return picked, nil
}

// order gives an order to several servers, one after another, and says what came of it.
func (p *program) order(servers []control.Status, what string, count int) error {
	var failed []error
	for _, st := range servers {
		began := time.Now()
		if err := control.NewClient(p.settings.runDir(), st.Name).Order(context.Background(), what, count); err != nil {
			failed = append(failed, fmt.Errorf("%s %s: %w", what, st.Name, err))
			continue
		}
		fmt.Fprintf(p.out, "%s %s: done in %v\n", what, st.Name, time.Since(began).Round(time.Millisecond))
	}
	return errors.Join(failed...)
}

// orderNamed is a command that is one order for the servers named, all without a name.
func (p *program) orderNamed(what string, args []string) error {
	words, err := p.parse(flags(what), args)
	if err != nil {
		return err
	}
	servers, err := p.pick(words)
	if err != nil {
		return err
	}
	if len(servers) == 0 {
		fmt.Fprintln(p.out, "nothing runs")
	}
	return p.order(servers, what, 0)
}

func (p *program) reload(args []string) error  { return p.orderNamed("reload", args) }
func (p *program) restart(args []string) error { return p.orderNamed("restart", args) }
func (p *program) stop(args []string) error    { return p.orderNamed("stop", args) }
func (p *program) delete(args []string) error  { return p.orderNamed("delete", args) }

// scale takes NAME=N, or NAME N.
func (p *program) scale(args []string) error {
	words, err := p.parse(flags("scale"), args)
	if err != nil {
		return err
	}
	if len(words) == 2 && !strings.Contains(words[0], "=") {
		words = []string{words[0] + "=" + words[1]}
	}
	if len(words) == 0 {
		return usagef("scale takes NAME=N, like cluster=4")
	}
	for _, word := range words {
		name, number, _ := strings.Cut(word, "=")
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || n > workers.MaxWorkers {
			return usagef("scale %s: the number of workers is from 1 to %d", word, workers.MaxWorkers)
		}
		servers, err := p.pick([]string{name})
		if err != nil {
			return err
		}
		if err := p.order(servers, "scale", n); err != nil {
			return err
		}
	}
	return nil
}

// start starts stopped servers by name, or, with a server's flags, a new one in the background.
func (p *program) start(args []string) error {
	f := flags("start")
	serveFlags(f, &p.settings)
	words, err := p.parse(f, args)
	if err != nil {
		return err
	}
	if len(words) > 0 {
		if f.NFlag() > 0 {
			return usagef("start takes the name of a stopped server, or the flags of a new one, not both")
		}
		servers, err := p.pick(words)
		if err != nil {
			return err
		}
		if err := p.order(servers, "start", 0); err != nil {
			return err
		}
		return p.awaitOnline(words)
	}
	if p.settings.Port == 0 {
		return usagef("start: name a port with --p")
	}
	if err := p.background(args, []string{p.settings.name()}); err != nil {
		return err
	}
	fmt.Fprintf(p.out, "%s is online: http://localhost:%d\n", p.settings.name(), p.settings.Port)
	return nil
}

// startLimit is how long a server that was told to start may take until a worker of it serves.
const startLimit = time.Minute

// awaitOnline waits until the servers named are online, and fails with the reason when one ends instead.
func (p *program) awaitOnline(words []string) error {
	for end := time.Now().Add(startLimit); ; time.Sleep(50 * time.Millisecond) {
		servers, err := p.pick(words)
		if err != nil {
			return err
		}
		waiting := false
		for _, st := range servers {
			if st.Status == "errored" || time.Now().After(end) {
				return fmt.Errorf("%s did not start: %s", st.Name, st.Cause)
			}
			waiting = waiting || st.Status != "online"
		}
		if !waiting {
			return nil
		}
	}
}

// processStatus is a worker with what it uses now.
type processStatus struct {
	control.WorkerStatus
	CPU    float64 `json:"cpu"`    // percent of one CPU, over the last moment
	Memory int64   `json:"memory"` // resident bytes
}

// serverStatus is a server as `ps --json` gives it.
type serverStatus struct {
	control.Status
	Uptime  float64         `json:"uptime"` // seconds
	CPU     float64         `json:"cpu"`    // of all its workers
	Memory  int64           `json:"memory"` // of all its workers and, where it is not one of them, its master
	Workers []processStatus `json:"workers"`
}

// moment is how long CPU use is measured.
const moment = 200 * time.Millisecond

// measure adds what the processes use.
func measure(all []control.Status) []serverStatus {
	spent := func() map[int]float64 {
		seconds := map[int]float64{}
		for _, st := range all {
			for _, w := range st.Workers {
				if pr, err := process.NewProcess(int32(w.Pid)); err == nil {
					if t, err := pr.Times(); err == nil {
						seconds[w.Pid] = t.User + t.System
					}
				}
			}
		}
		return seconds
	}
	before, began := spent(), time.Now()
	time.Sleep(moment)
	after, passed := spent(), time.Since(began).Seconds()
	measured := []serverStatus{}
	for _, st := range all {
		s := serverStatus{Status: st, Workers: []processStatus{}}
		if st.Status != "stopped" && !st.Since.IsZero() {
			s.Uptime = time.Since(st.Since).Round(time.Millisecond).Seconds()
		}
		masterIsWorker := false
		for _, w := range st.Workers {
			ps := processStatus{WorkerStatus: w, CPU: round1(100 * (after[w.Pid] - before[w.Pid]) / passed), Memory: workers.ResidentMemory(w.Pid)}
			s.CPU += ps.CPU
			s.Memory += ps.Memory
			s.Workers = append(s.Workers, ps)
			masterIsWorker = masterIsWorker || w.Pid == st.Pid
		}
		if !masterIsWorker {
			s.Memory += workers.ResidentMemory(st.Pid)
		}
		measured = append(measured, s)
	}
	return measured
}

func round1(x float64) float64 { return float64(int(x*10+0.5)) / 10 }

// ps lists servers and processes.
func (p *program) ps(args []string) error {
	f := flags("ps")
	asJSON := f.Bool("json", false, "for programs")
	words, err := p.parse(f, args)
	if err != nil {
		return err
	}
	servers, err := p.pick(words)
	if err != nil {
		return err
	}
	all := measure(servers)
	if *asJSON {
		e := json.NewEncoder(p.out)
		e.SetIndent("", "  ")
		return e.Encode(all)
	}
	if len(all) == 0 {
		fmt.Fprintln(p.out, "nothing runs; start with: balanza up -d")
		return nil
	}
	return table(p.out, all, nil)
}

// table prints servers and, below each, its workers; with rates, their requests a second by process too.
func table(to io.Writer, all []serverStatus, rates map[int]float64) error {
	t := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	row := func(name, mode, port, pid, uptime, restarts, status string, cpu float64, memory int64, watching string, rate float64) {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.1f%%\t%.1f MiB\t%s", name, mode, port, pid, uptime, restarts, status,
			cpu, float64(memory)/(1<<20), watching)
		if rates != nil {
			fmt.Fprintf(t, "\t%.0f", rate)
		}
		fmt.Fprintln(t)
	}
	fmt.Fprint(t, "NAME\tMODE\tPORT\tPID\tUPTIME\tRESTARTS\tSTATUS\tCPU\tMEMORY\tWATCHING")
	if rates != nil {
		fmt.Fprint(t, "\tREQUESTS/S")
	}
	fmt.Fprintln(t)
	for _, s := range all {
		watching, rate := "no", 0.0
		if s.Watching {
			watching = "yes"
		}
		for _, w := range s.Workers {
			rate += rates[w.Pid]
		}
		row(s.Name, s.Mode, strconv.Itoa(s.Port), strconv.Itoa(s.Pid), age(s.Since, s.Status.Status), strconv.Itoa(s.Restarts),
			s.Status.Status, s.CPU, s.Memory, watching, rate)
		for i, w := range s.Workers {
			if len(s.Workers) == 1 && w.Pid == s.Pid {
				break // one process: it is the line above
			}
			branch := "├─"
			if i == len(s.Workers)-1 {
				branch = "└─"
			}
			row(fmt.Sprintf("%s worker %d", branch, w.Worker), "", "", strconv.Itoa(w.Pid), age(w.Since, w.Status),
				strconv.Itoa(w.Restarts), w.Status, w.CPU, w.Memory, "", rates[w.Pid])
		}
		if s.Cause != "" {
			fmt.Fprintf(t, "   last death: %s\n", s.Cause)
		}
	}
	return t.Flush()
}

// age is how long something has lived, in its one or two largest units.
func age(since time.Time, status string) string {
	if since.IsZero() || status == "stopped" || status == "errored" {
		return "-"
	}
	d := time.Since(since).Round(time.Second)
	switch days := int(d.Hours()) / 24; {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, int(d.Hours())%24)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return d.String()
}
