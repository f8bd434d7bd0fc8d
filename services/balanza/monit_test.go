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

func TestMonitCountsRequestsASecond(t *testing.T) {
	at := func(requests int64) []serverStatus {
		return []serverStatus{{Workers: []processStatus{{WorkerStatus: control.WorkerStatus{Pid: 7, Requests: requests}}}}}
	}
	var r rates
	if first := r.update(at(100)); len(first) != 0 {
		t.Errorf("a rate from one look: %v", first)
	}
	r.at = time.Now().Add(-2 * time.Second)
	if rate := r.update(at(300))[7]; rate < 90 || rate > 100 {
		t.Errorf("200 requests in 2 s: %v a second", rate)
	}
}

func TestMonitNeedsATerminal(t *testing.T) {
	if _, errs, status := newHome(t).run("monit"); status != exitFailure || !strings.Contains(errs, "terminal") {
		t.Errorf("status %d, %q", status, errs)
	}
}
