package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"balanza/services/eventlog"
	"balanza/services/processes"
	"balanza/services/store"
)

const (
	appenderName = "appender" // the first argument of an appender process; the fields of a storeConfig and the rate follow
	appendTime   = 5 * time.Second
	callers      = 32 // goroutines of each process, each of which waits for its message before it appends the next
	maxLatencies = 5000
	graceTime    = 500 * time.Millisecond // for the last messages of a rate to be stored
	settleTime   = 3 * time.Second        // after which every process has counted the others
)

// appendLoads are what section append puts on each store: that many processes, and the messages per second that they offer
// in all; 0: as many as they can store.
var appendLoads = []struct{ processes, rate int }{{1, 0}, {8, 0}, {1, 100}, {8, 100}, {25, 100}, {50, 100}}

// appends measures what several processes append to one log. With a rate each of them also follows it as with an open page. On
// the real stores the processes are real. On the ideal ones, whose every call takes the same time and no processor, they are
// logs of this process, of which it holds hundreds.
func appends(ctx context.Context, b *bench) error {
	for _, load := range appendLoads {
		err := b.onEachStore(ctx, fmt.Sprintf("append%d-%d", load.processes, load.rate), func(c storeConfig) error {
			return appendsBy(ctx, c, load.processes, load.rate)
		})
		if err != nil {
			return err
		}
	}
	for _, delay := range []time.Duration{time.Millisecond, 5 * time.Millisecond} {
		for _, load := range append(slices.Clone(appendLoads[2:]), struct{ processes, rate int }{400, 1000}) {
			if err := appendsToIdeal(ctx, delay, load.processes, load.rate); err != nil {
				return err
			}
		}
	}
	return nil
}

// appendResult is what one process has done. An appender process prints it as JSON.
type appendResult struct {
	Offered   int64           // messages
	Stored    int64           // those that were acknowledged in time
	Batches   int64           // calls of Append
	Failed    int64           // calls of Append that failed
	Questions int64           // calls of After
	Latencies []time.Duration // of at most maxLatencies messages
}

