package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// latency measures the time from when a page sends a message until a page at another worker receives it, during a
// conversation and after more than five seconds without messages. The log polls its store less often when no entries come,
// so the two cases differ.
func latency(ctx context.Context, b *bench) error {
	return b.onEachStore(ctx, "latency", func(c storeConfig) error { return latencyOn(ctx, b, c) })
}

// latencyOn measures on one store. The two pages send by turns, so both directions count.
func latencyOn(ctx context.Context, b *bench, config storeConfig) error {
	s, err := b.startBalanza(ctx, config.env(), "--m", "CLUSTER", "-i", "2")
	if err != nil {
		return err
	}
	defer s.stop()
	cookie, err := s.signUp(ctx, "ana")
	if err != nil {
		return err
	}
	sender, receiver, err := s.openPagesApart(ctx, cookie)
	if err != nil {
		return err
	}
	defer sender.conn.Close()
	defer receiver.conn.Close()
	// Opened beside the server, to measure the store's own time.
	st, err := config.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = st.Close() }()
	for _, test := range []struct {
		name     string
		messages int
		pause    time.Duration // before each message; up to 100 ms are added
		target   time.Duration // of the median
	}{
		{"in a conversation", 100, 100 * time.Millisecond, 25 * time.Millisecond},
		{"after a silence of 5 to 5.1 s", 9, 5 * time.Second, 75 * time.Millisecond},
	} {
		var latencies, queries []time.Duration
		for i := range test.messages {
			// The time of one query shows how much of the latency is the store's.
			queried := time.Now()
			if _, err := st.After(ctx, math.MaxInt32, 1); err != nil { // no entry: the usual answer to a poll
				return err
			}
			queries = append(queries, time.Since(queried))
			time.Sleep(test.pause + rand.N(100*time.Millisecond)) // random, so as not to be in step with the log's polls
			text := fmt.Sprintf("%s %d", test.name, i)
			start := time.Now()
			if err := sender.send(text); err != nil {
				return err
			}
			received, err := receiver.waitFor(text)
			if err != nil {
				return err
			}
			latencies = append(latencies, received.Sub(start))
			sender, receiver = receiver, sender
		}
		slices.Sort(latencies)
		slices.Sort(queries)
		half := latencies[len(latencies)/2]
		// A target is for the median: single messages wait for the processor on a busy machine.
		verdict := "reached"
		if half >= test.target {
			verdict = "MISSED"
		}
		fmt.Printf("a message to another worker %s, on %s: median %v, p90 %v, longest %v of %d; %.2f of the target %v: %s "+
			"(one query of the store: median %v, p90 %v)\n",
			test.name, config.name, tenths(half), tenths(latencies[len(latencies)*9/10]), tenths(latencies[len(latencies)-1]),
			len(latencies), half.Seconds()/test.target.Seconds(), test.target, verdict,
			tenths(queries[len(queries)/2]), tenths(queries[len(queries)*9/10]))
	}
	return nil
}

// tenths rounds to tenths of a millisecond.
func tenths(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
