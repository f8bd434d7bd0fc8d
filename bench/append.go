package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"balanza/services/store"
)

const (
	appenderName = "appender" // the first argument of a process that appends; a place's fields follow
	appendFor    = 5 * time.Second
	callers      = 32 // in each process, with one message each on its way
)

// appends counts the messages that one process, and eight on one store, have stored in a second.
func appends(ctx context.Context, b *bench) error {
	for _, processes := range []int{1, 8} {
		places, err := b.places(ctx, fmt.Sprintf("append%d", processes))
		if err != nil {
			return err
		}
		for _, p := range places {
			if err := appendsBy(ctx, p, processes); err != nil {
				return err
			}
		}
	}
	return nil
}

// appendsBy has that many processes append at the same time. The log must then hold what they were promised.
func appendsBy(ctx context.Context, p place, processes int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	promised := make([]int64, processes)
	var group errgroup.Group
	start := make(chan struct{})
	ready := make(chan struct{}, processes)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for i := range processes {
		group.Go(func() error {
			cmd := exec.CommandContext(ctx, self, appenderName, p.store, p.setting, p.where)
			n, err := count(cmd, ready, start)
			if err != nil {
				cancel()
				return fmt.Errorf("appender on %s: %w", p.store, err)
			}
			promised[i] = n
			return nil
		})
	}
	for range processes {
		select {
		case <-ready:
		case <-ctx.Done():
		}
	}
	close(start)
	if err := group.Wait(); err != nil {
		return err
	}
	var sum int64
	for _, n := range promised {
		sum += n
	}
	s, err := p.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	last, err := s.Last(ctx)
	if err != nil {
		return err
	}
	verdict := "the log holds all of them"
	if last < sum {
		verdict = fmt.Sprintf("but the log holds only %d: LOST", last)
	}
	fmt.Printf("appended by %d with %d callers each, on %s: %.0f messages/s, "+
		"by the slowest %.2f of an equal share; %d acknowledged, %s\n",
		processes, callers, p.store, float64(sum)/appendFor.Seconds(),
		float64(slices.Min(promised))*float64(processes)/float64(sum), sum, verdict)
	return nil
}

// count runs an appender: it says that it is ready, is told to start, and says how many messages it had acknowledged.
func count(cmd *exec.Cmd, ready chan<- struct{}, start <-chan struct{}) (n int64, err error) {
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	lines := bufio.NewReader(out)
	_, err = lines.ReadString('\n')
	if err == nil {
		ready <- struct{}{}
		<-start
		_ = in.Close()
		var line string
		if line, err = lines.ReadString('\n'); err == nil {
			n, err = strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		}
	}
	return n, errors.Join(err, cmd.Wait())
}

// appender is the life of such a process; args are what follows its name.
func appender(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("%s is started by section append alone", appenderName)
	}
	p := place{args[0], args[1], args[2]}
	s, err := p.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	log := store.NewLog(s)
	log.AddPages(1)
	following, end := context.WithCancel(ctx)
	var group errgroup.Group
	group.Go(func() error { return log.Run(following) })
	defer func() { end(); _ = group.Wait() }()
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // until it is closed

	deadline := time.Now().Add(appendFor)
	var sayers errgroup.Group
	var stored [callers]int64
	for i := range stored {
		sayers.Go(func() error {
			for time.Now().Before(deadline) {
				if _, err := log.Append(ctx, sample()); err != nil {
					return err
				}
				if time.Now().Before(deadline) {
					stored[i]++
				}
			}
			return nil
		})
	}
	if err := sayers.Wait(); err != nil {
		return err
	}
	var sum int64
	for _, n := range stored {
		sum += n
	}
	fmt.Println(sum)
	return nil
}

// sample is a message as people write them.
func sample() store.Entry {
	author := store.Author{ID: "ana@example.com", Nombre: "Ana", Apellido: "Prueba", Edad: 30, Alias: "ana"}
	return store.Entry{
		Kind: store.MessagePosted, Author: author.ID, // without a ClientID the log makes one
		Message: &store.Message{Author: author, Text: "¿Nos vemos a las ocho en la plaza?", Time: time.Now()},
	}
}
