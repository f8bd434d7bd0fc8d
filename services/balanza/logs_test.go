package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"balanza/e2e/testenv"
)

// logLine is a line of a log file.
func logLine(clock, message string) string {
	return `{"time":"2026-11-25T` + clock + `Z","level":"INFO","msg":"` + message + `","n":1}` + "\n"
}

func TestLogsMergeServersByTime(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	writeFile(t, filepath.Join(h.dir, "logs", "fork.log"), logLine("10:00:01", "one")+logLine("10:00:03", "three")+"panic: x\n")
	writeFile(t, filepath.Join(h.dir, "logs", "edge-2.log"), logLine("10:00:02", "two")+logLine("10:00:04", "four"))
	label := func(lines string) string {
		return strings.NewReplacer("F ", "fork   | ", "E ", "edge-2 | ").Replace(lines)
	}
	want := label("F " + logLine("10:00:01", "one") + "E " + logLine("10:00:02", "two") + "F " + logLine("10:00:03", "three") +
		"F panic: x\n" + "E " + logLine("10:00:04", "four"))
	for _, args := range [][]string{{"logs"}, {"logs", "all"}, {"logs", "edge-2", "fork"}, {"logs", "--format=json"}} {
		if out := h.must(args...); out != want {
			t.Errorf("%q:\n%s\nwant\n%s", args, out, want)
		}
	}
	if out := h.must("logs", "-n", "1"); out != label("F panic: x\n"+"E "+logLine("10:00:04", "four")) {
		t.Errorf("one line of each:\n%s", out)
	}
	if out := h.must("logs", "edge-2"); out != logLine("10:00:02", "two")+logLine("10:00:04", "four") {
		t.Errorf("one server:\n%s", out)
	}
	// For people: the zone is that of the user, and what is no JSON is as it was.
	cmd := h.command("logs", "--format", "text", "fork")
	cmd.Env = append(cmd.Env, "TZ=America/Argentina/Buenos_Aires")
	text, err := cmd.Output()
	if err != nil || !strings.HasSuffix(string(text), "panic: x\n") || !strings.Contains(string(text), "2026-11-25 07:00:01 INFO  one n=1\n") &&
		!strings.Contains(string(text), "2026-11-25 10:00:01 INFO  one n=1\n") { // a machine without zones
		t.Errorf("as text: %v\n%s", err, text)
	}
	for args, want := range map[string]int{"logs --format yaml": exitUsage, "logs --format": exitUsage, "logs nobody": exitFailure} {
		out, errs, status := h.run(strings.Fields(args)...)
		if status != want || out != "" || strings.Count(errs, "\n") != 1 {
			t.Errorf("%s: status %d, stdout %q, stderr %q", args, status, out, errs)
		}
	}
}

// logs -f shows what servers write that are started while it runs, until a signal.
func TestLogsFollowServersThatAreStartedLater(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	cmd := h.command("logs", "-f")
	path := filepath.Join(h.cwd, "followed")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "another"} {
		h.must("start", "--p", testenv.FreePort(t), "--name", name)
		eventually(t, "the lines of "+name, func() bool {
			content, _ := os.ReadFile(path)
			return slices.ContainsFunc(strings.Split(string(content), "\n"), func(line string) bool {
				label, line, _ := strings.Cut(line, " | ")
				return strings.TrimSpace(label) == name && strings.Contains(line, "worker ready")
			})
		})
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if status := cmd.ProcessState.ExitCode(); status != exitInterrupted+int(syscall.SIGINT) {
		t.Errorf("exit status %d", status)
	}
}

// expectJSONLines checks that each line of a file is one object, and that each of the messages is among them.
func expectJSONLines(t *testing.T, path string, messages ...string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for line := range bytes.Lines(content) {
		var l struct{ Time, Level, Msg string }
		if err := json.Unmarshal(line, &l); err != nil || l.Time == "" || l.Level == "" {
			t.Errorf("%s: %v: %q", path, err, line)
		}
		found[l.Msg] = true
	}
	for _, message := range messages {
		if !found[message] {
			t.Errorf("%s lacks %q:\n%s", path, message, content)
		}
	}
}

// Whatever the format of standard error is, log files have JSON, the lines of workers too.
func TestLogFilesAreJSONInEveryFormat(t *testing.T) {
	t.Parallel()
	for format, text := range map[string]bool{"text": true, "json": false, "auto": false} {
		t.Run(format, func(t *testing.T) {
			h := newHome(t)
			cmd := h.command("--m", "CLUSTER", "-i", "1", "--p", testenv.FreePort(t), "--name", "one")
			cmd.Env = append(cmd.Env, "BALANZA_LOG_FORMAT="+format)
			var errs bytes.Buffer
			cmd.Stderr = &errs
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the server is online", func() bool { return strings.Contains(h.must("ps"), "online") })
			h.must("reload", "one")
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Fatal(err)
			}
			expectJSONLines(t, filepath.Join(h.dir, "logs", "one.log"), "listening", "worker ready")
			for line := range strings.Lines(errs.String()) {
				if json.Valid([]byte(line)) == text {
					t.Errorf("on standard error: %q", line)
				}
			}
			if !strings.Contains(errs.String(), "worker ready") {
				t.Errorf("standard error: %q", errs.String())
			}
		})
	}
}
