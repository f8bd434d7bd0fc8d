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
)

// written is a buffer for a process that writes while the test reads.
type written struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *written) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *written) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// In a user namespace of its own a process can be left without inotify, as on a machine where others have used it up.
func TestWatchPollsWhenInotifyRunsOut(t *testing.T) {
	w := newWorld(t)
	port := freePort(t)
	program := w.command("run", "--watch", "--name", "polled", "-i", "1", "--port", port, "--",
		"/usr/bin/env", actVariable+"=server", os.Args[0])
	cmd := exec.Command("sh", append([]string{"-c", `echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"`, "sh", program.Path},
		program.Args[1:]...)...)
	cmd.Dir, cmd.Env = program.Dir, program.Env
	var said written
	cmd.Stdout, cmd.Stderr = &said, &said
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
	within(t, "an answer", func() bool { before = pid(); return before != "" })
	within(t, "a clear line", func() bool { return strings.Contains(said.String(), "the kernel gives no watches") })
	if err := os.WriteFile(filepath.Join(w.dir, "config.yaml"), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	within(t, "the new process", func() bool { now := pid(); return now != "" && now != before })
}
