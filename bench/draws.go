package main

import (
	"context"
	"fmt"
	"os/exec"
	"time"
)

// defaultDraw is what /api/randoms draws when the request names no number.
const defaultDraw = "/api/randoms?cant=100000000"

// draws compares the time of one histogram, on all processors and on one. Balanza draws on all processors that it may use
// and Node's child process on one, so the second figure shows the speed of the drawing itself.
func draws(ctx context.Context, b *bench) error {
	if err := drawsOn(ctx, b, "all processors", nil); err != nil {
		return err
	}
	if _, err := exec.LookPath("taskset"); err != nil {
		fmt.Println("on one processor: taskset is missing, not measured")
		return nil
	}
	return drawsOn(ctx, b, "one processor", taskset([]string{"0"}))
}

// drawsOn measures both servers in turn. The prefix is put before their commands.
func drawsOn(ctx context.Context, b *bench, processors string, prefix []string) error {
	const rounds = 5
	ours, err := b.startBalanza(ctx, prefix, "--m", "FORK")
	if err != nil {
		return err
	}
	defer ours.stop()
	theirs, err := b.startPeer(ctx, "Node", prefix)
	if err != nil {
		return err
	}
	defer theirs.stop()
	c := comparison{what: defaultDraw + " on " + processors, unit: "s", digits: 3, peer: "Node's child process", target: 12}
	// By turns: each server draws while the other one is idle.
	for range rounds {
		var elapsed [2]time.Duration
		for i, s := range []*server{ours, theirs} {
			start := time.Now()
			if _, err := s.get(ctx, defaultDraw); err != nil {
				return err
			}
			elapsed[i] = time.Since(start)
		}
		c.add(elapsed[0].Seconds(), elapsed[1].Seconds())
	}
	c.print()
	return nil
}
