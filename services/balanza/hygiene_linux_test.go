package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"balanza/e2e/testenv"
)

// script returns a shell script that calls balanza as "$0". It runs in a process group of its own, which the test's end
// kills.
func (h *home) script(text string) *exec.Cmd {
	cmd := h.command()
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", text, os.Args[0]}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	h.t.Cleanup(func() {
		if cmd.Process != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			_ = cmd.Wait()
		}
	})
	return cmd
}

// openFiles are the paths of a process's open files by descriptor.
func openFiles(pid int) map[int]string {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, _ := os.ReadDir(dir)
	files := map[int]string{}
	for _, e := range entries {
		fd, _ := strconv.Atoi(e.Name())
		files[fd], _ = os.Readlink(filepath.Join(dir, e.Name()))
	}
	return files
}

// answers tells whether a server answers on a port.
func answers(port string) bool {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	answer, err := client.Get("http://127.0.0.1:" + port + "/healthz")
	if err != nil {
		return false
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// A deploy script that locks a file, starts servers in the background and ends, has released the lock.
func TestBackgroundServersDoNotKeepALockOfTheirStarter(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("flock"); err != nil {
		testenv.SkipOrFail(t, err)
	}
	for command, args := range map[string]string{
		"start": "--p " + testenv.FreePort(t) + " --m CLUSTER -i 1 --name one",
		"run":   "-d --name two -- sleep 1000",
		"up":    "-d --shift 19700 -i 1",
	} {
		t.Run(command, func(t *testing.T) {
			h := newHome(t)
			if output, err := h.script(fmt.Sprintf(`exec 9>lock; flock -n 9 && "$0" %s %s`, command, args)).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, output)
			}
			if output, err := h.script("flock -n lock true").CombinedOutput(); err != nil {
				t.Errorf("the lock is held: %v %s", err, output)
			}
			if table := h.must("ps"); !strings.Contains(table, "online") {
				t.Errorf("after the script:\n%s", table)
			}
		})
	}
}

// A master in the foreground has the descriptors that it was started with, as any program, and hands none of them down.
func TestWorkersAndProgramsGetNoDescriptorOfTheirStarter(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	port := testenv.FreePort(t)
	for _, text := range []string{
		`exec 7>secret 8</etc/passwd; exec "$0" --p ` + port + ` --m CLUSTER -i 1 --name site`,
		`exec 7>secret 8</etc/passwd; exec "$0" run --name program -- sh -c 'ls -l /proc/$$/fd > seen.new; mv seen.new seen; sleep 1000'`,
	} {
		if err := h.script(text).Start(); err != nil {
			t.Fatal(err)
		}
	}
	seen := filepath.Join(h.cwd, "seen")
	eventually(t, "both are online", func() bool {
		_, err := os.Stat(seen)
		return err == nil && answers(port)
	})
	if content, err := os.ReadFile(seen); err != nil || bytes.Contains(content, []byte("secret")) || bytes.Contains(content, []byte("passwd")) {
		t.Errorf("the program has %v\n%s", err, content)
	}
	for _, pid := range h.workerPids("site") {
		for fd, path := range openFiles(pid) {
			if strings.HasSuffix(path, "secret") || strings.HasSuffix(path, "passwd") {
				t.Errorf("worker %d has descriptor %d: %s", pid, fd, path)
			}
		}
	}
}

// A master goes on when nobody reads its output any more, and so does the program that it runs. SIGPIPE is as ever for the
// program, and for commands that only print.
func TestServersOutliveTheReaderOfTheirOutput(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	port := testenv.FreePort(t)
	trap := filepath.Join(h.cwd, "trap")
	for _, text := range []string{
		`"$0" --p ` + port + ` --name site 2>&1 | head -n 1`,
		`"$0" run --name program -- sh -c 'while :; do echo tick; sleep 0.02; done' 2>&1 | head -n 1`,
		`"$0" run --name pipe -- sh -c '(yes; echo $? > "$0.new"; mv "$0.new" "$0") | head -n 1; sleep 1000' ` + trap + ` 2>&1 | head -n 1`,
		`"$0" up --shift 20700 -i 1 2>&1 | head -n 1`,
	} {
		if err := h.script(text).Start(); err != nil {
			t.Fatal(err)
		}
	}
	names := []string{"site", "program", "pipe", "edge", "fork", "cluster"}
	online := func() (n int) {
		for _, st := range h.list() {
			if slices.Contains(names, st.Name) && st.Status == "online" {
				n++
			}
		}
		return n
	}
	eventually(t, "all are online", func() bool { return online() == len(names) })
	pids := fmt.Sprint(h.workerPids("program"), h.masterPid("site"))
	for range 3 { // each writes lines
		h.must("reload", "cluster", "fork", "edge", "site")
	}
	time.Sleep(time.Second)
	if now := fmt.Sprint(h.workerPids("program"), h.masterPid("site")); now != pids || online() != len(names) || !answers(port) {
		t.Errorf("processes %s, were %s; %d of %d are online", now, pids, online(), len(names))
	}
	for _, printing := range []string{`"$0" logs -n 100000 | head -n 1`, `"$0" logs -f program | head -n 1`, `"$0" logs -f | head -n 1`} {
		ended := make(chan error, 1)
		cmd := h.script(printing)
		go func() { ended <- cmd.Run() }()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%s: %v", printing, err)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s does not end", printing)
		}
	}
	// 141: SIGPIPE has ended yes. With an ignored signal it gets an error and ends with status 1.
	if status, err := os.ReadFile(trap); err != nil || string(status) != "141\n" {
		t.Errorf("the pipe of a program: %v, status %q", err, status)
	}
}

