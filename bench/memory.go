package main

import (
	"context"
	"time"

	"github.com/shirou/gopsutil/v4/process"
)

// memory compares the private memory of two workers of each server that have answered a few requests and then rested.
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

	// workers requests until both have answered, so each has served something before it rests.
	sizes := map[*server][]float64{}
	for _, s := range []*server{ours, theirs} {
		pids, err := s.workers(ctx, workers)
		if err != nil {
			return err
		}
		// Both runtimes give memory back some time after the requests that used it.
		time.Sleep(rest)
		for pid := range pids {
			bytes, err := privateMemory(ctx, pid)
			if err != nil {
				return err
			}
			sizes[s] = append(sizes[s], bytes/(1<<20))
		}
	}
	// The workers of a server are alike, so any worker of one may be compared with any of the other.
	c := comparison{what: "an idle worker's private memory", unit: "MiB", digits: 1, peer: "node:cluster's", target: 4}
	for i := range workers {
		c.add(sizes[ours][i], sizes[theirs][i])
	}
	c.print()
	return nil
}

// privateMemory returns a process's private memory in bytes: Private_Dirty of /proc/PID/smaps_rollup, the pages that the
// process has written and shares with none. The machine gets exactly these back when the process ends. Resident memory
// (RSS) also counts the pages of the program's file, which all its processes share and the kernel can drop at any time.
func privateMemory(ctx context.Context, pid int) (float64, error) {
	p, err := process.NewProcessWithContext(ctx, int32(pid))
	if err != nil {
		return 0, err
	}
	maps, err := p.MemoryMapsWithContext(ctx, true) // true: one element with the sums of all mappings
	if err != nil {
		return 0, err
	}
	return float64((*maps)[0].PrivateDirty) * 1024, nil // gopsutil reports KiB
}
