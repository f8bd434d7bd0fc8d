package processes

import (
	"encoding/binary"
	"slices"
	"time"
)

const (
	// steps is how many complete steps of stepLength the history shows.
	steps      = 60
	stepLength = 5 * time.Second
	// maxCount is above what a process can answer in a step. A record with more is not one that a process has written.
	maxCount = 1 << 40
)

// step is what a process answered within stepLength.
type step struct {
	requests int64
	p50, p99 time.Duration
}

// stepOf is the number of the step that a time belongs to, the same for all processes.
func stepOf(t time.Time) int64 { return t.Unix() / int64(stepLength/time.Second) }

// history is what a process has answered in the current step and in those before it.
type history struct {
	current int64   // number of the last element of steps
	steps   []step  // oldest first
	buckets []int64 // of the current step
}

// add adds requests and their durations to the step of that number.
func (h *history) add(number, requests int64, buckets []int64, m *meter) {
	if missing := number - h.current; h.steps == nil || missing < 0 || missing > steps {
		h.current, h.steps, h.buckets = number, []step{{}}, nil // the first step, or another time after a pause
	} else if missing > 0 {
		h.current, h.steps, h.buckets = number, append(h.steps, make([]step, missing)...), nil
		h.steps = slices.Clone(h.steps[max(0, len(h.steps)-steps-1):])
	}
	if h.buckets == nil {
		h.buckets = make([]int64, len(buckets))
	}
	for i, n := range buckets {
		h.buckets[i] += n
	}
	last := &h.steps[len(h.steps)-1]
	last.requests += requests
	last.p50, last.p99 = m.percentile(h.buckets, 0.5), m.percentile(h.buckets, 0.99)
}

// encode returns the number of the current step and then the steps, the latest first, without empty ones at the end. All
// numbers are varints, durations in microseconds: a process that answers nothing has a history of a few bytes.
func (h *history) encode() []byte {
	b := binary.AppendUvarint(nil, uint64(h.current))
	length := len(b)
	for _, s := range slices.Backward(h.steps) {
		b = binary.AppendUvarint(b, uint64(max(0, s.requests)))
		if s.requests > 0 {
			b = binary.AppendUvarint(b, uint64(s.p50.Microseconds()))
			b = binary.AppendUvarint(b, uint64(s.p99.Microseconds()))
			length = len(b)
		}
	}
	return b[:length]
}

// decodeHistory calls f with the number of each step of an encoded history, the latest first. It ends at the first value that
// encode would not write.
func decodeHistory(b []byte, f func(number int64, s step)) {
	value := func() (int64, bool) {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > maxCount {
			return 0, false
		}
		b = b[n:]
		return int64(v), true
	}
	number, ok := value()
	for range steps + 1 {
		if !ok || len(b) == 0 {
			return
		}
		var s step
		var p50, p99 int64
		if s.requests, ok = value(); s.requests > 0 {
			p50, _ = value()
			p99, ok = value()
			s.p50, s.p99 = time.Duration(p50)*time.Microsecond, time.Duration(p99)*time.Microsecond
		}
		if ok {
			f(number, s)
		}
		number--
	}
}

// History is what all processes together have answered in the last five minutes, in steps, oldest first. A step that is not
// over is not among them.
type History struct {
	Step     int       `json:"step"` // seconds
	End      time.Time `json:"end"`  // of the last step
	Requests []int64   `json:"requests"`
	P50      []Seconds `json:"p50"` // mean over processes, by their requests
	P99      []Seconds `json:"p99"` // the longest of a process
}

// History adds up the histories of all processes, also of those that have ended since.
func (l List) History() History {
	end := stepOf(l.Now)
	h := History{
		Step: int(stepLength / time.Second), End: time.Unix(end*int64(stepLength/time.Second), 0).UTC(),
		Requests: make([]int64, steps), P50: make([]Seconds, steps), P99: make([]Seconds, steps),
	}
	for _, encoded := range l.histories {
		decodeHistory(encoded, func(number int64, s step) {
			i := number - (end - steps)
			if i < 0 || i >= steps || s.requests == 0 {
				return
			}
			h.Requests[i] += s.requests
			h.P50[i] += Seconds(s.p50.Seconds() * float64(s.requests))
			h.P99[i] = max(h.P99[i], Seconds(s.p99.Seconds()))
		})
	}
	for i, n := range h.Requests {
		if n > 0 {
			h.P50[i] /= Seconds(n)
		}
	}
	return h
}
