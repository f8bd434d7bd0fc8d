// Package e2e drives the whole of Balanza as its users do: the built program, browsers, Docker Compose.
package e2e

import (
	"errors"
	"fmt"
	"net"
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
)

// program builds the program once for all tests.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "balanza-e2e-")
	if err != nil {
		return "", err
	}
	atEnd = append(atEnd, func() { _ = os.RemoveAll(dir) }) // a temporary folder either way
	path := filepath.Join(dir, "balanza")
	out, err := exec.Command("go", "build", "-o", path, "balanza/services/balanza").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// atEnd is what is left to do after all tests.
var atEnd []func()

func TestMain(m *testing.M) {
	code := m.Run()
	for _, f := range atEnd {
		f()
	}
	os.Exit(code)
}

// missing skips a test for want of a part, or fails it where BALANZA_TEST_ALL=1 says that every part is there.
func missing(t *testing.T, why error) {
	t.Helper()
	if everything {
		t.Fatalf("needed here: %v", why)
	}
	t.Skipf("not here: %v", why)
}

// server is a running `balanza`, FORK or CLUSTER.
type server struct {
	t    *testing.T
	home string // BALANZA_HOME: servers of one home share store and control sockets
	args []string
	url  string
	cmd  *exec.Cmd
	log  *os.File
}

// serve starts a server of that home on a free port and waits until it is ready. It is stopped when the test ends.
func serve(t *testing.T, home string, args ...string) *server {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
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

// homeWith is a BALANZA_HOME whose servers have that setting, NAME=value.
func homeWith(t *testing.T, setting string) string {
	t.Helper()
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, ".env"), []byte(setting+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return home
}

// balanza is a command of the program in the server's home.
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
	cmd.Env = append(cmd.Env, "BALANZA_HOME="+s.home)
	cmd.Dir = s.home
	return cmd
}

// start starts it, again if it was ended.
func (s *server) start() {
	s.t.Helper()
	s.cmd = s.balanza(s.args...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, "ready: "+s.url, func() error {
		answer, err := http.Get(s.url + "/readyz")
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return errors.New(answer.Status)
		}
		return nil
	})
}

// end sends a signal to a running server and waits for its end.
func (s *server) end(signal os.Signal) {
	if s.cmd == nil || s.cmd.ProcessState != nil {
		return
	}
	_ = s.cmd.Process.Signal(signal) // it may have ended by itself
	_ = s.cmd.Wait()                 // how it ended is the test's business, not this helper's
}

// eventually asks until there is no error, for a minute.
func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(30 * time.Millisecond)
	}
}

func tail(text string, n int) string {
	if len(text) > n {
		text = "… " + text[len(text)-n:]
	}
	return strings.TrimSpace(text)
}
