package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"balanza/e2e/proctree"
	"balanza/e2e/testenv"
	"balanza/services/workers/control"
)

// snapshot returns the paths, modes and contents of everything below some folders.
func snapshot(t *testing.T, dirs ...string) string {
	t.Helper()
	var all strings.Builder
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			var content []byte
			if info.Mode().IsRegular() {
				content, err = os.ReadFile(path)
			}
			fmt.Fprintf(&all, "%s %v %q\n", path, info.Mode(), content)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestHelpAndWrongFlagsNeverAct(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	writeFile(t, filepath.Join(h.dir, "saved.json"), `{"launches":[]}`)
	writeFile(t, filepath.Join(h.dir, "logs", "old.log"), "a line\n")
	writeFile(t, filepath.Join(h.cwd, "folder", "file"), "x")
	root, commands := allCommands()
	before := snapshot(t, h.dir, h.cwd)
	for _, c := range commands {
		words := []string{}
		if c != root {
			words = append(words, c.Name())
		}
		for flag, want := range map[string]int{"--help": 0, "-h": 0, "-help": 0, "--no-such-flag": exitUsage, "-Z": exitUsage} {
			if flag == "-help" && c.Name() == activateWord {
				continue // it passes everything on
			}
			args := append(slices.Clone(words), flag)
			out, errs, status := h.run(args...)
			if status != want {
				t.Errorf("%q: exit status %d, want %d", args, status, want)
			}
			if want == 0 && (errs != "" || !strings.Contains(out, c.UseLine())) {
				t.Errorf("%q: stdout %q, stderr %q", args, out, errs)
			}
			if want == exitUsage && (out != "" || strings.Count(errs, "\n") != 1 || !strings.HasPrefix(errs, "balanza: ")) {
				t.Errorf("%q: stdout %q, stderr %q", args, out, errs)
			}
			if after := snapshot(t, h.dir, h.cwd); after != before {
				t.Fatalf("%q changed files:\n%s\nbefore:\n%s", args, after, before)
			}
		}
	}
}

func TestHelpNeedsNoValidSettings(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	writeFile(t, filepath.Join(h.cwd, ".env"), "BALANZA_PORT=none\n")
	for _, args := range [][]string{{"--help"}, {"up", "--help"}, {"help", "up"}, {"version"}, {"--version"}, {"completion", "bash"}} {
		if out := h.must(args...); out == "" {
			t.Errorf("%q printed nothing", args)
		}
	}
	if _, errs, status := h.run("ps"); status != exitUsage || !strings.Contains(errs, "BALANZA_PORT") {
		t.Errorf("ps: status %d, %q", status, errs)
	}
}

func TestMistypedCommandGetsASuggestion(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	for _, args := range [][]string{{"relaod"}, {"relaod", "fork"}, {"help", "relaod"}} {
		_, errs, status := h.run(args...)
		if status != exitUsage || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, "did you mean reload?") {
			t.Errorf("%q: status %d, %q", args, status, errs)
		}
	}
}

func TestMoreMistakesAreOneLineAndStatus2(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	for args, names := range map[string]string{
		"-i 2 --m FORK": "CLUSTER", "start -i 2 -m fork": "CLUSTER", "version extra": "extra", "save extra": "extra",
		"resurrect x": "x", "init": "folder", "init a b": "folders", "init a b:": "folders", "certificates a b": "folder", "describe": "name", "completion": "shell",
		"completion tcsh": "shell", "--name all": "all", "run --m FORK -- /bin/true": "--m", "ps --watch": "--watch",
		"run --max-requests 5 -- /bin/true": "--max-requests", "up --p 80": "--p", "--max-requests -5": "-5",
		"up --shift 60000": "60000", "--p": "value", "activate": "program",
	} {
		out, errs, status := h.run(strings.Fields(args)...)
		if status != exitUsage || out != "" || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, names) {
			t.Errorf("%s: status %d, stdout %q, stderr %q: want one line that names %q", args, status, out, errs, names)
		}
	}
	// What the environment says of the mode counts as explicit too; its number of workers waits for a CLUSTER.
	cmd := h.command("-i", "2")
	cmd.Env = append(cmd.Env, "BALANZA_MODE=FORK")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "CLUSTER") {
		t.Errorf("-i with BALANZA_MODE=FORK: %v, %s", err, out)
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if script := h.must("completion", shell); !strings.Contains(script, "balanza") {
			t.Errorf("%s: %q", shell, script)
		}
	}
	h.must("start", "--p", testenv.FreePort(t), "--name", "one")
	for args, want := range map[string]string{
		"rel": "reload", "reload ": "one", "scale ": "one=", "logs o": "one", "completion b": "bash", "up --pro": "--profile",
	} {
		words := strings.Split("__complete "+args, " ")
		if out := h.must(words...); !strings.Contains(out, want) {
			t.Errorf("%s: %q lacks %q", args, out, want)
		}
	}
}

