package processes

import (
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"balanza/services/store"
)

func TestPercentile(t *testing.T) {
	m := &meter{bounds: []float64{0.001, 0.01, 0.1}}
	for _, c := range []struct {
		counts   []int64
		quantile float64
		want     time.Duration
	}{
		{[]int64{0, 0, 0, 0}, 0.5, 0},
		{[]int64{10, 0, 0, 0}, 0.5, 500 * time.Microsecond},
		{[]int64{0, 10, 0, 0}, 0.5, 5500 * time.Microsecond},
		{[]int64{0, 10, 0, 0}, 0.99, 9910 * time.Microsecond},
		{[]int64{90, 0, 10, 0}, 0.9, time.Millisecond},
		{[]int64{90, 0, 10, 0}, 0.95, 55 * time.Millisecond},
		{[]int64{0, 0, 0, 1}, 0.5, 100 * time.Millisecond},
		{[]int64{99, 0, 0, 1}, 0.995, 100 * time.Millisecond},
	} {
		if got := m.percentile(c.counts, c.quantile); math.Abs(float64(got-c.want)) > float64(time.Microsecond) {
			t.Errorf("percentile %v of %v: %v, want %v", c.quantile, c.counts, got, c.want)
		}
	}
}

// The percentiles are those of the last ten seconds, with records every second and every five; the rate is that since the
// record before. Whatever Update adds in between changes neither.
func TestMeasure(t *testing.T) {
	for _, interval := range []time.Duration{panelInterval, restInterval} {
		synctest.Test(t, func(t *testing.T) {
			m := newMeter([]float64{0.001, 0.01})
			s := Sample{Buckets: make([]int64, 3)}
			measure := func(requests int64, bucket int) (p store.Process) {
				s.Requests += requests
				s.Buckets = slices.Clone(s.Buckets)
				s.Buckets[bucket] += requests
				m.measure(&p, s, time.Now())
				return p
			}
			for range 20 {
				time.Sleep(interval)
				if p := measure(int64(20*interval.Seconds()), 1); p.Rate != 20 || p.P50 != 5500*time.Microsecond {
					t.Errorf("every %v: %v requests/s, p50 %v", interval, p.Rate, p.P50)
				}
			}
			time.Sleep(10 * time.Millisecond)
			if p := measure(0, 0); p.Rate > 20 || p.Rate < 19 {
				t.Errorf("10 ms later: %v requests/s", p.Rate)
			}
			for range window / interval {
				time.Sleep(interval)
				measure(1, 0)
			}
			if p := measure(0, 0); p.P99 >= time.Millisecond || p.P99 == 0 {
				t.Errorf("ten seconds later: p99 %v", p.P99)
			}
			for range window / interval {
				time.Sleep(interval)
				measure(0, 0)
			}
			if p := measure(0, 0); p.P50 != 0 || p.P99 != 0 || p.Rate != 0 || p.Requests != s.Requests {
				t.Errorf("without requests: %+v", p)
			}
			if n := len(m.recent); n > int(window/panelInterval)+5 {
				t.Errorf("%d snapshots are kept", n)
			}
		})
	}
}

// The histories of several processes add up, step by step, whenever each writes; what is older than five minutes is gone.
func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(3 * time.Second)
		fast, slow := newMeter([]float64{0.001, 0.01, 0.1}), newMeter([]float64{0.001, 0.01, 0.1})
		var a, b Sample
		a.Buckets, b.Buckets = make([]int64, 4), make([]int64, 4)
		var records [2]store.Process
		for second := range 400 {
			time.Sleep(time.Second)
			a.Buckets = slices.Clone(a.Buckets)
			a.Requests, a.Buckets[0] = a.Requests+6, a.Buckets[0]+6
			fast.measure(&records[0], a, time.Now())
			if second%5 == 0 && second < 380 {
				b.Buckets = slices.Clone(b.Buckets)
				b.Requests, b.Buckets[2] = b.Requests+10, b.Buckets[2]+10
				slow.measure(&records[1], b, time.Now())
			}
			for _, p := range records {
				if len(p.History) > store.MaxHistory {
					t.Fatalf("a history of %d bytes", len(p.History))
				}
			}
		}
		now := time.Now()
		h := newList(now, records[:], outage{}).History()
		if h.Step != 5 || now.Sub(h.End) >= stepLength || now.Before(h.End) || len(h.Requests) != steps || len(h.P50) != steps || len(h.P99) != steps {
			t.Fatalf("%+v", h)
		}
		for i, n := range h.Requests {
			both := i < steps-5
			switch {
			case i >= steps-5 && i < steps-3: // the second process answered its last ones about here
			case both && (n != 40 || math.Abs(float64(h.P50[i]-(30*0.0005+10*0.055)/40)) > 1e-5 || math.Abs(float64(h.P99[i]-0.0991)) > 1e-3):
				t.Errorf("step %d: %d requests, p50 %v, p99 %v", i, n, h.P50[i], h.P99[i])
			case !both && (n != 30 || math.Abs(float64(h.P50[i]-0.0005)) > 1e-6):
				t.Errorf("step %d: %d requests, p50 %v", i, n, h.P50[i])
			}
		}

		// A process that answers nothing has a short one, and after five minutes nothing is left.
		for range 70 {
			time.Sleep(stepLength)
			fast.measure(&records[0], a, time.Now())
		}
		if n := len(records[0].History); n > 10 {
			t.Errorf("an idle process has a history of %d bytes", n)
		}
		for i, n := range newList(time.Now(), records[:], outage{}).History().Requests {
			if n != 0 {
				t.Errorf("step %d of the idle time: %d requests", i, n)
			}
		}
		// Nor after a pause of the whole machine.
		time.Sleep(time.Hour)
		a.Requests, a.Buckets = a.Requests+1, []int64{a.Requests + 1, 0, 0, 0}
		fast.measure(&records[0], a, time.Now())
		if n := len(fast.history.steps); n != 1 {
			t.Errorf("%d steps after an hour", n)
		}
	})
}

// Whatever a record has as its history, the sums are finite and the list is there.
func FuzzHistory(f *testing.F) {
	f.Add((&history{current: 7, steps: []step{{1, 2, 3}, {}, {4, 5, 6}}}).encode())
	f.Add([]byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 9, 9, 9})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		decodeHistory(b, func(_ int64, s step) {
			n++
			if s.requests < 0 || s.p50 < 0 || s.p99 < 0 {
				t.Errorf("%+v", s)
			}
		})
		if n > steps+1 {
			t.Errorf("%d steps", n)
		}
	})
}

// What was encoded is read back.
func TestHistoryEncoding(t *testing.T) {
	h := history{current: 1000, steps: []step{{}, {3, time.Millisecond, time.Second}, {}, {1 << 30, time.Microsecond, time.Hour}, {}}}
	got := make(map[int64]step)
	decodeHistory(h.encode(), func(number int64, s step) { got[number] = s })
	for i, want := range h.steps {
		if s := got[h.current-int64(len(h.steps)-1-i)]; s != want {
			t.Errorf("step %d: %+v, want %+v", i, s, want)
		}
	}
}
