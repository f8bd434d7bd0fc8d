package main

import (
	"context"
	"fmt"
	"os/exec"
	"time"
)

const hundredMillion = "/api/randoms?cant=100000000"

// draws asks both servers in turn for a histogram, on all processors and on one.
func draws(ctx context.Context, b *bench) error {
	if err := drawsOn(ctx, b, "all processors", nil); err != nil {
		return err
	}
	if _, err := exec.LookPath("taskset"); err != nil {
		fmt.Println("on one processor: taskset is missing, not measured")
		return nil
	}
	return drawsOn(ctx, b, "one processor", on([]string{"0"}))
}

func drawsOn(ctx context.Context, b *bench, where string, prefix []string) error {
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
	c := comparison{what: hundredMillion + " on " + where, unit: "s", digits: 3, peer: "Node's child process", target: 12}
	for range rounds {
		var took [2]time.Duration
		for i, s := range []*server{ours, theirs} {
			start := time.Now()
			if _, err := s.get(ctx, hundredMillion); err != nil {
				return err
			}
			took[i] = time.Since(start)
		}
		c.add(took[0].Seconds(), took[1].Seconds())
	}
	c.print()
	return nil
}
