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

	"balanza/services/eventlog"
	"balanza/services/store"
)

const (
	appenderName = "appender" // the first argument of an appender process; the fields of a storeConfig follow
	appendTime   = 5 * time.Second
	callers      = 32 // goroutines of each process, each of which waits for its message before it appends the next
)

// appends measures the messages per second that one process, and eight on one store, append to the log.
func appends(ctx context.Context, b *bench) error {
	for _, processes := range []int{1, 8} {
		err := b.onEachStore(ctx, fmt.Sprintf("append%d", processes), func(c storeConfig) error {
			return appendsBy(ctx, c, processes)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// appendsBy runs that many appender processes at the same time, and checks that the log then has as many messages as were
// acknowledged. The slowest process's share shows whether the store favours some processes.
func appendsBy(ctx context.Context, config storeConfig, processes int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// The appenders are processes, since the competition of processes for the log is what is measured.
	acknowledged := make([]int64, processes)
	var group errgroup.Group
	start := make(chan struct{})
	ready := make(chan struct{}, processes)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for i := range processes {
		group.Go(func() error {
			cmd := exec.CommandContext(ctx, self, appenderName, config.name, config.variable, config.location)
			n, err := runAppender(cmd, ready, start)
			if err != nil {
				cancel() // also ends the other appenders, which would wait for this one
				return fmt.Errorf("appender on %s: %w", config.name, err)
			}
			acknowledged[i] = n
			return nil
		})
	}
	// The clock starts when all processes have opened the store.
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
	total := sum(acknowledged)
	s, err := config.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	last, err := s.Last(ctx)
	if err != nil {
		return err
	}
	// More than the sum is possible: a message may be stored without an acknowledgement in time.
	verdict := "the log has all of them"
	if last < total {
		verdict = fmt.Sprintf("but the log has only %d: LOST", last)
	}
	fmt.Printf("appended by %d with %d callers each, on %s: %.0f messages/s, "+
		"by the slowest %.2f of an equal share; %d acknowledged, %s\n",
		processes, callers, config.name, float64(total)/appendTime.Seconds(),
		float64(slices.Min(acknowledged))*float64(processes)/float64(total), total, verdict)
	return nil
}

// runAppender runs an appender process to its end and returns the number of messages that were acknowledged. The process
// prints "ready" and waits for the end of its standard input, so that all of them start together; then it prints the number.
func runAppender(cmd *exec.Cmd, ready chan<- struct{}, start <-chan struct{}) (n int64, err error) {
	cmd.Stderr = os.Stderr // an appender prints its error there, standard output is for the protocol
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

// appender is the main function of an appender process; args are the fields of a storeConfig.
func appender(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("%s is only for section append", appenderName)
	}
	config := storeConfig{args[0], args[1], args[2]}
	s, err := config.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	log := eventlog.NewLog(s)
	log.AddPages(1) // as in a server whose users chat
	running, stop := context.WithCancel(ctx)
	var group errgroup.Group
	group.Go(func() error { return log.Run(running) })
	defer func() { stop(); _ = group.Wait() }()
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // returns when the bench closes it

	// Each process measures its own time: it begins when its first caller does.
	deadline := time.Now().Add(appendTime)
	var senders errgroup.Group
	var stored [callers]int64 // one element for each goroutine, so they need no lock
	for i := range stored {
		senders.Go(func() error {
			for time.Now().Before(deadline) {
				if _, err := log.Append(ctx, sampleMessage()); err != nil {
					return err
				}
				if time.Now().Before(deadline) { // one acknowledged later is stored, but outside the measured time
					stored[i]++
				}
			}
			return nil
		})
	}
	if err := senders.Wait(); err != nil {
		return err
	}
	fmt.Println(sum(stored[:]))
	return nil
}

func sum(counts []int64) (total int64) {
	for _, n := range counts {
		total += n
	}
	return total
}

// sampleMessage returns an entry of the usual size.
func sampleMessage() store.Entry {
	author := store.Author{ID: "ana@example.com", Nombre: "Ana", Apellido: "Prueba", Edad: 30, Alias: "ana"}
	return store.Entry{
		Kind: store.MessagePosted, Author: author.ID, // the log chooses a ClientID
		Message: &store.Message{Author: author, Text: "¿Nos vemos a las ocho en la plaza?", Time: time.Now()},
	}
}
