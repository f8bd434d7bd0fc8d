package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// latency measures the time from when a page sends a message to when a page at another worker has it, while they talk and
// after nobody said anything for more than five seconds.
func latency(ctx context.Context, b *bench) error {
	places, err := b.places(ctx, "latency")
	if err != nil {
		return err
	}
	for _, p := range places {
		if err := latencyOn(ctx, b, p); err != nil {
			return err
		}
	}
	return nil
}

func latencyOn(ctx context.Context, b *bench, p place) error {
	s, err := b.startBalanza(ctx, p.env(), "--m", "CLUSTER", "-i", "2")
	if err != nil {
		return err
	}
	defer s.stop()
	cookie, err := s.signUp(ctx, "ana")
	if err != nil {
		return err
	}
	one, other, err := s.pagesApart(ctx, cookie)
	if err != nil {
		return err
	}
	defer one.conn.Close()
	defer other.conn.Close()
	st, err := p.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = st.Close() }()
	for _, talk := range []struct {
		when     string
		messages int
		pause    time.Duration // at least, and at most twice as long if it is short
		target   time.Duration
	}{
		{"in a conversation", 100, 100 * time.Millisecond, 25 * time.Millisecond},
		{"after a silence of 5 to 5.1 s", 9, 5 * time.Second, 75 * time.Millisecond},
	} {
		var took, answers []time.Duration
		for i := range talk.messages {
			asked := time.Now()
			if _, err := st.After(ctx, math.MaxInt32, 1); err != nil {
				return err
			}
			answers = append(answers, time.Since(asked))
			time.Sleep(talk.pause + rand.N(100*time.Millisecond)) // at no fixed point between two questions to the store
			text := fmt.Sprintf("%s %d", talk.when, i)
			start := time.Now()
			if err := one.say(text); err != nil {
				return err
			}
			seen, err := other.sees(text)
			if err != nil {
				return err
			}
			took = append(took, seen.Sub(start))
			one, other = other, one
		}
		slices.Sort(took)
		slices.Sort(answers)
		half := took[len(took)/2]
		verdict := "reached"
		if half >= talk.target {
			verdict = "MISSED"
		}
		fmt.Printf("a message to another worker %s, on %s: median %v, p90 %v, longest %v of %d; %.2f of the target %v: %s "+
			"(the store answers one question in %v, p90 %v)\n",
			talk.when, p.store, tenths(half), tenths(took[len(took)*9/10]), tenths(took[len(took)-1]), len(took),
			half.Seconds()/talk.target.Seconds(), talk.target, verdict,
			tenths(answers[len(answers)/2]), tenths(answers[len(answers)*9/10]))
	}
	return nil
}

func tenths(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
