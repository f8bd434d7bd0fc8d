package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"balanza/e2e/proctree"
	"balanza/e2e/testenv"
)

// awaitOutput waits until the output has a text.
func (m *managed) awaitOutput(text string) {
	m.t.Helper()
	eventually(m.t, "output with "+text, func() error {
		if !strings.Contains(m.output(), text) {
			return errors.New("not yet")
		}
		return nil
	})
}

// script writes a program for python3 and returns its path.
func (m *managed) script(name, text string) string {
	m.t.Helper()
	path := filepath.Join(m.home, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// A program counts as ready when it says so, in the time that it asks for, and is replaced when it says that it stops.
func TestRunByNotifications(t *testing.T) {
	t.Parallel()
	needPrograms(t, "python3")
	notify := testProgram(t, "notify.py")

	t.Run("not before READY=1", func(t *testing.T) {
		m := newManaged(t)
		m.launch("--ready", "notify", "--name", "n", "--port", m.port, "--", "python3", notify, "1.5", "READY=1")
		m.awaitOutput("Serving")
		if m.ps()["n"].Status == "online" {
			t.Error("online before it said so")
		}
		m.awaitOnline(1)
	})
	t.Run("never", func(t *testing.T) {
		m := newManaged(t)
		out, err := m.balanza("run", "-d", "--ready", "notify", "--ready-timeout", "10s", "--name", "n", "--port", m.port, "--",
			"python3", notify, "STATUS=thinking").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "READY=1") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("EXTEND_TIMEOUT_USEC", func(t *testing.T) {
		m := newManaged(t)
		m.run("--ready", "notify", "--ready-timeout", "5s", "--name", "n", "--port", m.port, "--",
			"python3", notify, "EXTEND_TIMEOUT_USEC=20000000", "7", "READY=1")
		if n := m.ps()["n"].Restarts; n != 0 {
			t.Errorf("%d restarts", n)
		}
	})
	t.Run("without a port", func(t *testing.T) {
		m := newManaged(t)
		text := "import os, socket, time\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\ntime.sleep(1.5)\n" +
			"s.sendto(b'READY=1', '\\0' + os.environ['NOTIFY_SOCKET'][1:])\ntime.sleep(1000)\n"
		m.launch("--ready", "notify", "--name", "n", "--", "python3", m.script("worker.py", text))
		time.Sleep(1200 * time.Millisecond)
		if m.ps()["n"].Status == "online" {
			t.Error("online before it said so")
		}
		m.awaitOnline(1)
	})
	t.Run("STOPPING=1", func(t *testing.T) {
		m := newManaged(t)
		m.run("--name", "n", "--port", m.port, "--", "python3", notify, "2", "STOPPING=1")
		first := m.pids()[0]
		eventually(t, "replacement", func() error {
			for _, pid := range m.pids() {
				if pid == first {
					return fmt.Errorf("process %d is still there", pid)
				}
			}
			return nil
		})
		m.mustGet("/")
	})
}

// A program is ready when its path answers 200, and is replaced when its health's path answers something else.
func TestRunAsksPaths(t *testing.T) {
	t.Parallel()
	needPrograms(t, "python3")
	m := newManaged(t)
	state := filepath.Join(m.home, "state")
	if err := os.WriteFile(state, []byte("503"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := m.script("server.py", `import http.server, os, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(open(sys.argv[1]).read()) if self.path != "/" else 200)
        self.end_headers()
http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), H).serve_forever()
`)
	m.launch("--name", "p", "--port", m.port, "--ready-path", "/ready", "--health-path", "/health", "--", "python3", script, state)
	eventually(t, "a process", func() error {
		if len(m.left()) < 2 {
			return errors.New("none")
		}
		return nil
	})
	time.Sleep(1500 * time.Millisecond)
	if m.ps()["p"].Status == "online" {
		t.Error("online although /ready answers 503")
	}
	write := func(status string) {
		t.Helper()
		if err := os.WriteFile(state, []byte(status), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("200")
	m.awaitOnline(1)
	write("500")
	m.awaitOutput("/health answers 500")
	write("200")
	m.awaitRestarts("p", 1)
	m.awaitOnline(1)
	m.mustGet("/")
}

// A program that binds a port of its own is told what to do.
func TestRunTellsOfAnotherPort(t *testing.T) {
	t.Parallel()
	needPrograms(t, "python3")
	m := newManaged(t)
	own := newManaged(t).port
	out, err := m.balanza("run", "-d", "--ready-timeout", "15s", "--name", "stubborn", "--port", m.port, "--",
		"python3", "-m", "http.server", "--bind", "127.0.0.1", own).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "listens on port "+own) || !strings.Contains(string(out), "$PORT") {
		t.Errorf("%v: %s", err, out)
	}
	m.checkNothingLeft()
	log, _ := m.balanza("logs", "-n", "100", "stubborn").CombinedOutput()
	if !strings.Contains(string(log), "program: it listens on port") {
		t.Errorf("the log does not tell: %s", log)
	}
}

// A program on the loopback address of IPv6 alone gets its requests.
func TestRunOnIPv6Loopback(t *testing.T) {
	t.Parallel()
	needPrograms(t, "python3")
	m := newManaged(t)
	m.run("--name", "six", "--port", m.port, "--", "python3", "-m", "http.server", "--bind", "::1", "$PORT")
	m.mustGet("/")
}

// The limit of memory is that of all that the program has started.
func TestRunLimitsMemoryOfAll(t *testing.T) {
	t.Parallel()
	needPrograms(t, "python3", "sh")
	m := newManaged(t)
	hungry := m.script("hungry.py", "import time\ntime.sleep(2)\nx = bytearray(200 << 20)\ntime.sleep(1000)\n")
	m.run("--name", "hungry", "--max-memory", "150M", "--", "sh", "-c", "python3 "+hungry+"; true")
	m.awaitOutput("more than the limit")
	m.awaitOutput(`"generation":1,"after"`)
}

// The environment comes from the file, the end from the signal, and after the timeout from SIGKILL.
func TestRunEnvironmentAndSignals(t *testing.T) {
	t.Parallel()
	needPrograms(t, "sh")
	m := newManaged(t)
	file := m.script("variables", "\ufeffexport GREETING='hello there'\r\nMONGODB_URI=mongodb://theirs\r\n")
	m.run("--name", "e", "--env-file", file, "--stop-signal", "int", "--stop-timeout", "1s", "--", "sh", "-c",
		`trap 'echo "got INT"' INT; trap '' TERM; echo "$GREETING $MONGODB_URI ${BALANZA_HOME-unset}"; while :; do sleep 0.1; done`)
	m.awaitOutput("hello there mongodb://theirs unset")
	m.end(syscall.SIGTERM)
	if !strings.Contains(m.output(), "got INT") || !strings.Contains(m.output(), "did not end in 1s") {
		t.Error("the signal or the timeout was not kept")
	}
	m.checkNothingLeft()
}

// Processes, descriptors and memory do not grow with the crashes of a wrapper that leaves grandchildren.
func TestRunStaysSmallThroughCrashes(t *testing.T) {
	t.Parallel()
	needPrograms(t, "sh", "setsid")
	crashes, instances := 200, 10
	if testenv.All() {
		crashes, instances = 1000, 20
	}
	m := newManaged(t)
	m.run("-i", fmt.Sprint(instances), "--name", "crasher", "--", "sh", "-c",
		"sleep 1000 & setsid sleep 1000 & (trap '' TERM; sleep 1000) & sleep 1.2; kill -9 $$")
	master := m.cmd.Process.Pid
	type size struct{ descriptors, memory int }
	measure := func(restarts int) (s size) {
		eventuallyFor(t, 5*time.Minute, fmt.Sprint(restarts, " crashes"), func() error {
			if now := m.ps()["crasher"]; now.Restarts < restarts {
				return fmt.Errorf("%d restarts", now.Restarts)
			}
			return nil
		})
		descriptors, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", master))
		if err != nil {
			t.Fatal(err)
		}
		return size{len(descriptors), proctree.PrivateMemory(t, master)}
	}
	early, late := measure(crashes/5), measure(crashes)
	t.Logf("after %d crashes %+v, after %d %+v", crashes/5, early, crashes, late)
	if perInstance := 8; late.descriptors > early.descriptors+perInstance*instances/2 {
		t.Errorf("descriptors grew from %d to %d", early.descriptors, late.descriptors)
	}
	if late.memory > early.memory+8<<20 {
		t.Errorf("memory grew from %d to %d bytes", early.memory, late.memory)
	}
	// Each instance has its parent, the wrapper, its children and theirs; those that are about to end may be there twice.
	if n := len(m.left()); n > 2*8*instances {
		t.Errorf("%d processes of %d instances", n, instances)
	}
	m.end(syscall.SIGTERM)
	m.checkNothingLeft()
}
