package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// reload compares how long the reload commands of two workers take, and how long after the kill of a worker its
// replacement answers.
func reload(ctx context.Context, b *bench) error {
	const workers, rounds = 2, 5
	ours, err := b.startBalanza(ctx, nil, "--m", "CLUSTER", "-i", "2")
	if err != nil {
		return err
	}
	defer ours.stop()
	theirs, err := b.newServer("PM2", peerPid)
	if err != nil {
		return err
	}
	pm2 := filepath.Join(b.peers, "node_modules", ".bin", "pm2")
	defer func() { _ = b.command(context.WithoutCancel(ctx), pm2, "kill") }()
	fmt.Println("$ pm2 start server.js --name peer -i 2 -- --port", theirs.port)
	err = b.command(ctx, pm2, "start", "server.js", "--name", "peer", "-i", "2", "--", "--port", theirs.port)
	if err != nil {
		return err
	}
	if err := theirs.ready(ctx); err != nil {
		return err
	}

	fmt.Println("$ balanza reload", ours.port, "; pm2 reload peer")
	commands := [][]string{{b.balanza, "reload", ours.port}, {pm2, "reload", "peer"}}
	reloaded := comparison{what: "reload of two workers", unit: "s", digits: 3, peer: "PM2", target: 5}
	respawned := comparison{what: "kill -9 to the replacement's first answer", unit: "s", digits: 3, peer: "PM2", target: 5}
	for range rounds {
		var command, respawn [2]time.Duration
		for i, s := range []*server{ours, theirs} {
			before, err := s.workers(ctx, workers)
			if err != nil {
				return err
			}
			start := time.Now()
			if err := b.command(ctx, commands[i]...); err != nil {
				return err
			}
			command[i] = time.Since(start)
			after, err := s.workers(ctx, workers)
			if err != nil {
				return err
			}
			for pid := range after {
				if before[pid] {
					return fmt.Errorf("%s: process %d is still there after a reload", s.name, pid)
				}
			}
			if respawn[i], err = killed(ctx, s, after); err != nil {
				return err
			}
		}
		reloaded.add(command[0].Seconds(), command[1].Seconds())
		respawned.add(respawn[0].Seconds(), respawn[1].Seconds())
	}
	reloaded.print()
	respawned.print()
	return nil
}

// killed kills one of the workers and waits for an answer of a process that is none of them.
func killed(ctx context.Context, s *server, workers map[int]bool) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for pid := range workers {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return 0, err
		}
		break
	}
	start := time.Now()
	for {
		// A request handed to the killed worker fails, or waits for ever.
		patience, enough := context.WithTimeout(ctx, 100*time.Millisecond)
		pid, err := s.get(patience, "/info")
		enough()
		if err == nil && !workers[pid] {
			return time.Since(start), nil
		}
		if ctx.Err() != nil {
			return 0, fmt.Errorf("%s: no new worker answers after a kill: %w", s.name, ctx.Err())
		}
		time.Sleep(time.Millisecond)
	}
}

// command runs a client of a process manager to its end.
func (b *bench) command(ctx context.Context, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = b.peers, b.environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(argv[0]), err, out)
	}
	return nil
}
