package main

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// largeDraw takes about half a second of one processor.
const largeDraw = "/api/randoms?cant=500000000"

// interference compares the latency of one client's /info while a large histogram is always being drawn with the latency
// while none is. It prints the ratio: 1 is undisturbed.
func interference(ctx context.Context, b *bench) error {
	for _, mode := range []string{"FORK", "CLUSTER"} {
		if err := interferenceIn(ctx, b, mode); err != nil {
			return err
		}
	}
	return nil
}

// interferenceIn measures one mode. The draws come from one client, one after the other, as a page of the site sends them.
func interferenceIn(ctx context.Context, b *bench, mode string) error {
	const rounds, probes = 5, 400
	s, err := b.startBalanza(ctx, nil, "--m", mode)
	if err != nil {
		return err
	}
	defer s.stop()
	var without, with []time.Duration
	// The two conditions alternate, so that a slow drift of the machine's load disturbs both alike.
	for range rounds {
		latencies, err := measureLatency(ctx, s, "/info", probes)
		if err != nil {
			return err
		}
		without = append(without, latencies...)
		// The next draw starts as soon as the last one is answered, until stop.
		drawing, stop := context.WithCancel(ctx)
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			for drawing.Err() == nil {
				_, _ = s.get(drawing, largeDraw) // the last one is cancelled
			}
		}()
		latencies, err = measureLatency(ctx, s, "/info", probes)
		stop()
		<-stopped
		if err != nil {
			return err
		}
		with = append(with, latencies...)
	}
	fmt.Printf("/info in %s, %s; target of the median at most 2\n", mode, compareLatencies(without, with))
	return nil
}

// measureLatency measures n requests of a route, a millisecond apart, on one connection. The pause keeps the probes from
// being a load of their own.
func measureLatency(ctx context.Context, s *server, route string, n int) ([]time.Duration, error) {
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	var latencies []time.Duration
	for range n {
		start := time.Now()
		if _, err := s.getWith(ctx, client, route); err != nil {
			return nil, err
		}
		latencies = append(latencies, time.Since(start))
		time.Sleep(time.Millisecond)
	}
	return latencies, nil
}
