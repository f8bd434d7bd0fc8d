package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
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

	"github.com/gorilla/websocket"

	"balanza/e2e/proctree"
	"balanza/e2e/testenv"
)

// address is host:port.
func (s *server) address() string { return strings.TrimPrefix(s.url, "http://") }

// onlyServer waits until the server is online and returns its status. The home must not have another server.
func (s *server) onlyServer() serverStatus {
	s.t.Helper()
	for _, l := range s.awaitOnline(1) {
		return l
	}
	return serverStatus{}
}

// eachMode runs a test of a server named site in FORK and in CLUSTER.
func eachMode(t *testing.T, f func(t *testing.T, args ...string)) {
	t.Run("FORK", func(t *testing.T) {
		t.Parallel()
		f(t, "--m", "FORK", "--name", "site")
	})
	t.Run("CLUSTER", func(t *testing.T) {
		t.Parallel()
		f(t, "--m", "CLUSTER", "-i", "2", "--name", "site")
	})
}

// No request fails during reloads.
func TestReloadsUnderLoad(t *testing.T) {
	eachMode(t, func(t *testing.T, args ...string) {
		s := serve(t, t.TempDir(), args...)
		l := startLoad(t, s.address(), 4, "GET /info", "POST /api/productos", "GET /login", "POST /login")
		reloads := 20
		if testenv.All() {
			reloads = 50
		}
		for range reloads {
			l.AwaitResponses(t, 4)
			s.mustRun("reload", "site")
		}
		l.Stop()
		l.CheckFailures(t, 0)
		t.Logf("%d reloads, %d responses", reloads, l.Responses())
		for _, w := range s.onlyServer().Workers {
			if w.Generation != reloads+1 {
				t.Errorf("after %d reloads: %+v", reloads, w)
			}
		}
	})
}

// No GET request through the balancer fails when a process behind it is killed.
func TestKillsBehindBalancer(t *testing.T) {
	t.Parallel()
	f := up(t)
	l := startLoad(t, f.address("edge"), 4, "GET /info", "GET /api/randoms?cant=1000", "GET /login")
	kills := 5
	if testenv.All() {
		kills = 60
	}
	for n := range kills {
		server := []string{"cluster", "fork", "cluster"}[n%3]
		all := f.awaitOnline(fleetSize)[server].Workers
		sendSignal(t, all[n%len(all)].Pid, syscall.SIGKILL)
		l.AwaitResponses(t, 20)
		time.Sleep(time.Second)
	}
	l.Stop()
	l.CheckFailures(t, 0)
	if now := f.awaitOnline(fleetSize); now["cluster"].Restarts+now["fork"].Restarts != kills {
		t.Errorf("after %d kills: %+v", kills, now)
	}
}