func TestPM2sWords(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	port := testenv.FreePort(t)
	h.must("start", "--name=api", "-i", "2", "--", "--p", port) // -i alone means CLUSTER
	for _, word := range []string{"list", "ls", "status"} {
		if table := h.must(word); !strings.Contains(table, "CLUSTER") || !strings.Contains(table, "worker 2") {
			t.Errorf("%s:\n%s", word, table)
		}
	}
	for _, word := range []string{"describe", "show", "info"} {
		out := h.must(word, "api")
		for _, want := range []string{"CLUSTER, 2 workers", port, "worker 2", h.cwd, "api.log", "generation 1"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s lacks %q:\n%s", word, want, out)
			}
		}
	}
	log := filepath.Join(h.dir, "logs", "api.log")
	if info, err := os.Stat(log); err != nil || info.Size() == 0 {
		t.Errorf("before flush: %v, %v", info, err)
	}
	h.must("flush")
	h.must("reload", "all")
	content, err := os.ReadFile(log)
	if err != nil || !bytes.Contains(content, []byte("worker ready")) || bytes.IndexByte(content, 0) >= 0 {
		t.Errorf("after flush and reload: %v, %q", err, content)
	}
	h.must("stop", "all")
	if table := h.must("ps", "all"); !strings.Contains(table, "stopped") {
		t.Errorf("after stop all:\n%s", table)
	}
	h.must("start", "all")
	if out := h.must("logs", "all"); !strings.Contains(out, "worker ready") {
		t.Errorf("logs all: %q", out)
	}
	h.must("delete", "all")
}

func TestFlagsAfterTwoHyphensAreTheServers(t *testing.T) {
	var p program
	root := p.root()
	args := doubleHyphens(root, []string{"start", "--name=server", "--watch", "--", "--p", "8085", "--m", "cluster"})
	c, flags, err := root.Find(args)
	if err != nil || c.Name() != "start" {
		t.Fatalf("%v, %v", c, err)
	}
	if err := c.ParseFlags(flags); err != nil {
		t.Fatal(err)
	}
	if s := p.settings; s.Name != "server" || s.Port != 8085 || s.Mode != clusterMode || c.Flags().NArg() != 0 {
		t.Errorf("%+v, arguments %q", s, c.Flags().Args())
	}
}

// A clock that was set back since a server's start does not make ps show a negative duration.
func TestDurationsWithoutTheWallClock(t *testing.T) {
	t.Parallel()
	start := time.Now().Add(10 * time.Minute)
	s := serverStatus{
		Status: control.Status{Name: "one", Status: "online", Since: start, Uptime: 3},
		usage:  usage{Memory: 1 << 20},
		Workers: []processStatus{{
			WorkerStatus: control.WorkerStatus{Worker: 1, Pid: 7, Status: "online", Since: start, Uptime: 2}, usage: usage{Memory: 1 << 20},
		}},
	}
	var out bytes.Buffer
	if err := table(&out, []serverStatus{s}, nil, 0); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); !strings.Contains(text, "3s") || !strings.Contains(text, "2s") || strings.Contains(text, "-") {
		t.Errorf("ps shows\n%s", text)
	}
	h := newHome(t)
	h.must("start", "--p", testenv.FreePort(t), "--m", "CLUSTER", "-i", "1", "--name", "one")
	var all []struct {
		Uptime  float64
		Workers []struct{ Uptime float64 }
	}
	if err := json.Unmarshal([]byte(h.must("ps", "--json", "one")), &all); err != nil {
		t.Fatal(err)
	}
	if all[0].Uptime <= 0 || all[0].Workers[0].Uptime <= 0 {
		t.Errorf("a server that runs: %+v", all[0])
	}
}

