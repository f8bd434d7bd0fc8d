package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// reload compares the time that the command reload takes with two workers, and the time from the kill of a worker until its
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
	// PM2 runs as a daemon with its home in the temporary folder, so it must be ended by a command of its own.
	pm2 := filepath.Join(b.peers, "node_modules", ".bin", "pm2")
	defer func() { _ = b.runCommand(context.WithoutCancel(ctx), pm2, "kill") }()
	fmt.Println("$ pm2 start server.js --name peer -i 2 -- --port", theirs.port)
	err = b.runCommand(ctx, pm2, "start", "server.js", "--name", "peer", "-i", "2", "--", "--port", theirs.port)
	if err != nil {
		return err
	}
	if err := theirs.waitReady(ctx); err != nil {
		return err
	}

	fmt.Println("$ balanza reload", ours.port, "; pm2 reload peer")
	commands := [][]string{{b.balanza, "reload", ours.port}, {pm2, "reload", "peer"}}
	reloaded := comparison{what: "reload of two workers", unit: "s", digits: 3, peer: "PM2", target: 5}
	respawned := comparison{what: "kill -9 to the replacement's first answer", unit: "s", digits: 3, peer: "PM2", target: 5}
	// Each round reloads both servers and then kills a worker of each.
	for range rounds {
		var reloadTimes, respawnTimes [2]time.Duration
		for i, s := range []*server{ours, theirs} {
			before, err := s.workers(ctx, workers)
			if err != nil {
				return err
			}
			// The start of the client program is included: it is part of what a user waits for.
			start := time.Now()
			if err := b.runCommand(ctx, commands[i]...); err != nil {
				return err
			}
			reloadTimes[i] = time.Since(start)
			after, err := s.workers(ctx, workers)
			if err != nil {
				return err
			}
			// A reload that replaced nothing would be the fastest.
			for pid := range after {
				if before[pid] {
					return fmt.Errorf("%s: process %d still runs after a reload", s.name, pid)
				}
			}
			if respawnTimes[i], err = killWorker(ctx, s, after); err != nil {
				return err
			}
		}
		reloaded.add(reloadTimes[0].Seconds(), reloadTimes[1].Seconds())
		respawned.add(respawnTimes[0].Seconds(), respawnTimes[1].Seconds())
	}
	reloaded.print()
	respawned.print()
	return nil
}

// killWorker kills one of the workers and returns the time until a process answers that is none of them: answers of the
// other worker do not count.
func killWorker(ctx context.Context, s *server, workers map[int]bool) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for pid := range workers {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return 0, err
		}
		break // one, whichever the map gives first
	}
	// The clock starts after the kill, and stops with the first answer of a new process.
	start := time.Now()
	for {
		// A request that the killed worker had accepted fails, or never gets an answer.
		try, cancelTry := context.WithTimeout(ctx, 100*time.Millisecond)
		pid, err := s.get(try, "/info")
		cancelTry()
		if err == nil && !workers[pid] {
			return time.Since(start), nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%s: no new worker answers after a kill: %w", s.name, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// runCommand runs a client of a process manager to its end.
func (b *bench) runCommand(ctx context.Context, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = b.peers, b.environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(argv[0]), err, out)
	}
	return nil
}
