package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"github.com/shirou/gopsutil/v4/process"
	"golang.org/x/sys/unix"
)

// info loads both servers in turn with wrk, and compares the requests per second and the requests per second of the server's
// processor time. wrk needs as much processor time for a request as Balanza does. It therefore has its own processors, as
// many as the servers: on shared ones it would slow a server down the more, the cheaper that server's answers are.
func info(ctx context.Context, b *bench) error {
	processors, err := allowedProcessors()
	if err != nil {
		return err
	}
	// On a shared processor the rate would be that of the server and wrk together.
	if len(processors) < 2 {
		return errors.New("info needs a processor for the servers and one for the load")
	}
	half := len(processors) / 2 // the same number on both sides; an odd one is not used
	for _, mode := range []string{"FORK", "CLUSTER"} {
		for _, accept := range []string{"application/json", "text/html"} {
			if err := infoIn(ctx, b, mode, accept, processors[:half], processors[half:2*half]); err != nil {
				return err
			}
		}
	}
	return nil
}

// allowedProcessors returns the numbers of the processors that this process may run on. In a container they need not start
// at 0.
func allowedProcessors() (numbers []string, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, err
	}
	for i := 0; len(numbers) < set.Count(); i++ {
		if set.IsSet(i) {
			numbers = append(numbers, strconv.Itoa(i))
		}
	}
	return numbers, nil
}

// taskset is the prefix of a command that runs it on these processors only.
func taskset(processors []string) []string {
	return []string{"taskset", "-c", strings.Join(processors, ",")}
}

// infoIn compares the servers in one mode and for one type of answer: JSON or the page.
func infoIn(ctx context.Context, b *bench, mode, accept string, forServers, forLoad []string) error {
	const rounds = 9 // the ratios of single rounds differ by a quarter
	// Both servers have the same number of workers, and at least two: one worker is no cluster.
	ourArgs, theirArgs := []string{"--m", mode}, []string{"--mode", mode}
	if mode == "CLUSTER" {
		workers := strconv.Itoa(max(2, len(forServers)))
		ourArgs, theirArgs = append(ourArgs, "-i", workers), append(theirArgs, "--workers", workers)
	}
	ours, err := b.startBalanza(ctx, taskset(forServers), ourArgs...)
	if err != nil {
		return err
	}
	defer ours.stop()
	theirs, err := b.startPeer(ctx, "Express", taskset(forServers), theirArgs...)
	if err != nil {
		return err
	}
	defer theirs.stop()

	what := "/info in " + mode + ", " + accept
	rate := comparison{what: what, unit: "requests/s", peer: "Express", target: 10, higherIsBetter: true}
	perCPU := comparison{what: what, unit: "requests per CPU second", peer: "Express", target: 10, higherIsBetter: true}
	// Every round loads both servers, one after the other, while the other one is idle.
	for range rounds {
		var loads [2]load
		for i, s := range []*server{ours, theirs} {
			if loads[i], err = wrk(ctx, s, "/info", accept, forLoad); err != nil {
				return err
			}
		}
		rate.add(loads[0].rate, loads[1].rate)
		perCPU.add(loads[0].requests/loads[0].cpuSeconds, loads[1].requests/loads[1].cpuSeconds)
	}
	rate.print()
	perCPU.print()
	return nil
}

// load is the result of one run of wrk.
type load struct {
	requests   float64
	rate       float64 // requests per second
	cpuSeconds float64 // processor time of the server's processes
}

// wrkTotals matches the two numbers of interest in wrk's output.
var wrkTotals = regexp.MustCompile(`(?s)(\d+) requests in .*Requests/sec:\s+([0-9.]+)`)

// wrk requests a path on 32 connections for two seconds, with a thread for each of the processors. It fails when a request
// fails or has an answer other than 200: an error page is quickly made, and would look like speed.
func wrk(ctx context.Context, s *server, path, accept string, processors []string) (load, error) {
	threads := fmt.Sprint("-t", len(processors))
	argv := append(taskset(processors), "wrk", threads, "-c32", "-d2s", "-H", "Accept: "+accept, s.url+path)
	before, err := s.cpuSeconds(ctx)
	if err != nil {
		return load{}, err
	}
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return load{}, fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out)
	}
	after, err := s.cpuSeconds(ctx)
	if err != nil {
		return load{}, err
	}
	// wrk exits with 0 also when requests failed; it prints a line for each kind of failure.
	found := wrkTotals.FindSubmatch(out)
	if found == nil || strings.Contains(string(out), "Non-2xx") || strings.Contains(string(out), "Socket errors") {
		return load{}, fmt.Errorf("%s: not every request was answered\n%s", strings.Join(argv, " "), out)
	}
	requests, _ := strconv.ParseFloat(string(found[1]), 64) // the expression matches numbers only
	rate, _ := strconv.ParseFloat(string(found[2]), 64)
	return load{requests: requests, rate: rate, cpuSeconds: after - before}, nil
}

// cpuSeconds returns the processor time, in seconds, of the server's process and its living children. A master keeps its
// workers while nothing reloads them, so the difference of two calls is that of the whole server.
func (s *server) cpuSeconds(ctx context.Context) (float64, error) {
	first, err := process.NewProcessWithContext(ctx, int32(s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	children, err := first.ChildrenWithContext(ctx)
	if err != nil {
		return 0, err
	}
	var sum float64
	for _, p := range append(children, first) {
		times, err := p.TimesWithContext(ctx)
		if err != nil {
			return 0, err
		}
		sum += times.User + times.System
	}
	return sum, nil
}