// masterPid is the pid of a server's master.
func (h *home) masterPid(name string) int {
	h.t.Helper()
	var all []struct{ Pid int }
	if err := json.Unmarshal([]byte(h.must("ps", "--json", name)), &all); err != nil || len(all) != 1 {
		h.t.Fatalf("%v, %v", all, err)
	}
	return all[0].Pid
}

// list returns the servers, as ps --json does.
func (h *home) list(names ...string) (all []control.Status) {
	h.t.Helper()
	if err := json.Unmarshal([]byte(h.must(append([]string{"ps", "--json"}, names...)...)), &all); err != nil {
		h.t.Fatal(err)
	}
	return all
}

// workerPids are the pids of a server's processes.
func (h *home) workerPids(name string) (pids []int) {
	h.t.Helper()
	for _, st := range h.list(name) {
		for _, w := range st.Workers {
			pids = append(pids, w.Pid)
		}
	}
	return pids
}

// stopMaster starts a server in the background, saves it, and stops its master with SIGSTOP.
func stopMaster(t *testing.T) *home {
	t.Helper()
	h := newHome(t)
	h.must("start", "--p", testenv.FreePort(t), "--m", "CLUSTER", "-i", "1", "--name", "one")
	h.must("save")
	pid := h.masterPid("one")
	proctree.Stop(t, pid)
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) }) // before it carries out what was asked meanwhile
	return h
}

// clientCommands are all that ask a server something.
var clientCommands = []string{
	"reload one", "restart one", "scale one=2", "stop one", "delete one", "start one", "ps", "ps --json", "describe one", "logs one",
	"logs -f one", "flush one", "save", "resurrect", "down", "__complete reload o",
}

// running is a command that has been started.
type running struct {
	*exec.Cmd
	args      string
	out, errs bytes.Buffer
}

// startAll starts several commands at once.
func (h *home) startAll(lines ...string) (all []*running) {
	h.t.Helper()
	for _, args := range lines {
		r := &running{Cmd: h.command(strings.Fields(args)...), args: args}
		r.Stdout, r.Stderr = &r.out, &r.errs
		if err := r.Start(); err != nil {
			h.t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// awaitConnected waits until a command has connected to a server, so that a signal finds it waiting for the answer.
func awaitConnected(t *testing.T, pid int) {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, fd := range fds {
			if to, _ := os.Readlink(fd); strings.HasPrefix(to, "socket:") {
				return
			}
		}
	}
	t.Errorf("process %d did not connect", pid)
}

func TestSignalsEndCommandsOfAServerThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	h := stopMaster(t)
	before := snapshot(t, filepath.Join(h.dir, "logs"), filepath.Join(h.dir, "saved.json"))
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		var wg sync.WaitGroup
		for _, r := range h.startAll(clientCommands...) {
			wg.Go(func() {
				awaitConnected(t, r.Process.Pid)
				sent := time.Now()
				if err := r.Process.Signal(signal); err != nil {
					t.Errorf("%s: %v", r.args, err)
				}
				_ = r.Wait()
				if took := time.Since(sent); took > 5*time.Second {
					t.Errorf("%s: it ended %v after %v", r.args, took, signal)
				}
				status := r.ProcessState.ExitCode()
				if status != exitInterrupted+int(signal) && !strings.HasPrefix(r.args, "__complete") { // cobra's has no errors
					t.Errorf("%s: exit status %d after %v", r.args, status, signal)
				}
				if strings.Count(r.errs.String(), "\n") > 1 {
					t.Errorf("%s: stderr %q", r.args, r.errs.String())
				}
			})
		}
		wg.Wait()
	}
	if after := snapshot(t, filepath.Join(h.dir, "logs"), filepath.Join(h.dir, "saved.json")); after != before {
		t.Errorf("files changed:\n%s\nbefore:\n%s", after, before)
	}
}

