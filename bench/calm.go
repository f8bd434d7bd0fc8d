package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"
)

const halfMilliard = "/api/randoms?cant=500000000"

// calm compares the latency of one client's /info while somebody keeps a big histogram in flight with what it is
// while nobody does. It prints how many times as long it takes: 1 is undisturbed, and at most 2 is the target.
func calm(ctx context.Context, b *bench) error {
	const rounds, probes = 5, 400
	for _, mode := range []string{"FORK", "CLUSTER"} {
		s, err := b.startBalanza(ctx, nil, "--m", mode)
		if err != nil {
			return err
		}
		var without, with []time.Duration
		for range rounds {
			quiet, err := probe(ctx, s, "/info", probes)
			if err != nil {
				s.stop()
				return err
			}
			busy, stop := context.WithCancel(ctx)
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				for busy.Err() == nil {
					_, _ = s.get(busy, halfMilliard)
				}
			}()
			loud, err := probe(ctx, s, "/info", probes)
			stop()
			<-stopped
			if err != nil {
				s.stop()
				return err
			}
			without, with = append(without, quiet...), append(with, loud...)
		}
		s.stop()
		slices.Sort(without)
		slices.Sort(with)
		fmt.Printf("/info in %s, %d probes each: ", mode, len(with))
		for _, p := range []struct {
			name string
			at   int
		}{{"median", len(with) / 2}, {"p99", len(with) * 99 / 100}} {
			fmt.Printf("%s %v without, %v with: %.2f times; ", p.name, without[p.at].Round(time.Microsecond),
				with[p.at].Round(time.Microsecond), float64(with[p.at])/float64(without[p.at]))
		}
		fmt.Println("target of the median at most 2")
	}
	return nil
}

// probe measures n requests of a route, a millisecond apart, on one connection.
func probe(ctx context.Context, s *server, route string, n int) ([]time.Duration, error) {
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	var took []time.Duration
	for range n {
		start := time.Now()
		if _, err := s.getBy(ctx, client, route); err != nil {
			return nil, err
		}
		took = append(took, time.Since(start))
		time.Sleep(time.Millisecond)
	}
	return took, nil
}