// appendsBy runs that many appender processes at the same time, and checks that the log then has as many messages as were
// acknowledged. The slowest process's share shows whether the store favours some processes.
func appendsBy(ctx context.Context, config storeConfig, processes, rate int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	results := make([]appendResult, processes)
	var group errgroup.Group
	start := make(chan struct{})
	ready := make(chan struct{}, processes)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for i := range processes {
		group.Go(func() (err error) {
			share := float64(rate) / float64(processes)
			cmd := exec.CommandContext(ctx, self, appenderName, config.name, config.variable, config.location, fmt.Sprint(share))
			if results[i], err = runAppender(cmd, ready, start); err != nil {
				cancel() // also ends the other appenders, which would wait for this one
				return fmt.Errorf("appender on %s: %w", config.name, err)
			}
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
	select {
	case <-time.After(settleTime):
	case <-ctx.Done():
	}
	close(start)
	if err := group.Wait(); err != nil {
		return err
	}
	s, err := config.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	last, err := s.Last(ctx)
	if err != nil {
		return err
	}
	report(config.name, results, last, "")
	return nil
}

// report prints the sum of the results, and compares what was acknowledged with the log's last number. Numbers without an
// acknowledged message are fillers, and messages that were stored too late to be counted.
func report(name string, results []appendResult, last int64, more string) {
	var sum appendResult
	slowest := results[0].Stored
	for _, r := range results {
		sum.Offered += r.Offered
		sum.Stored += r.Stored
		sum.Batches += r.Batches
		sum.Failed += r.Failed
		sum.Questions += r.Questions
		sum.Latencies = append(sum.Latencies, r.Latencies...)
		slowest = min(slowest, r.Stored)
	}
	slices.Sort(sum.Latencies)
	percentile := func(p int) time.Duration {
		if len(sum.Latencies) == 0 {
			return 0
		}
		return sum.Latencies[min(len(sum.Latencies)*p/100, len(sum.Latencies)-1)].Round(100 * time.Microsecond)
	}
	verdict := "the log has all of them"
	if last < sum.Stored {
		verdict = fmt.Sprintf("but the log has only %d: LOST", last)
	}
	seconds := appendTime.Seconds()
	fmt.Printf("appended by %d on %s: %.0f of %.0f messages/s stored, p50 %v, p99 %v; the slowest process %.2f of an equal share; "+
		"%.0f batches and %.0f questions a second; %d batches failed, %d numbers unused%s; %d acknowledged, %s\n",
		len(results), name, float64(sum.Stored)/seconds, float64(sum.Offered)/seconds, percentile(50), percentile(99),
		float64(slowest)*float64(len(results))/float64(max(1, sum.Stored)),
		float64(sum.Batches)/seconds, float64(sum.Questions)/seconds, sum.Failed, max(0, last-sum.Stored), more, sum.Stored, verdict)
}

// runAppender runs an appender process to its end and returns its result. The process prints "ready" and waits for the end of
// its standard input, so that all of them start together.
func runAppender(cmd *exec.Cmd, ready chan<- struct{}, start <-chan struct{}) (result appendResult, err error) {
	cmd.Stderr = os.Stderr // an appender prints its error there, standard output is for the protocol
	in, err := cmd.StdinPipe()
	if err != nil {
		return result, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return result, err
	}
	if err := cmd.Start(); err != nil {
		return result, err
	}
	lines := bufio.NewReader(out)
	_, err = lines.ReadString('\n')
	if err == nil {
		ready <- struct{}{}
		<-start
		_ = in.Close()
		err = json.NewDecoder(lines).Decode(&result)
	}
	return result, errors.Join(err, cmd.Wait())
}

// appender is the main function of an appender process; args are the fields of a storeConfig and messages per second.
func appender(ctx context.Context, args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("%s is only for section append", appenderName)
	}
	config := storeConfig{args[0], args[1], args[2]}
	rate, err := strconv.ParseFloat(args[3], 64)
	if err != nil {
		return err
	}
	s, err := config.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	result, err := runLog(ctx, s, rate, func() {
		fmt.Println("ready")
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // returns when the bench closes it
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// noSite is what an appender process tells of itself: nothing but that it is there.
type noSite struct{}

func (noSite) Bounds() []float64        { return nil }
func (noSite) Sample() processes.Sample { return processes.Sample{Buckets: make([]int64, 1)} }
func (noSite) Show(processes.List)      {}

// runLog appends to the log of a store for appendTime, while it follows the log. It calls start when it is ready.
func runLog(ctx context.Context, s store.Store, rate float64, start func()) (result appendResult, err error) {
	counted := &countedLog{Store: s}
	clock := store.NewClock(s, slog.New(slog.DiscardHandler))
	registry := processes.New(counted, clock, store.Process{Server: "bench", Started: time.Now()})
	log := eventlog.New(counted, clock, registry.Live)
	if rate > 0 {
		log.AddPages(1) // as in a server whose users chat; without a rate all of the store's time is for appending
	}
	running, stop := context.WithCancel(ctx)
	var group errgroup.Group
	group.Go(func() error { return log.Run(running) })
	group.Go(func() error { return registry.Run(running, noSite{}) })
	defer func() { stop(); _ = group.Wait() }()
	select {
	case <-log.Ready():
	case <-ctx.Done():
		return result, ctx.Err()
	}
	start()
	before := counted.counts()
	deadline := time.Now().Add(appendTime)
	countedUntil := deadline // one acknowledged later is stored, but outside the measured time
	if rate > 0 {
		countedUntil = deadline.Add(graceTime)
	}
	var mu sync.Mutex // guards result
	send := func() error {
		began := time.Now()
		mu.Lock()
		result.Offered++
		mu.Unlock()
		if _, err := log.Append(ctx, sampleMessage()); err != nil {
			return err
		}
		if time.Now().Before(countedUntil) {
			mu.Lock()
			defer mu.Unlock()
			result.Stored++
			if len(result.Latencies) < maxLatencies {
				result.Latencies = append(result.Latencies, time.Since(began))
			}
		}
		return nil
	}
	var senders errgroup.Group
	if rate == 0 {
		for range callers {
			senders.Go(func() error {
				for time.Now().Before(deadline) {
					if err := send(); err != nil {
						return err
					}
				}
				return nil
			})
		}
	} else {
		interval := time.Duration(float64(time.Second) / rate)
		// The first pause is random, so that processes of one rate do not all offer at the same moment.
		for next := time.Now().Add(rand.N(interval)); next.Before(deadline); next = next.Add(interval) {
			time.Sleep(time.Until(next))
			senders.Go(send)
		}
	}
	if err := senders.Wait(); err != nil {
		return result, err
	}
	time.Sleep(time.Until(deadline))
	after := counted.counts()
	result.Batches, result.Failed, result.Questions = after[0]-before[0], after[1]-before[1], after[2]-before[2]
	return result, nil
}

// countedLog counts the calls by which a log appends and asks for news.
type countedLog struct {
	store.Store
	batches, failed, questions atomic.Int64
}

func (c *countedLog) counts() [3]int64 {
	return [3]int64{c.batches.Load(), c.failed.Load(), c.questions.Load()}
}

// Append counts a batch, and one that failed.
func (c *countedLog) Append(ctx context.Context, entries []store.Entry) ([]store.Entry, error) {
	c.batches.Add(1)
	stored, err := c.Store.Append(ctx, entries)
	if err != nil {
		c.failed.Add(1)
	}
	return stored, err
}

// After counts a question for news.
func (c *countedLog) After(ctx context.Context, n int64, limit int) ([]store.Entry, error) {
	c.questions.Add(1)
	return c.Store.After(ctx, n, limit)
}

// sampleMessage returns an entry of the usual size.
func sampleMessage() store.Entry {
	author := store.Author{ID: "ana@example.com", Nombre: "Ana", Apellido: "Prueba", Edad: 30, Alias: "ana"}
	return store.Entry{
		Kind: store.MessagePosted, Author: author.ID, // the log chooses a ClientID
		Message: &store.Message{Author: author, Text: "¿Nos vemos a las ocho en la plaza?"},
	}
}
