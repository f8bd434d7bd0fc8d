package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"github.com/shirou/gopsutil/v4/process"
)

// info loads both servers in turn with wrk, and prints what they answer in a second and what they answer in a second of
// the processor time they take: on one machine the load takes its part of the processors, so that the first ratio says
// less of a server the cheaper its answers are.
func info(ctx context.Context, b *bench) error {
	for _, mode := range []string{"FORK", "CLUSTER"} {
		for _, accept := range []string{"application/json", "text/html"} {
			if err := infoIn(ctx, b, mode, accept); err != nil {
				return err
			}
		}
	}
	return nil
}

func infoIn(ctx context.Context, b *bench, mode, accept string) error {
	const rounds = 5
	ours, err := b.startBalanza(ctx, nil, "--m", mode)
	if err != nil {
		return err
	}
	defer ours.stop()
	theirs, err := b.startPeer(ctx, "Express", nil, "--mode", mode)
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
			if loads[i], err = wrk(ctx, s, accept); err != nil {
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

// wrk asks for /info on 32 connections for three seconds. An answer other than 200 fails it.
func wrk(ctx context.Context, s *server, accept string) (load, error) {
	argv := []string{"wrk", "-t1", "-c32", "-d3s", "-H", "Accept: " + accept, s.url + "/info"}
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