// Whatever is done to its log file, a server in the background writes to the one that the path names, its standard output
// too, and logs -f shows it.
func TestLogFilesMayBeMovedRemovedAndEmptied(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.must("start", "--p", testenv.FreePort(t), "--m", "CLUSTER", "-i", "1", "--name", "one")
	master := h.masterPid("one")
	log := filepath.Join(h.dir, "logs", "one.log")
	follow := h.script(`exec "$0" logs -f -n 0 one`)
	out, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	followed := make(chan string, 1000)
	go func() {
		buffer := make([]byte, 64<<10)
		for {
			n, err := out.Read(buffer)
			if err != nil {
				return
			}
			followed <- string(buffer[:n])
		}
	}()
	time.Sleep(time.Second) // it is at the end of the file
	for what, change := range map[string]func() error{
		"moved":   func() error { return os.Rename(log, log+".1") },
		"removed": func() error { return os.Remove(log) },
		"emptied": func() error { return os.Truncate(log, 0) },
		"replaced": func() error {
			return os.WriteFile(log+".new", nil, 0o600) // and moved below: its number differs
		},
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if what == "replaced" {
			if err := os.Rename(log+".new", log); err != nil {
				t.Fatal(err)
			}
		}
		if err := syscall.Kill(master, syscall.SIGHUP); err != nil { // as logrotate's postrotate does
			t.Fatal(err)
		}
		eventually(t, "the file that was "+what+" is written", func() bool {
			content, _ := os.ReadFile(log)
			return bytes.Contains(content, []byte("worker ready")) && bytes.HasPrefix(content, []byte("{"))
		})
		for fd, path := range openFiles(master) {
			if fd <= 2 && fd > 0 && path != log {
				t.Errorf("%s: descriptor %d is %s", what, fd, path)
			}
		}
		var shown strings.Builder
		for end := time.After(20 * time.Second); !strings.Contains(shown.String(), "worker ready"); {
			select {
			case lines := <-followed:
				shown.WriteString(lines)
			case <-end:
				t.Fatalf("logs -f does not show the file that was %s: %q", what, shown.String())
			}
		}
		eventually(t, "the reload has ended", func() bool { return len(h.workerPids("one")) == 1 })
	}
	// A crash is in the file that is there now.
	if err := os.Rename(log, log+".2"); err != nil {
		t.Fatal(err)
	}
	h.must("reload", "one")
	if err := syscall.Kill(master, syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stack trace", func() bool {
		content, _ := os.ReadFile(log)
		return bytes.Contains(content, []byte("SIGQUIT"))
	})
}

// environ is the environment of a process.
func environ(t *testing.T, pid int) []string {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(content), "\x00"), "\x00")
}

// A program that starts a server in the background starts it as a user would: the server has none of what was meant for
// the program, and it is marked as one in the background.
func TestAProgramStartsABackgroundServerOfItsOwn(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	outer := strings.Fields("run -d --name outer -- sh -c")
	script := fmt.Sprintf(`env > outer.env
export %s=balanza BALANZA_HOME=%s
exec 9>lock; flock -n 9
NOTIFY_SOCKET=/nowhere LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=x '%s' run -d --name inner -- sh -c 'env > inner.env; sleep 1000' > start.new 2>&1
mv start.new started
sleep 1000`, roleVariable, h.dir, os.Args[0])
	h.must(append(outer, script)...)
	eventually(t, "the inner server is online", func() bool { _, err := os.Stat(filepath.Join(h.cwd, "started")); return err == nil })
	started, _ := os.ReadFile(filepath.Join(h.cwd, "started"))
	if n := len(h.workerPids("inner")); n != 1 {
		t.Fatalf("%d processes; %s", n, started)
	}
	for _, file := range []string{"outer.env", "inner.env"} {
		content, err := os.ReadFile(filepath.Join(h.cwd, file))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			if strings.HasPrefix(line, "BALANZA_") || strings.HasPrefix(line, "NOTIFY_SOCKET=/nowhere") || strings.HasPrefix(line, "LISTEN_FDNAMES=x") {
				t.Errorf("%s has %s", file, line)
			}
		}
	}
	for _, name := range []string{"outer", "inner"} {
		env := environ(t, h.masterPid(name))
		if !slices.Contains(env, "BALANZA_BACKGROUND=1") || !slices.Contains(env, "BALANZA_HOME="+h.dir) {
			t.Errorf("the master of %s is not marked: %q", name, env)
		}
		for _, variable := range env {
			if name, _, _ := strings.Cut(variable, "="); slices.Contains(serviceVariables, name) {
				t.Errorf("the master has %s", variable)
			}
		}
	}
	if _, err := exec.LookPath("flock"); err == nil {
		h.must("delete", "outer")
		if output, err := h.script("flock -n lock true").CombinedOutput(); err != nil {
			t.Errorf("the inner server holds the lock: %v %s", err, output)
		}
		if table := h.must("ps", "inner"); !strings.Contains(table, "online") {
			t.Errorf("the inner server ended with the outer one:\n%s", table)
		}
	}
}
