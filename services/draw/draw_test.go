package draw

import (
	"context"
	"encoding/json"
	"math"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"
)

// chiSquare of c against equal shares; its 999 degrees of freedom give a mean of 999 and a deviation of 44.7.
func chiSquare(c *Counts) float64 {
	want := float64(c.Draws()) / Numbers
	var sum float64
	for _, times := range c[1:] {
		sum += (float64(times) - want) * (float64(times) - want) / want
	}
	return sum
}

// Of chi-square with 999 degrees of freedom: the values that 5, 50 and 95 % and, at the ends, one in a billion stay
// under (Wilson-Hilferty, good to 0.1 here).
func quantile(z float64) float64 {
	const freedom = Numbers - 1
	return freedom * math.Pow(1-2./(9*freedom)+z*math.Sqrt(2./(9*freedom)), 3)
}

func TestUniform(t *testing.T) {
	const seeds = 400
	low, median, high := quantile(-1.6449), quantile(0), quantile(1.6449)
	under := map[float64]int{}
	for range seeds {
		c, err := Histogram(t.Context(), Inline)
		if err != nil {
			t.Fatal(err)
		}
		x := chiSquare(c)
		if x < quantile(-6) || x > quantile(6) {
			t.Errorf("chi-square %.1f: not one in a billion is so far off", x)
		}
		for _, q := range []float64{low, median, high} {
			if x < q {
				under[q]++
			}
		}
	}
	for q, share := range map[float64]float64{low: 0.05, median: 0.5, high: 0.95} {
		deviation := math.Sqrt(seeds * share * (1 - share))
		if off := math.Abs(float64(under[q])-seeds*share) / deviation; off > 6 {
			t.Errorf("%d of %d seeds are under %.1f, %.0f expected", under[q], seeds, q, seeds*share)
		}
	}
}

func TestUniformManyDraws(t *testing.T) {
	// Only many draws show a bias of one in a thousand.
	const many = 30_000_000
	c, err := Histogram(t.Context(), many)
	if err != nil {
		t.Fatal(err)
	}
	if x := chiSquare(c); x < quantile(-6) || x > quantile(6) {
		t.Errorf("chi-square %.1f of %d draws", x, many)
	}
}

// Draws of one word and of neighbouring words are independent: the pairs of a word's draws are as uniform as the draws.
func TestIndependent(t *testing.T) {
	const samples, cells = 400_000, 100
	var pairs [perWord][cells]float64
	for range samples {
		var one tally
		one.draw(perWord)
		var drawn [perWord]int
		for table := range one {
			for i, times := range one[table][:Numbers] {
				if times == 1 {
					drawn[table] = i / (Numbers / 10)
				}
			}
		}
		for i, first := range drawn {
			pairs[i][10*first+drawn[(i+1)%perWord]]++
		}
	}
	for i := range pairs {
		var x float64
		for _, times := range pairs[i] {
			x += (times - samples/cells) * (times - samples/cells) / (samples / cells)
		}
		if x > 213 { // chi-square with 99 degrees of freedom: one in ten billion
			t.Errorf("draws %d and %d of a word: chi-square %.1f", i, (i+1)%perWord, x)
		}
	}
}

func TestEveryDrawIsCounted(t *testing.T) {
	for _, n := range []int64{1, 2, 4, 5, 6, 999, Inline, Inline + 1, chunk, chunk + 1, 7*chunk + 3} {
		c, err := Histogram(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Draws(); got != n || c[0] != 0 {
			t.Errorf("%d draws counted, %d of them 0; want %d and none", got, c[0], n)
		}
	}
}

func TestBounds(t *testing.T) {
	for _, n := range []int64{math.MinInt64, -1, 0, Max + 1, math.MaxInt64} {
		if c, err := Histogram(t.Context(), n); err == nil || c != nil {
			t.Errorf("%d draws: no error", n)
		}
	}
}

func TestJSON(t *testing.T) {
	if got := string(new(Counts).AppendJSON([]byte("counts: "))); got != "counts: {}" {
		t.Errorf("nothing drawn: %s", got)
	}
	got, err := json.Marshal(&Counts{1: 3, 9: 1, 10: 4, 1000: 1_000_000_000})
	if want := `{"1":3,"9":1,"10":4,"1000":1000000000}`; err != nil || string(got) != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}

	c, err := Histogram(t.Context(), 100_000)
	if err != nil {
		t.Fatal(err)
	}
	var read map[string]int64
	if err := json.Unmarshal(c.AppendJSON(nil), &read); err != nil {
		t.Fatal(err)
	}
	for number, times := range c {
		if read[strconv.Itoa(number)] != times {
			t.Errorf("%d came %d times, its JSON says %d", number, times, read[strconv.Itoa(number)])
		}
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, n := range []int64{1, Max} {
		if _, err := Histogram(ctx, n); err != context.Canceled {
			t.Errorf("%d draws: %v", n, err)
		}
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := Histogram(ctx, Max); err != context.DeadlineExceeded {
		t.Errorf("while drawing: %v", err)
	}
	sharedPool.mu.Lock()
	remaining := len(sharedPool.jobs)
	sharedPool.mu.Unlock()
	if remaining > 0 {
		t.Error("it is drawn on after its context's end")
	}
	sharedPool.wait(t)
}

// The number of draws that are made grows up to all of them, and a drawing that was stopped makes no more.
func TestProgress(t *testing.T) {
	const n = 60 * chunk
	d, err := Start(n)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Stop()
	var seen []int64
	for done := false; !done; {
		select {
		case <-d.Done():
			done = true
		case <-time.After(100 * time.Microsecond):
		}
		if drawn := d.Drawn(); len(seen) == 0 || drawn != seen[len(seen)-1] {
			seen = append(seen, drawn)
		}
	}
	if len(seen) < 3 || !slices.IsSorted(seen) || seen[len(seen)-1] != n || d.Counts().Draws() != n {
		t.Errorf("progress of %d draws: %d", n, seen)
	}

	d, err = Start(Max)
	if err != nil {
		t.Fatal(err)
	}
	d.Stop()
	sharedPool.wait(t)
	if drawn := d.Drawn(); drawn == Max {
		t.Errorf("%d draws after Stop", drawn)
	}
	select {
	case <-d.Done():
		t.Error("done after Stop")
	default:
	}

	d, err = Start(Inline)
	if err != nil {
		t.Fatal(err)
	}
	<-d.Done()
	d.Stop()
	if drawn := d.Drawn(); drawn != Inline {
		t.Errorf("%d draws of %d", drawn, Inline)
	}
	if _, err := Start(Max + 1); err == nil {
		t.Error("more than Max: no error")
	}
}

func TestManyAtOnce(t *testing.T) {
	before := runtime.NumGoroutine()
	type answer struct {
		want, got int64
	}
	answers := make(chan answer)
	const calls = 32
	for i := range int64(calls) {
		go func() {
			n := Inline + i*chunk/4
			c, err := Histogram(t.Context(), n)
			if err != nil {
				t.Error(err)
				c = new(Counts)
			}
			answers <- answer{n, c.Draws()}
		}()
	}
	for range calls {
		if a := <-answers; a.got != a.want {
			t.Errorf("%d draws counted, want %d", a.got, a.want)
		}
	}
	sharedPool.wait(t)
	for range 1000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%d goroutines before, %d after", before, runtime.NumGoroutine())
}

func BenchmarkHistogram(b *testing.B) {
	for _, n := range []int64{100, Inline, Default} {
		b.Run(strconv.FormatInt(n, 10), func(b *testing.B) {
			for b.Loop() {
				if _, err := Histogram(b.Context(), n); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/draw")
		})
	}
}