// The old process finishes the requests that it has when a reload starts, while the new one serves.
func TestReloadDrains(t *testing.T) {
	eachMode(t, func(t *testing.T, args ...string) {
		s := serve(t, homeWith(t, "BALANZA_DRAIN_DELAY=30s"), args...)
		t.Cleanup(func() { s.end(syscall.SIGKILL) }) // SIGTERM would take the whole delay; a reload ends with its last connection
		u := newUser(t, s.url, "ana")
		socket, _, err := u.dial(t.Context(), s.url, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close()
		closed := make(chan error, 1)
		go func() {
			for {
				if _, _, err := socket.ReadMessage(); err != nil {
					closed <- err
					return
				}
			}
		}()

		body := strings.Repeat(" ", 998) + "{}"
		requests := map[string]*partialRequest{
			"half-sent headers": startRequest(t, s, "GET /info HTTP/1.1\r\nHost: localhost\r\n", "\r\n"),
			"slow upload": startRequest(t, s, "POST /login HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"+
				"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"+body[:500], body[500:]),
			"idle keep-alive": startRequest(t, s, "GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		}
		requests["idle keep-alive"].response(t)

		reloaded := make(chan error, 1)
		go func() { reloaded <- s.balanza("reload", "site").Run() }()
		eventually(t, "the new process", func() error {
			for _, w := range s.ps()["site"].Workers {
				if w.Status != "draining" && w.Generation != 2 {
					return fmt.Errorf("%+v", w)
				}
			}
			return nil
		})
		for name, p := range requests {
			p.sendRest(t)
			if response := p.response(t); response.StatusCode >= 500 || !response.Close {
				t.Errorf("%s: %s, Connection: close %v", name, response.Status, response.Close)
			}
		}
		select {
		case err := <-closed:
			if !websocket.IsCloseError(err, websocket.CloseServiceRestart) {
				t.Errorf("the websocket: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the websocket was not closed within 30 s")
		}
		if err := <-reloaded; err != nil {
			t.Errorf("the reload: %v", err)
		}
		second, _, err := u.dial(t.Context(), s.url, 0)
		if err != nil {
			t.Fatalf("a second websocket: %v", err)
		}
		second.Close()
	})
}

// partialRequest is a request whose rest is not sent yet.
type partialRequest struct {
	conn net.Conn
	in   *bufio.Reader
	rest string
}

// startRequest sends the first part of a request on a connection of its own.
func startRequest(t *testing.T, s *server, first, rest string) *partialRequest {
	t.Helper()
	conn, err := net.Dial("tcp", s.address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	p := &partialRequest{conn, bufio.NewReader(conn), first}
	p.sendRest(t)
	p.rest = rest
	return p
}

func (p *partialRequest) sendRest(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(p.conn, p.rest); err != nil {
		t.Error(err)
	}
}

func (p *partialRequest) response(t *testing.T) *http.Response {
	t.Helper()
	response, err := http.ReadResponse(p.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Error(err)
	}
	return response
}

// A server that cannot start exits with status 1 and writes the cause.
func TestStartFails(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir(), "--name", "first")
	_, taken, _ := net.SplitHostPort(s.address())
	for _, c := range []struct {
		name, cause string
		args        []string
		data        string
	}{
		{"CLUSTER without a store", "not a directory", []string{"--p", "0", "--m", "CLUSTER", "-i", "2", "--name", "second"}, "/dev/null/data"},
		{"FORK without a store", "not a directory", []string{"--p", "0", "--name", "second"}, "/dev/null/data"},
		{"a port that is taken", "port " + taken + " is taken", []string{"--host", "127.0.0.1", "--p", taken, "--name", "second"}, ""},
		{"a name that is taken", "a server named first is running", []string{"--p", "0", "--name", "first"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := s.balanza(c.args...)
			if c.data != "" {
				cmd.Env = append(cmd.Env, "BALANZA_DATA="+c.data)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
			defer stop()
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(lastLine(out), c.cause) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	s.onlyServer() // the first still runs
}

// noKeepAlive opens a connection for each request.
var noKeepAlive = http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}

func lastLine(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// The master's private memory stays below 20 MiB, however often it reloads, and it keeps no descriptor and no child of
// its earlier workers.
func TestMasterStaysSmall(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir(), "--m", "CLUSTER", "-i", "1", "--name", "site")
	reload := func(n int) {
		for range n {
			s.mustRun("reload", "site")
		}
	}
	master := s.cmd.Process.Pid
	reload(10)
	before := proctree.Descriptors(t, master)
	n := 20
	if testenv.All() {
		n = 990
	}
	reload(n)
	memory := 0
	eventually(t, "a small master", func() error { // its garbage collector may need a moment
		memory = proctree.PrivateMemory(t, master)
		now, children := proctree.Descriptors(t, master), proctree.Children(t, master)
		switch {
		case memory > 20<<20:
			return fmt.Errorf("%d KiB of private memory, want at most 20 MiB", memory>>10)
		case now > before:
			return fmt.Errorf("%d descriptors, before %d", now, before)
		case len(children) != 1:
			return fmt.Errorf("child processes: %v", children)
		}
		return nil
	})
	t.Logf("after %d reloads: %d KiB of private memory, %d descriptors", 10+n, memory>>10, before)
}

// A server goes on when nobody reads its output and the disk with its logs is full.
func TestLogIsNotWritable(t *testing.T) {
	t.Parallel()
	s := &server{t: t, home: t.TempDir()}
	logs := filepath.Join(s.home, "logs")
	if err := os.Mkdir(logs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", logs, "tmpfs", 0, "size=4k"); err != nil {
		t.Skipf("mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(logs, syscall.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(logs, "rest"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	unread, writeEnd, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer unread.Close()
	_ = writeEnd.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := writeEnd.Write(make([]byte, 1<<20)); err == nil {
		t.Fatal("the pipe is not full")
	}
	port := testenv.FreePort(t)
	s.url = "http://127.0.0.1:" + port
	s.cmd = s.balanza("--host", "127.0.0.1", "--p", port, "--m", "CLUSTER", "-i", "2", "--name", "site")
	s.cmd.Stdout, s.cmd.Stderr = writeEnd, writeEnd
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writeEnd.Close()
	defer s.end(syscall.SIGTERM)
	s.awaitOnline(1)
	l := startLoad(t, s.address(), 2, "GET /info", "POST /login")
	for range 5 {
		l.AwaitResponses(t, 10)
		s.mustRun("reload", "site")
	}
	l.Stop()
	l.CheckFailures(t, 0)
	for n := 1; n <= 3; n++ {
		sendSignal(t, s.onlyServer().Workers[0].Pid, syscall.SIGKILL)
		s.awaitRestarts("site", n)
	}
	s.onlyServer()
}

// Counters never fall when the processes that count are killed or reloaded.
func TestMetricsThroughRestarts(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir(), "--m", "CLUSTER", "-i", "2", "--name", "site")
	before := map[string]float64{}
	for i, scrapes := 0, 0; scrapes < 100; i++ {
		switch i % 20 {
		case 5:
			sendSignal(t, s.onlyServer().Workers[i%2].Pid, syscall.SIGKILL)
		case 15:
			s.mustRun("reload", "site")
		}
		if response, err := noKeepAlive.Get(s.url + "/info"); err == nil {
			response.Body.Close()
		}
		response, err := noKeepAlive.Get(s.url + "/metrics")
		if err != nil {
			continue // the request was on the process that was killed
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			continue
		}
		scrapes++
		now := serverTotals(t, string(text))
		for series, was := range before {
			if is, ok := now[series]; !ok || is < was {
				t.Errorf("scrape %d: %s fell from %v to %v", scrapes, series, was, is)
			}
		}
		before = now
	}
	if n := before[`balanza_http_requests_total{method="GET",route="/info",code="2xx"}`]; n < 80 {
		t.Errorf("the counter of /info is %v after about 100 requests", n)
	}
}

// A process is replaced after --max-requests requests, and no request fails.
func TestMaxRequests(t *testing.T) {
	eachMode(t, func(t *testing.T, args ...string) {
		s := serve(t, t.TempDir(), append(args, "--max-requests", "100")...)
		before := s.onlyServer().Workers
		l := startLoad(t, s.address(), 2, "GET /info", "POST /login")
		for _, was := range before {
			eventually(t, "replacement", func() error {
				if now := s.ps()["site"].Workers; slices.ContainsFunc(now, func(w workerStatus) bool { return w.Pid == was.Pid }) {
					return fmt.Errorf("%+v", now)
				}
				return nil
			})
		}
		l.Stop()
		l.CheckFailures(t, 0)
		if l := s.onlyServer(); l.Restarts != 0 {
			t.Errorf("a replacement counted as a restart: %+v", l)
		}
	})
}

// An external program is replaced after a crash, reloaded and ended as the site is.
func TestExternalProgram(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "activated")
	if out, err := exec.Command("go", "build", "-o", binary, "./testdata/activated").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	port := testenv.FreePort(t)
	s := &server{t: t, home: t.TempDir(), url: "http://127.0.0.1:" + port}
	s.cmd = s.balanza("run", "--socket", "-i", "2", "--name", "api", "--host", "127.0.0.1", "--port", port, "--", binary)
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer s.end(syscall.SIGKILL)
	pids := func() (pids []int) {
		for _, w := range s.onlyServer().Workers {
			pids = append(pids, w.Pid)
		}
		return pids
	}
	checkResponder := func(pids []int) {
		t.Helper()
		response, err := noKeepAlive.Get(s.url)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if pid, _ := strconv.Atoi(response.Header.Get("X-Pid")); !slices.Contains(pids, pid) {
			t.Errorf("process %d answered, want one of %v", pid, pids)
		}
	}
	eventually(t, "start", func() error {
		if now := s.ps()["api"]; now.Status != "online" {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
	first := pids()
	checkResponder(first)
	sendSignal(t, first[0], syscall.SIGKILL)
	s.awaitRestarts("api", 1)
	checkResponder(pids())
	s.mustRun("reload", "api")
	second := pids()
	for _, pid := range second {
		if slices.Contains(first, pid) {
			t.Errorf("not reloaded: %v, then %v", first, second)
		}
	}
	checkResponder(second)
	s.end(syscall.SIGKILL)
	for _, pid := range second {
		eventually(t, "exit of the workers", func() error { return proctree.Exited(pid) })
	}
}
