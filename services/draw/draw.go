// Package draw draws whole numbers from 1 to Numbers, each as likely as any other, and counts how often each one came.
package draw

import (
	"context"
	"fmt"
	"math/bits"
	"math/rand/v2"
)

const (
	// Numbers is how many numbers there are to draw from: 1 to Numbers.
	Numbers = 1000
	// Max is the most draws that Histogram takes in one call.
	Max = 1_000_000_000
	// Default is how many draws are made where no number is given.
	Default = 100_000_000

	// Inline is how many draws Histogram makes in the caller's own goroutine: they take a tenth of a millisecond.
	Inline = 200_000
)

// Histogram draws n numbers and returns how often each came. It fails when n is not within 1 to Max, and with ctx's
// error within a few milliseconds of ctx's end. Any number of calls may run at once: they share the processors evenly,
// and other work of the process always comes first.
func Histogram(ctx context.Context, n int64) (*Counts, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d, err := Start(n)
	if err != nil {
		return nil, err
	}
	defer d.Stop()
	select {
	case <-d.Done():
		return d.Counts(), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Drawing is a histogram that is being drawn. Its methods may be called at the same time.
type Drawing struct{ job *job }

// Start begins to draw n numbers, as Histogram does, and returns while they are drawn; up to Inline are drawn by then. It
// fails when n is not within 1 to Max. The caller calls Stop at the end.
func Start(n int64) (Drawing, error) {
	if n < 1 || n > Max {
		return Drawing{}, fmt.Errorf("draws must be from 1 to %d, not %d", Max, n)
	}
	if n > Inline {
		return Drawing{sharedPool.start(n)}, nil
	}
	j := &job{pool: &sharedPool, done: make(chan struct{})}
	var t tally
	t.draw(n)
	t.addTo(&j.counts)
	close(j.done)
	return Drawing{j}, nil
}

// Done returns a channel that is closed when all numbers are drawn. After Stop that may never be.
func (d Drawing) Done() <-chan struct{} { return d.job.done }

// Counts returns the histogram. It is called after the end of Done.
func (d Drawing) Counts() *Counts { return &d.job.counts }

// Drawn returns how many numbers are drawn by now. It takes well under a microsecond, in which no chunk can be completed.
func (d Drawing) Drawn() int64 {
	d.job.pool.mu.Lock()
	defer d.job.pool.mu.Unlock()
	return d.job.counts.Draws()
}

// Stop ends the drawing within a millisecond. After the end of Done it changes nothing.
func (d Drawing) Stop() { d.job.pool.stop(d.job) }

const (
	// perWord is how many numbers are drawn from one random word of 64 bits. Six would fit too, but reject 2.4 % of the words.
	perWord = 5
	// rejected is 2^64 mod Numbers^perWord: the number of words that must be rejected so that all outcomes are equally
	// likely.
	rejected = (1 << 64) % (Numbers * Numbers * Numbers * Numbers * Numbers)
)

// tally counts numbers less 1, one table for each draw of a word: with a single table, a number drawn twice in short
// order would wait until its own count is stored. The tables' size lets a mask replace a bounds check.
type tally [perWord][1024]uint32

// draw makes n draws, at most 2^32.
//
// The words come from wyrand, started anew from the runtime's ChaCha8 at each call. A word is read as a fraction of 1:
// times 1000 its whole part is a draw, and the remainder is the fraction for the next one. The smallest final
// remainders are rejected, so that every outcome has exactly as many words as any other. Source: N. Brackett-Rozinsky and
// D. Lemire, "Batched Ranged Random Integer Generation", 2024.
func (t *tally) draw(n int64) {
	state := rand.Uint64()
	for n >= perWord {
		state += 0xa0761d6478bd642f
		hi, lo := bits.Mul64(state, state^0xe7037ed1a0b428db)
		word := hi ^ lo

		// Written out: a loop over the tables is five times as slow.
		a, word := bits.Mul64(word, Numbers)
		b, word := bits.Mul64(word, Numbers)
		c, word := bits.Mul64(word, Numbers)
		d, word := bits.Mul64(word, Numbers)
		e, word := bits.Mul64(word, Numbers)
		if word < rejected {
			continue
		}
		t[0][a&1023]++
		t[1][b&1023]++
		t[2][c&1023]++
		t[3][d&1023]++
		t[4][e&1023]++
		n -= perWord
	}
	for ; n > 0; n-- {
		t[0][rand.IntN(Numbers)]++
	}
}

// addTo adds what was counted to c.
func (t *tally) addTo(c *Counts) {
	for i := range Numbers {
		for table := range t {
			c[i+1] += int64(t[table][i])
		}
	}
}
