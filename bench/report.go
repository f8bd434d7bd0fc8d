package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// comparison is one figure of Balanza and of a peer, with a value of each for every round.
type comparison struct {
	what           string
	unit           string
	digits         int // after the decimal point
	peer           string
	target         float64 // the least ratio: how many times better Balanza has to be; 0: none
	higherIsBetter bool
	ours           []float64
	theirs         []float64
}

// add records the values of one round.
func (c *comparison) add(ours, theirs float64) {
	c.ours = append(c.ours, ours)
	c.theirs = append(c.theirs, theirs)
}

// print shows the medians, their ratio, and the worst and the best ratio of a round. The rounds show whether the ratio of
// the medians means anything: on a busy machine they differ widely.
func (c *comparison) print() {
	ratio := func(ours, theirs float64) float64 {
		// Above 1 Balanza is better, whatever the unit is.
		if c.higherIsBetter {
			return ours / theirs
		}
		return theirs / ours
	}
	var rounds []float64
	for i := range c.ours {
		rounds = append(rounds, ratio(c.ours[i], c.theirs[i]))
	}
	ours, theirs := median(c.ours), median(c.theirs)
	verdict := fmt.Sprintf("; target %g reached", c.target)
	if c.target == 0 {
		verdict = ""
	} else if ratio(ours, theirs) < c.target {
		verdict = fmt.Sprintf("; target %g MISSED", c.target)
	}
	fmt.Printf("%s: Balanza %.*f %s, %s %.*f %s: %.3g times as good (rounds %.3g to %.3g, %d of them)%s\n",
		c.what, c.digits, ours, c.unit, c.peer, c.digits, theirs, c.unit, ratio(ours, theirs),
		slices.Min(rounds), slices.Max(rounds), len(rounds), verdict)
}

// median does not change the order of its argument, whose values belong to rounds.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// compareLatencies describes the latencies without and with a load, two samples of the same size, by median and 99th
// percentile. It sorts both.
func compareLatencies(without, with []time.Duration) string {
	slices.Sort(without)
	slices.Sort(with)
	n := len(with)
	ratio := func(at int) string {
		return fmt.Sprintf("%v without, %v with: %.2f times", without[at].Round(time.Microsecond),
			with[at].Round(time.Microsecond), float64(with[at])/float64(without[at]))
	}
	return fmt.Sprintf("%d probes each: median %s; p99 %s", n, ratio(n/2), ratio(n*99/100))
}

// machineLoad describes how busy the machine is with other work: the number of processes that want a processor, and how
// late a process continues after a sleep. A figure measured while sleeps end late says more about the machine.
func machineLoad() string {
	const samples, sleep = 200, time.Millisecond
	var delays []float64 // in milliseconds
	for range samples {
		start := time.Now()
		time.Sleep(sleep)
		delays = append(delays, float64(time.Since(start)-sleep)/float64(time.Millisecond))
	}
	slices.Sort(delays)
	loadavg, _ := os.ReadFile("/proc/loadavg") // empty when the file cannot be read
	fields := append(strings.Fields(string(loadavg)), "unknown")
	return fmt.Sprintf("load %s on %d processors; a sleep of 1 ms ends %.1f ms late at the median, %.1f at p90, %.1f at p99",
		fields[0], runtime.GOMAXPROCS(0), delays[samples/2], delays[samples*9/10], delays[samples*99/100])
}
