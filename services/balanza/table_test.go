package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"balanza/services/workers/control"
)

// fleetOf is a topology like that of up, with one stopped server and one whose worker waits.
func fleetOf() []serverStatus {
	master := &masterStatus{Pid: 100, usage: usage{CPU: 0.5, Memory: 8 << 20}, Servers: []string{"a-rather-long-name-of-a-server", "edge", "fork", "late"}}
	server := func(name, mode, status string, u usage, workers ...processStatus) serverStatus {
		return serverStatus{
			Status: control.Status{Name: name, Mode: mode, Port: 8080, Pid: 100, Status: status, Uptime: 3700}, usage: u, Master: master, Workers: workers,
		}
	}
	worker := func(n, pid int, u usage) processStatus {
		return processStatus{control.WorkerStatus{Worker: n, Pid: pid, Status: "online", Uptime: 61}, u}
	}
	return []serverStatus{
		server("a-rather-long-name-of-a-server", "CLUSTER", "online", usage{30, 20 << 20}, worker(1, 101, usage{10, 9 << 20}), worker(2, 102, usage{20, 11 << 20})),
		server("edge", "EDGE", "online", usage{2, 6 << 20}, worker(1, 103, usage{2, 6 << 20})),
		server("fork", "FORK", "stopped", usage{}),
		server("late", "FORK", "starting", usage{}, processStatus{WorkerStatus: control.WorkerStatus{Worker: 1, Status: "backoff"}}),
	}
}

// cells are the words of the line of a table that begins with a name.
func cells(t *testing.T, table, name string) []string {
	t.Helper()
	for line := range strings.Lines(table) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.Fields(rest)
		}
	}
	t.Fatalf("no line of %s:\n%s", name, table)
	return nil
}

func TestTableCountsWhatIsSharedOnce(t *testing.T) {
	var out bytes.Buffer
	if err := table(&out, fleetOf(), nil, 0); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"a-rather-long-name-of-a-server": "CLUSTER 8080 100 1h1m 0 online 30.0% 20.0 MiB no",
		"fork":                           "FORK 8080 100 - 0 stopped - - no",
		"late":                           "FORK 8080 100 1h1m 0 starting - - no",
		"├─ worker 1":                    "101 1m1s 0 online 10.0% 9.0 MiB",
		"master of 4 servers":            "100 0.5% 8.0 MiB",
		"total":                          "32.5% 34.0 MiB",
	} {
		if got := strings.Join(cells(t, out.String(), name), " "); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if !strings.Contains(out.String(), "  -       -         0  backoff       -         -\n") {
		t.Errorf("a worker without a process has a pid or uses something:\n%s", out.String())
	}
}

// A narrow terminal shows the columns that matter most, aligned, and no line wraps.
func TestTableFitsTheTerminal(t *testing.T) {
	rates := map[int]float64{101: 1200, 102: 34}
	for _, live := range []map[int]float64{nil, rates} {
		for width := 30; width < 140; width++ {
			var out bytes.Buffer
			if err := table(&out, fleetOf(), live, width); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(out.String()) {
				if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > width {
					t.Errorf("%d columns on a terminal of %d: %q", n, width, line)
				}
			}
			for _, title := range []string{"NAME", "STATUS", "online", "stopped"} {
				if !strings.Contains(out.String(), title) {
					t.Errorf("%d columns lack %s:\n%s", width, title, out.String())
				}
			}
			if (live != nil) != strings.Contains(out.String(), "1234") || (live != nil) != strings.Contains(out.String(), "REQUESTS/S") {
				t.Errorf("%d columns, live %v:\n%s", width, live != nil, out.String())
			}
		}
	}
	for width, want := range map[int]string{
		60: "NAME                            STATUS      CPU    MEMORY",
		40: "NAME                            STATUS",
		30: "NAME                  STATUS",
		0:  "NAME                            MODE     PORT  PID  UPTIME  RESTARTS  STATUS      CPU    MEMORY  WATCHING",
	} {
		var out bytes.Buffer
		if err := table(&out, fleetOf(), nil, width); err != nil {
			t.Fatal(err)
		}
		if header, _, _ := strings.Cut(out.String(), "\n"); header != want {
			t.Errorf("%d columns:\n%s\nwant\n%s", width, header, want)
		}
		if width == 30 && !strings.Contains(out.String(), "a-rather-long-name-…  online") {
			t.Errorf("a long name is not cut:\n%s", out.String())
		}
	}
}

func TestTableNamesWhyProcessesEnded(t *testing.T) {
	all := fleetOf()
	all[1].Cause = "signal: killed"
	all = append(all, serverStatus{Status: control.Status{Name: "silent", Pid: 9, Status: "unresponsive", Cause: "no answer"}, usage: usage{1, 5 << 20}})
	var out bytes.Buffer
	if err := table(&out, all, map[int]float64{}, 0); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"edge: last death: signal: killed\n", "silent: the master does not answer; is its process stopped?\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if got := fmt.Sprint(cells(t, out.String(), "silent")); got != "[- - 9 - - unresponsive 1.0% 5.0 MiB - -]" {
		t.Errorf("silent: %s", got)
	}
}
