package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"balanza/e2e/testenv"
)

// patternHome is a home whose path is a pattern that does not match it, and holds what shells, URLs and templates interpret.
func patternHome(t *testing.T) *home {
	t.Helper()
	h := newHome(t)
	h.dir = filepath.Join(h.dir, `[a] *b? {c}%20#ñ'"$x\`)
	if err := os.Mkdir(h.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestEveryCommandWorksInAnyHome(t *testing.T) {
	t.Parallel()
	h := patternHome(t)
	port := testenv.FreePort(t)
	h.must("start", "--p", port, "--m", "CLUSTER", "-i", "1", "--name", "one")
	for _, c := range [][2]string{
		{"ps", "one"}, {"ps --json", `"one"`}, {"describe one", "one.log"}, {"logs", "worker ready"}, {"logs one", "worker ready"},
		{"logs " + port, "worker ready"}, {"logs all", "worker ready"}, {"reload one", "done"}, {"restart " + port, "done"},
		{"scale one=2", "done"}, {"startup", "[Service]"}, {"__complete reload o", "one"}, {"healthcheck --p " + port, ""},
		{"save", ""},
	} {
		if out := h.must(strings.Fields(c[0])...); !strings.Contains(out, c[1]) {
			t.Errorf("%s: %q lacks %q", c[0], out, c[1])
		}
	}
	// A rotated file belongs to its server, and to no other.
	backup, other := "one-2026-11-25T10-00-00.000.log", "other.log"
	for _, name := range []string{backup, other} {
		writeFile(t, filepath.Join(h.dir, "logs", name), "an old line\n")
	}
	if out := h.must("logs", "-n", "1000", "one"); !strings.HasPrefix(out, "an old line\n") {
		t.Errorf("logs without the rotated file: %q", out)
	}
	h.must("flush", "one")
	if _, err := os.Stat(filepath.Join(h.dir, "logs", backup)); !os.IsNotExist(err) {
		t.Errorf("after flush the rotated file is there: %v", err)
	}
	if content, err := os.ReadFile(filepath.Join(h.dir, "logs", other)); err != nil || string(content) != "an old line\n" {
		t.Errorf("another server's log: %q, %v", content, err)
	}
	h.must("stop", "one")
	h.must("start", "one")
	h.must("delete", "one")
	h.must("resurrect")
	if out := h.must("ps"); !strings.Contains(out, "worker 2") {
		t.Errorf("after resurrect:\n%s", out)
	}
	h.must("delete")
	h.must("up", "-d", "--shift", "21700", "-i", "1")
	if out := h.must("logs", "-n", "1000", "edge"); !strings.Contains(out, "worker ready") {
		t.Errorf("logs of the edge: %q", out)
	}
	h.must("down")
}

// A home whose sockets would have too long a path is one clear line, and nothing is left running.
func TestAHomeThatIsTooLongIsOneClearLine(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.dir = filepath.Join(h.dir, strings.Repeat("x", 100))
	for _, args := range []string{"start --name one --p ", "--name one --p ", "up -d --shift 22700 --host 127.0.0.1"} {
		if strings.HasSuffix(args, "--p ") {
			args += testenv.FreePort(t)
		}
		_, errs, status := h.run(strings.Fields(args)...)
		lines := strings.Split(strings.TrimSuffix(errs, "\n"), "\n")
		if last := lines[len(lines)-1]; status == 0 || !strings.HasPrefix(last, "balanza: ") || !strings.Contains(last, "set BALANZA_HOME to a shorter one") {
			t.Errorf("%s: status %d, %q", args, status, errs)
		}
	}
	for _, args := range []string{"ps", "logs", "stop"} {
		h.must(args)
	}
}

// What can be no name is exit status 2 and one line, wherever a name is expected, and makes no file.
func TestBadNamesAreOneLineAndStatus2(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	port := testenv.FreePort(t)
	h.must("start", "--p", testenv.FreePort(t), "--name", "one")
	before := filesBelow(t, h.dir)
	expect := func(args ...string) {
		t.Helper()
		out, errs, status := h.run(args...)
		if status != exitUsage || out != "" || strings.Count(errs, "\n") != 1 || !strings.HasPrefix(errs, "balanza: ") {
			t.Errorf("%q: status %d, stdout %q, stderr %q", args, status, out, errs)
		}
	}
	for _, name := range []string{".", "..", "-x", "a/b", "../x", "a b", "[a]", "*", "ñ", "a\nb", strings.Repeat("x", 65), "all"} {
		expect("--name", name, "--p", "0")
		expect("start", "--p", port, "--name", name)
		expect("run", "--name", name, "--port", port, "--", "sleep", "1000")
		expect("run", "-d", "--name", name, "--port", port, "--", "sleep", "1000")
	}
	for _, name := range []string{"", ".", "a/b", "../logs/one", "a b", "*", "one\n", strings.Repeat("x", 65)} {
		for _, command := range []string{"reload", "restart", "stop", "start", "delete", "describe", "logs", "flush", "ps"} {
			expect(command, name)
		}
		expect("scale", name+"=2")
	}
	expect("stop", "-x")
	if after := filesBelow(t, h.dir); after != before {
		t.Errorf("files:\n%s\nbefore:\n%s", after, before)
	}
	// A list that somebody has written, or damaged.
	writeFile(t, filepath.Join(h.dir, "saved.json"), `{"launches":[{"dir":"/","command":["--p","0"],"servers":{"../../x":1}}]}`)
	expect("resurrect")
}

// filesBelow are the paths of all files below a folder.
func filesBelow(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	for line := range strings.Lines(snapshot(t, dir)) {
		path, _, _ := strings.Cut(line, " ")
		all = append(all, path)
	}
	return strings.Join(all, "\n")
}

// Commands take names and ports, so that no server has the port of another one as its name, whichever starts first.
func TestNoNameIsThePortOfAnother(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	first, second, third := testenv.FreePort(t), testenv.FreePort(t), testenv.FreePort(t)
	h.must("start", "--p", first, "--name", second)
	for _, args := range [][]string{
		{"start", "--p", third, "--name", first}, {"--p", third, "--name", first}, {"start", "--p", second, "--name", "two"}, {"--p", second},
		{"run", "-d", "--port", second, "--name", "three", "--", "sleep", "1000"},
	} {
		out, errs, status := h.run(args...)
		if status != exitUsage || out != "" || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, "commands take names and ports") {
			t.Errorf("%q: status %d, stdout %q, stderr %q", args, status, out, errs)
		}
	}
	h.must("stop", second) // the name and the port of a stopped server stay its own
	if _, errs, status := h.run("start", "--p", second, "--name", "two"); status != exitUsage {
		t.Errorf("status %d, %q", status, errs)
	}
	h.must("start", "--p", third, "--name", third) // its own port
	if list := h.list(third); len(list) != 1 || list[0].Name != third {
		t.Errorf("%+v", list)
	}
}
