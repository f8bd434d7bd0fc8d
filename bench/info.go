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

// info loads both servers in turn with wrk, and prints what they answer in a second and what they answer in a second of
// the processor time they take. wrk costs as much for each request as Balanza, so it has processors of its own, as
// many as the servers: else it would take the more from a server the cheaper that one's answers are.
func info(ctx context.Context, b *bench) error {
	processors, err := allowed()
	if err != nil {
		return err
	}
	if len(processors) < 2 {
		return errors.New("info needs a processor for the servers and one for the load")
	}
	half := len(processors) / 2
	for _, mode := range []string{"FORK", "CLUSTER"} {
		for _, accept := range []string{"application/json", "text/html"} {
			if err := infoIn(ctx, b, mode, accept, processors[:half], processors[half:2*half]); err != nil {
				return err
			}
		}
	}
	return nil
}

// allowed are the numbers of the processors that this process may run on.
func allowed() (numbers []string, err error) {
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

// on are the words that have a command run on these processors only.
func on(processors []string) []string {
	return []string{"taskset", "-c", strings.Join(processors, ",")}
}

func infoIn(ctx context.Context, b *bench, mode, accept string, forServers, forLoad []string) error {
	const rounds = 9
	ourArgs, theirArgs := []string{"--m", mode}, []string{"--mode", mode}
	if mode == "CLUSTER" {
		workers := strconv.Itoa(max(2, len(forServers)))
		ourArgs, theirArgs = append(ourArgs, "-i", workers), append(theirArgs, "--workers", workers)
	}
	ours, err := b.startBalanza(ctx, on(forServers), ourArgs...)
	if err != nil {
		return err
	}
	defer ours.stop()
	theirs, err := b.startPeer(ctx, "Express", on(forServers), theirArgs...)
	if err != nil {
		return err
	}
	defer theirs.stop()

	what := "/info in " + mode + ", " + accept
	rate := comparison{what: what, unit: "requests/s", peer: "Express", target: 10, more: true}
	thrift := comparison{what: what, unit: "requests per CPU second", peer: "Express", target: 10, more: true}
	for range rounds {
		var loads [2]load
		for i, s := range []*server{ours, theirs} {
			if loads[i], err = wrk(ctx, s, accept, forLoad); err != nil {
				return err
			}
		}
		rate.add(loads[0].rate, loads[1].rate)
		thrift.add(loads[0].requests/loads[0].cpu, loads[1].requests/loads[1].cpu)
	}
	rate.print()
	thrift.print()
	return nil
}

// load is what one run of wrk did to a server.
type load struct {
	requests float64
	rate     float64 // requests a second
	cpu      float64 // seconds of processor time that the server's processes took
}

var wrkSums = regexp.MustCompile(`(?s)(\d+) requests in .*Requests/sec:\s+([0-9.]+)`)

// wrk asks for /info on 32 connections for two seconds. An answer other than 200 fails it.
func wrk(ctx context.Context, s *server, accept string, processors []string) (load, error) {
	threads := fmt.Sprint("-t", len(processors))
	argv := append(on(processors), "wrk", threads, "-c32", "-d2s", "-H", "Accept: "+accept, s.url+"/info")
	before, err := s.cpu(ctx)
	if err != nil {
		return load{}, err
	}
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return load{}, fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out)
	}
	after, err := s.cpu(ctx)
	if err != nil {
		return load{}, err
	}
	found := wrkSums.FindSubmatch(out)
	if found == nil || strings.Contains(string(out), "Non-2xx") || strings.Contains(string(out), "Socket errors") {
		return load{}, fmt.Errorf("%s: not every request was answered\n%s", strings.Join(argv, " "), out)
	}
	requests, _ := strconv.ParseFloat(string(found[1]), 64) // both are numbers by the expression
	rate, _ := strconv.ParseFloat(string(found[2]), 64)
	return load{requests: requests, rate: rate, cpu: after - before}, nil
}

// cpu returns the processor time, in seconds, that the server's process and its children have taken.
func (s *server) cpu(ctx context.Context) (float64, error) {
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