func TestCommandsEndWhenAServerDoesNotAnswer(t *testing.T) {
	t.Parallel()
	h := stopMaster(t)
	orders := h.startAll("reload one", "restart one", "scale one=2", "stop one", "delete one", "start one")
	for args, want := range map[string]string{"ps": "unresponsive", "describe one": "unresponsive", "logs one": "worker ready"} {
		if out := h.must(strings.Fields(args)...); !strings.Contains(out, want) {
			t.Errorf("%s: %q", args, out)
		}
	}
	for _, args := range []string{"save", "down"} {
		if _, errs, status := h.run(args); status != exitFailure || !strings.Contains(errs, "one does not answer") {
			t.Errorf("%s: status %d, stderr %q", args, status, errs)
		}
	}
	began := time.Now()
	for _, r := range orders {
		_ = r.Wait()
		errs := r.errs.String()
		if status := r.ProcessState.ExitCode(); status != exitFailure || strings.Count(errs, "\n") != 1 ||
			!strings.Contains(errs, "one") || !strings.Contains(errs, "does not answer") {
			t.Errorf("%s: status %d, stderr %q", r.args, status, errs)
		}
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("the orders took %v", took)
	}
}

func TestAnInterruptedStartSaysWhatItLeaves(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	// An external program is ready when it has lived for a second.
	cmd := h.command("run", "-d", "--socket", "--name", "slow", "--port", testenv.FreePort(t), "--", "/usr/bin/env", roleVariable+"=server", os.Args[0])
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the control socket", func() bool {
		_, err := os.Stat(filepath.Join(h.dir, "run", "slow.sock"))
		return err == nil
	})
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if status := cmd.ProcessState.ExitCode(); status != exitInterrupted+int(syscall.SIGTERM) {
		t.Errorf("exit status %d", status)
	}
	if !strings.Contains(errs.String(), "slow goes on starting") {
		t.Errorf("stderr %q", errs.String())
	}
	eventually(t, "the server is online", func() bool { return strings.Contains(h.must("ps"), "online") })
}

// A server that is stopped while it starts stays on the list as stopped, and the command that started it ends.
func TestAStopEndsTheWaitForAStart(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	cmd := h.command("run", "-d", "--ready", "notify", "--ready-timeout", "10m", "--name", "slow", "--", "sleep", "1000")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	eventually(t, "the control socket", func() bool {
		_, err := os.Stat(filepath.Join(h.dir, "run", "slow.sock"))
		return err == nil
	})
	h.must("stop", "slow")
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		_ = cmd.Process.Kill()
		t.Fatal("run -d goes on waiting")
	}
	if !strings.Contains(errs.String(), "stopped before") || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("%v: %s", cmd.ProcessState, errs.String())
	}
	if table := h.must("ps"); !strings.Contains(table, "stopped") {
		t.Errorf("after the stop:\n%s", table)
	}
	h.must("delete", "slow")
}

func TestCrashOfABackgroundServerIsInItsLog(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.must("start", "--p", testenv.FreePort(t), "--m", "CLUSTER", "-i", "1", "--name", "one")
	log := filepath.Join(h.dir, "logs", "one.log")
	// Rotation must not lose them either.
	if err := os.Rename(log, strings.TrimSuffix(log, ".log")+"-2026-11-25T10-00-00.000.log"); err != nil {
		t.Fatal(err)
	}
	writeFile(t, log, "")
	h.must("reload")
	if err := syscall.Kill(h.masterPid("one"), syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stack trace", func() bool {
		content, _ := os.ReadFile(log)
		return bytes.Contains(content, []byte("SIGQUIT")) && bytes.Contains(content, []byte("goroutine"))
	})
}

func TestTemporaryHomeIsOurs(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	run := func() string {
		t.Helper()
		cmd := h.command("ps")
		cmd.Env = append(slices.DeleteFunc(cmd.Env, func(v string) bool {
			return strings.HasPrefix(v, "HOME=") || strings.HasPrefix(v, "BALANZA_HOME=") || strings.HasPrefix(v, "XDG_STATE_HOME=")
		}), "TMPDIR="+h.cwd)
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	if out := run(); !strings.Contains(out, "nothing runs") {
		t.Errorf("%q", out)
	}
	dir := filepath.Join(h.cwd, fmt.Sprintf("balanza-%d", os.Getuid()))
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if out := run(); !strings.Contains(out, dir) || strings.Count(out, "\n") != 1 {
		t.Errorf("a folder that anybody may write to: %q", out)
	}
}
