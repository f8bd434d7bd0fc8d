package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"balanza/services/workers/control"
)

func TestMonitFillsTheScreenAndNoMore(t *testing.T) {
	var screen bytes.Buffer
	draw(&screen, "NAME  STATUS\nfork  online\n", []string{"one", "two", "three " + strings.Repeat("x", 100)}, 20, 7)
	rows := strings.Split(screen.String(), "\r\n")
	if len(rows) > 7 {
		t.Errorf("%d rows on a screen of 7", len(rows))
	}
	for _, row := range rows {
		for _, word := range []string{firstRow, clearLine, clearRest} {
			row = strings.ReplaceAll(row, word, "")
		}
		if len([]rune(row)) > 20 {
			t.Errorf("row of %d letters on a screen of 20: %q", len([]rune(row)), row)
		}
	}
	if !strings.Contains(screen.String(), "fork  online") || !strings.Contains(screen.String(), "three") {
		t.Errorf("the table or the last line is missing: %q", screen.String())
	}
}

// answering is a server whose workers have answered so many requests.
func answering(workers ...control.WorkerStatus) []serverStatus {
	s := serverStatus{Status: control.Status{Name: "one", Status: "online", Pid: 1}}
	for _, w := range workers {
		s.Workers = append(s.Workers, processStatus{WorkerStatus: w})
	}
	return []serverStatus{s}
}

func TestMonitCountsRequestsASecond(t *testing.T) {
	start := time.Now()
	worker := func(pid int, since time.Duration, requests int64) control.WorkerStatus {
		return control.WorkerStatus{Pid: pid, Since: start.Add(since), Requests: requests, Status: "online"}
	}
	var r rates
	expect := func(what string, all []serverStatus, want map[int]float64) {
		t.Helper()
		for i := range r.samples {
			r.samples[i].at = r.samples[i].at.Add(-2 * time.Second)
		}
		got := r.update(all)
		if len(got) != len(want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
		for pid, rate := range want {
			if got[pid] < 0.95*rate || got[pid] > rate {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
		}
	}
	expect("seen for the first time", answering(worker(7, 0, 100), worker(8, 0, 5000)), map[int]float64{7: 0, 8: 0})
	expect("after 2 s", answering(worker(7, 0, 300), worker(8, 0, 5000)), map[int]float64{7: 100, 8: 0})
	expect("after 4 s", answering(worker(7, 0, 1300), worker(8, 0, 5000)), map[int]float64{7: 300, 8: 0})
	expect("8 was replaced, and its pid is another's", answering(worker(7, 0, 1300), worker(8, time.Minute, 40)), map[int]float64{7: 250, 8: 0})
	expect("the new one answers", answering(worker(7, 0, 1300), worker(8, time.Minute, 440)), map[int]float64{7: 0, 8: 200})
	expect("a number that falls", answering(worker(8, time.Minute, 3)), map[int]float64{8: 0})
}

func TestMonitNeedsATerminal(t *testing.T) {
	t.Parallel()
	if _, errs, status := newHome(t).run("monit"); status != exitFailure || !strings.Contains(errs, "terminal") {
		t.Errorf("status %d, %q", status, errs)
	}
}
