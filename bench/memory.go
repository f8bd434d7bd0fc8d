package main

import (
	"context"
	"time"

	"github.com/shirou/gopsutil/v4/process"
)

// memory compares the resident set of a CLUSTER's workers that have answered a few requests and then rested.
func memory(ctx context.Context, b *bench) error {
	const workers, rest = 2, 3 * time.Second
	ours, err := b.startBalanza(ctx, nil, "--m", "CLUSTER", "-i", "2")
	if err != nil {
		return err
	}
	defer ours.stop()
	theirs, err := b.startPeer(ctx, "Express", nil, "--mode", "CLUSTER", "--workers", "2")
	if err != nil {
		return err
	}
	defer theirs.stop()

	sizes := map[*server][]float64{}
	for _, s := range []*server{ours, theirs} {
		pids, err := s.workers(ctx, workers)
		if err != nil {
			return err
		}
		time.Sleep(rest)
		for pid := range pids {
			bytes, err := resident(ctx, pid)
			if err != nil {
				return err
			}
			sizes[s] = append(sizes[s], bytes/(1<<20))
		}
	}
	c := comparison{what: "an idle worker's resident memory", unit: "MiB", digits: 1, peer: "node:cluster's", target: 4}
	for i := range workers {
		c.add(sizes[ours][i], sizes[theirs][i])
	}
	c.print()
	return nil
}

// resident is the resident memory of a process, in bytes.
func resident(ctx context.Context, pid int) (float64, error) {
	p, err := process.NewProcessWithContext(ctx, int32(pid))
	if err != nil {
		return 0, err
	}
	m, err := p.MemoryInfoWithContext(ctx)
	if err != nil {
		return 0, err
	}
	return float64(m.RSS), nil
}
