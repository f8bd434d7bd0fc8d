// Package e2e drives the whole of Balanza as its users do: the built program, browsers, Docker Compose.
package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"balanza/e2e/testenv"
)

// program builds the program once for all tests.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "balanza-e2e-")
	if err != nil {
		return "", err
	}
	cleanups = append(cleanups, func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "balanza")
	out, err := exec.Command("go", "build", "-o", path, "balanza/services/balanza").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// cleanups run after all tests.
var cleanups []func()

func TestMain(m *testing.M) {
	code := m.Run()
	for _, f := range cleanups {
		f()
	}
	os.Exit(code)
}

// server is a server of Balanza, FORK or CLUSTER, and the process of its master.
type server struct {
	t    *testing.T
	home string // BALANZA_HOME: servers with the same home share the store and the folder of control sockets
	args []string
	url  string
	cmd  *exec.Cmd
	log  *os.File

	descriptors int // that its processes may have; 0: as many as this one
}

// serve starts a server with that home on a free port and waits until it is ready. It is stopped when the test ends.
func serve(t *testing.T, home string, args ...string) *server {
	t.Helper()
	port := testenv.FreePort(t)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, home: home, args: append([]string{"--host", "127.0.0.1", "--p", port}, args...),
		url: "http://127.0.0.1:" + port, log: log}
	t.Cleanup(func() {
		s.end(syscall.SIGTERM)
		if t.Failed() {
			content, _ := os.ReadFile(log.Name())
			t.Logf("log of %v:\n%s", s.args, tail(string(content), 4000))
		}
	})
	s.start()
	return s
}

// homeWith makes a BALANZA_HOME whose servers have settings, lines NAME=value.
func homeWith(t *testing.T, settings string) string {
	t.Helper()
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, ".env"), []byte(settings+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return home
}

// balanza returns a command of the program with the server's home.
func (s *server) balanza(args ...string) *exec.Cmd {
	s.t.Helper()
	path, err := program()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "BALANZA_") || strings.HasPrefix(v, "MONGODB_")
	})
	cmd.Env = append(cmd.Env, "BALANZA_HOME="+s.home, "LC_ALL=C") // output is compared in English
	cmd.Dir = s.home
	return cmd
}

// start starts the server and waits until it is ready. It may have ended before.
func (s *server) start() {
	s.t.Helper()
	s.cmd = s.balanza(s.args...)
	if s.descriptors > 0 {
		s.cmd.Args = append([]string{"sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, s.descriptors), s.cmd.Path}, s.args...)
		s.cmd.Path = "/bin/sh"
	}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, "ready: "+s.url, func() error {
		response, err := http.Get(s.url + "/readyz")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
		return nil
	})
}

// end sends a signal to the server, if it runs, and waits until its process has exited.
func (s *server) end(signal os.Signal) {
	if s.cmd == nil || s.cmd.ProcessState != nil {
		return
	}
	_ = s.cmd.Process.Signal(signal) // it may have ended by itself
	_ = s.cmd.Wait()                 // tests that expect an exit status check s.cmd.ProcessState
}

// eventually calls f until it returns nil, for at most a minute.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	eventuallyFor(t, time.Minute, what, f)
}

// eventuallyFor is eventually with another limit.
func eventuallyFor(t *testing.T, limit time.Duration, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(30 * time.Millisecond)
	}
}

// tail returns the last n bytes of a text.
func tail(text string, n int) string {
	if len(text) > n {
		text = "… " + text[len(text)-n:]
	}
	return strings.TrimSpace(text)
}
