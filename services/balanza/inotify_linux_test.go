package main

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"balanza/e2e/testenv"
)

// buffer takes a process's output while the test reads it.
type buffer struct {
	mu      sync.Mutex
	content bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.content.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.content.String()
}

// In a user namespace of its own a process can be left without inotify, as on a machine where others have used it up.
func TestWatchPollsWhenInotifyRunsOut(t *testing.T) {
	t.Parallel()
	for _, limit := range []string{"0 > /proc/sys/user/max_inotify_instances", "1 > /proc/sys/user/max_inotify_watches"} {
		t.Run(limit, func(t *testing.T) {
			t.Parallel()
			testPolling(t, limit)
		})
	}
}

// testPolling changes a file in a new folder, for which there is no second watch.
func testPolling(t *testing.T, limit string) {
	h := newHome(t)
	port := testenv.FreePort(t)
	program := h.command("run", "--socket", "--watch", "--name", "polled", "-i", "1", "--port", port, "--",
		"/usr/bin/env", roleVariable+"=server", os.Args[0])
	cmd := exec.Command("sh", append([]string{"-c", "echo " + limit + ` && exec "$@"`, "sh", program.Path},
		program.Args[1:]...)...)
	cmd.Dir, cmd.Env = program.Dir, program.Env
	var output buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("no user namespace here: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	pid := func() string {
		answer, err := http.Get("http://127.0.0.1:" + port)
		if err != nil {
			return ""
		}
		defer answer.Body.Close()
		var b bytes.Buffer
		_, _ = b.ReadFrom(answer.Body)
		return b.String()
	}
	var before string
	eventually(t, "an answer", func() bool { before = pid(); return before != "" })
	eventually(t, "the watcher", func() bool { return strings.Contains(output.String(), `"watching"`) })
	if err := os.Mkdir(filepath.Join(h.cwd, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a clear line", func() bool { return strings.Contains(output.String(), "the kernel gives no watches") })
	time.Sleep(2 * time.Second)
	if err := os.WriteFile(filepath.Join(h.cwd, "sub", "config.yaml"), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new process", func() bool { now := pid(); return now != "" && now != before })
}
