package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"balanza/e2e/testenv"
)

// manager is a service manager: it listens on a socket of sd_notify(3).
type manager struct {
	socket string // NOTIFY_SOCKET's value
	mu     sync.Mutex
	heard  []string // the messages' first lines
}

// newManager listens at a path, or with @ in the abstract namespace.
func newManager(t *testing.T, socket string) *manager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	m := &manager{socket: socket}
	go func() {
		message := make([]byte, 4096)
		for {
			n, err := conn.Read(message)
			if err != nil {
				return
			}
			text := string(message[:n])
			if strings.HasPrefix(text, "RELOADING=1\n") && !regexp.MustCompile(`\nMONOTONIC_USEC=[1-9]\d*$`).MatchString(text) {
				text = "no time: " + text
			}
			text, _, _ = strings.Cut(text, "\n")
			m.mu.Lock()
			m.heard = append(m.heard, text)
			m.mu.Unlock()
		}
	}()
	return m
}

// all returns the messages so far in one line.
func (m *manager) all() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.heard, " ")
}

func TestAServerTellsItsServiceManager(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	environment := filepath.Join(h.cwd, "environment")
	for i, args := range [][]string{
		{"--p", testenv.FreePort(t), "--name", "one"},
		{"--p", testenv.FreePort(t), "--name", "one", "--m", "CLUSTER", "-i", "2"},
		{"run", "-i", "1", "--name", "one", "--", "/bin/sh", "-c", "env > " + environment + "; exec sleep 1000"},
	} {
		socket := filepath.Join(h.dir, fmt.Sprint("notify", i))
		if i == 1 {
			socket = fmt.Sprintf("@balanza-test-%d", os.Getpid())
		}
		m := newManager(t, socket)
		cmd := h.command(args...)
		cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+socket)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		want := "READY=1"
		awaitStates := func(more string) {
			t.Helper()
			want += more
			eventually(t, want+" of "+args[0], func() bool { return m.all() == want || len(m.all()) > len(want) })
			if got := m.all(); got != want {
				t.Fatalf("%q: it has said %s, want %s", args, got, want)
			}
		}
		awaitStates("")
		h.must("reload", "one")
		awaitStates(" RELOADING=1 READY=1")
		h.must("restart", "one")
		awaitStates(" RELOADING=1 READY=1")
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		awaitStates(" RELOADING=1 READY=1")
		if i == 0 {
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		} else {
			h.must("delete", "one")
		}
		_ = cmd.Wait()
		awaitStates(" STOPPING=1")
	}
	if content, err := os.ReadFile(environment); err != nil || strings.Contains(string(content), h.dir+"/notify") {
		t.Errorf("a program may speak for its master: %v: %s", err, content)
	}
}

// A reload that fails ends too: the old processes serve.
func TestAFailedReloadIsReadyAgain(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	m := newManager(t, filepath.Join(h.dir, "notify"))
	program := filepath.Join(h.cwd, "program")
	writeFile(t, program, "#!/bin/sh\nexec sleep 1000\n")
	if err := os.Chmod(program, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := h.command("run", "-i", "1", "--name", "one", "--", program)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+m.socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is ready", func() bool { return m.all() == "READY=1" })
	writeFile(t, program, "#!/bin/sh\nexit 1\n")
	if _, _, status := h.run("reload", "one"); status != exitFailure {
		t.Errorf("the reload's exit status is %d", status)
	}
	eventually(t, "it is ready again", func() bool { return m.all() == "READY=1 RELOADING=1 READY=1" })
	h.must("delete", "one")
	_ = cmd.Wait()
}

// All servers of a topology, and the background: who starts a server there is the service, the server is not.
func TestUpTellsItsServiceManager(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	m := newManager(t, filepath.Join(h.dir, "notify"))
	cmd := h.command("up", "--shift", "19200", "-i", "1")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+m.socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "READY=1", func() bool { return m.all() == "READY=1" })
	background := h.command("start", "--p", testenv.FreePort(t), "--name", "beside")
	background.Env = append(background.Env, "NOTIFY_SOCKET="+m.socket)
	if out, err := background.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h.must("reload", "beside")
	h.must("delete", "beside")
	h.must("down")
	_ = cmd.Wait()
	eventually(t, "STOPPING=1", func() bool { return strings.HasSuffix(m.all(), "STOPPING=1") })
	if got := m.all(); got != "READY=1 STOPPING=1" {
		t.Errorf("it says %s", got)
	}
}
