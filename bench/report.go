package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// comparison is one figure of ours and of a peer, a value of each for every round.
type comparison struct {
	what   string
	unit   string
	digits int // after the point
	peer   string
	target float64 // how many times better Balanza has to be
	more   bool    // is better
	ours   []float64
	theirs []float64
}

// add keeps one round.
func (c *comparison) add(ours, theirs float64) {
	c.ours = append(c.ours, ours)
	c.theirs = append(c.theirs, theirs)
}

// print shows the medians, their ratio and the ratios of the single rounds.
func (c *comparison) print() {
	times := func(ours, theirs float64) float64 {
		if c.more {
			return ours / theirs
		}
		return theirs / ours
	}
	var rounds []float64
	for i := range c.ours {
		rounds = append(rounds, times(c.ours[i], c.theirs[i]))
	}
	ours, theirs := median(c.ours), median(c.theirs)
	verdict := "reached"
	if times(ours, theirs) < c.target {
		verdict = "MISSED"
	}
	fmt.Printf("%s: Balanza %.*f %s, %s %.*f %s: %.1f times as good (rounds %.1f to %.1f, %d of them); target %g %s\n",
		c.what, c.digits, ours, c.unit, c.peer, c.digits, theirs, c.unit, times(ours, theirs),
		slices.Min(rounds), slices.Max(rounds), len(rounds), c.target, verdict)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// noise says how busy the machine is with other things: how many processes want a processor, and how late one gets it
// whose sleep is over.
func noise() string {
	const naps, nap = 200, time.Millisecond
	var late []float64
	for range naps {
		start := time.Now()
		time.Sleep(nap)
		late = append(late, float64(time.Since(start)-nap)/float64(time.Millisecond))
	}
	slices.Sort(late)
	load, _ := os.ReadFile("/proc/loadavg") // empty where there is none
	words := append(strings.Fields(string(load)), "unknown")
	return fmt.Sprintf("load %s on %d processors; awake %.1f ms late at the median, %.1f at p90, %.1f at p99",
		words[0], runtime.GOMAXPROCS(0), late[naps/2], late[naps*9/10], late[naps*99/100])
}
