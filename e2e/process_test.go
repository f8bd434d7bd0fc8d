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
)

// everything: BALANZA_TEST_ALL=1 asks for the full numbers.
var everything = os.Getenv("BALANZA_TEST_ALL") == "1"

func (s *server) address() string { return strings.TrimPrefix(s.url, "http://") }

// only is the one server of a home.
func (s *server) only() listed {
	s.t.Helper()
	for _, l := range s.calm(1) {
		return l
	}
	return listed{}
}

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

func TestReloadsOfTheSite(t *testing.T) {
	eachMode(t, func(t *testing.T, args ...string) {
		s := serve(t, t.TempDir(), args...)
		l := startLoad(t, s.address(), 4, "GET /info", "POST /api/productos", "GET /login", "POST /login")
		reloads := 20
		if everything {
			reloads = 50
		}
		for range reloads {
			l.AwaitResponses(t, 4)
			s.order("reload", "site")
		}
		l.Stop()
		l.CheckFailures(t, 0)
		t.Logf("%d reloads, %d responses", reloads, l.Responses())
		for _, w := range s.only().Workers {
			if w.Generation != reloads+1 {
				t.Errorf("after %d reloads: %+v", reloads, w)
			}
		}
	})
}

// A balancer hides the death of a process behind it from whoever asks with GET.
func TestKillsBehindTheBalancer(t *testing.T) {
	t.Parallel()
	f := up(t)
	l := startLoad(t, f.address("edge"), 4, "GET /info", "GET /api/randoms?cant=1000", "GET /login")
	kills := 5
	if everything {
		kills = 60
	}
	for n := range kills {
		server := []string{"cluster", "fork", "cluster"}[n%3]
		all := f.calm(fleetSize)[server].Workers
		signalled(syscall.SIGKILL)(t, all[n%len(all)].Pid)
		l.AwaitResponses(t, 20)
		time.Sleep(time.Second)
	}
	l.Stop()
	l.CheckFailures(t, 0)
	if now := f.calm(fleetSize); now["cluster"].Restarts+now["fork"].Restarts != kills {
		t.Errorf("after %d kills: %+v", kills, now)
	}
}

// What a reload meets in the middle of something is brought to its end by the old process, while the new one serves.
func TestDrainOfTheSite(t *testing.T) {
	eachMode(t, func(t *testing.T, args ...string) {
		s := serve(t, homeWith(t, "BALANZA_DRAIN_DELAY=30s"), args...)
		t.Cleanup(func() { s.end(syscall.SIGKILL) }) // a stop would take the whole delay, a reload only what it needs
		visitor := newUser(t, s.url, "visitor")
		socket, _, err := visitor.dial(t.Context(), s.url, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close()
		ended := make(chan error, 1)
		go func() {
			for {
				if _, _, err := socket.ReadMessage(); err != nil {
					ended <- err
					return
				}
			}
		}()

		body := strings.Repeat(" ", 998) + "{}"
		slow := map[string]*partial{
			"half-sent headers": say(t, s, "GET /info HTTP/1.1\r\nHost: x\r\n", "\r\n"),
			"slow upload": say(t, s, "POST /login HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n"+
				"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"+body[:500], body[500:]),
			"idle keep-alive": say(t, s, "GET /info HTTP/1.1\r\nHost: x\r\n\r\n", "GET /info HTTP/1.1\r\nHost: x\r\n\r\n"),
		}
		slow["idle keep-alive"].answer(t)

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
		for name, p := range slow {
			p.finish(t)
			if answer := p.answer(t); answer.StatusCode >= 500 || !answer.Close {
				t.Errorf("%s: %s, to be closed: %v", name, answer.Status, answer.Close)
			}
		}
		select {
		case err := <-ended:
			if !websocket.IsCloseError(err, websocket.CloseServiceRestart) {
				t.Errorf("the websocket: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the websocket is open")
		}
		if err := <-reloaded; err != nil {
			t.Errorf("the reload: %v", err)
		}
		again, _, err := visitor.dial(t.Context(), s.url, 0)
		if err != nil {
			t.Fatalf("the websocket's return: %v", err)
		}
		again.Close()
	})
}

// partial is a request of which something is not said yet.
type partial struct {
	conn net.Conn
	in   *bufio.Reader
	rest string
}

// say sends the first part of a request, on a connection of its own.
func say(t *testing.T, s *server, first, rest string) *partial {
	t.Helper()
	conn, err := net.Dial("tcp", s.address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	p := &partial{conn, bufio.NewReader(conn), first}
	p.finish(t)
	p.rest = rest
	return p
}

func (p *partial) finish(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(p.conn, p.rest); err != nil {
		t.Error(err)
	}
}

func (p *partial) answer(t *testing.T) *http.Response {
	t.Helper()
	answer, err := http.ReadResponse(p.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		t.Error(err)
	}
	return answer
}

// A server that can't serve ends with a status that says so, and with the cause.
func TestFirstBootFails(t *testing.T) {
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
			said, err := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(lastLine(said), c.cause) {
				t.Errorf("%v: %s", err, said)
			}
		})
	}
	s.only() // the first goes on
}

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
			s.order("reload", "site")
		}
	}
	master := s.cmd.Process.Pid
	reload(10)
	before := proctree.Descriptors(t, master)
	n := 20
	if everything {
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

// Neither a reader that does not read nor a disk that is full keeps anybody waiting.
func TestNobodyTakesTheLog(t *testing.T) {
	t.Parallel()
	s := &server{t: t, home: t.TempDir(), url: "http://127.0.0.1:0"}
	logs := filepath.Join(s.home, "logs")
	if err := os.Mkdir(logs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", logs, "tmpfs", 0, "size=4k"); err != nil {
		t.Skipf("this user can't make a small disk: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(logs, syscall.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(logs, "rest"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	unread, pen, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer unread.Close()
	_ = pen.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := pen.Write(make([]byte, 1<<20)); err == nil {
		t.Fatal("the pipe is not full")
	}
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url = "http://" + port.Addr().String()
	port.Close()
	_, number, _ := net.SplitHostPort(s.address())
	s.cmd = s.balanza("--host", "127.0.0.1", "--p", number, "--m", "CLUSTER", "-i", "2", "--name", "site")
	s.cmd.Stdout, s.cmd.Stderr = pen, pen
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pen.Close()
	defer s.end(syscall.SIGTERM)
	s.calm(1)
	l := startLoad(t, s.address(), 2, "GET /info", "POST /login")
	for range 5 {
		l.AwaitResponses(t, 10)
		s.order("reload", "site")
	}
	l.Stop()
	l.CheckFailures(t, 0)
	for n := 1; n <= 3; n++ {
		if err := syscall.Kill(s.only().Workers[0].Pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "replacement", func() error {
			if now := s.ps()["site"]; now.Restarts != n {
				return fmt.Errorf("%+v", now)
			}
			return nil
		})
	}
	s.only()
}

// Counters never fall, whatever becomes of the processes that count.
func TestMetricsThroughRestarts(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir(), "--m", "CLUSTER", "-i", "2", "--name", "site")
	before := map[string]float64{}
	for i, scrapes := 0, 0; scrapes < 100; i++ {
		switch i % 20 {
		case 5:
			if err := syscall.Kill(s.only().Workers[i%2].Pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		case 15:
			s.order("reload", "site")
		}
		c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
		if answer, err := c.Get(s.url + "/info"); err == nil {
			answer.Body.Close()
		}
		answer, err := c.Get(s.url + "/metrics")
		if err != nil {
			continue // it was on the process that was killed
		}
		scrapes++
		for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
			series, value, _ := strings.Cut(lines.Text(), "} ")
			name, _, _ := strings.Cut(series, "{")
			if !strings.HasSuffix(name, "_total") && !strings.HasPrefix(name, "balanza_request_seconds_") {
				continue
			}
			now, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatalf("%q: %v", lines.Text(), err)
			}
			if was := before[series]; now < was {
				t.Errorf("scrape %d: %s} fell from %v to %v", scrapes, series, was, now)
			}
			before[series] = now
		}
		answer.Body.Close()
	}
	if n := before[`balanza_requests_total{method="GET",route="/info",status="2xx"`]; n < 80 {
		t.Errorf("about a hundred requests of /info were counted as %v", n)
	}
}

// A process is replaced after so many requests, in either mode, and nobody notices.
func TestMaxRequestsOfTheSite(t *testing.T) {
	eachMode(t, func(t *testing.T, args ...string) {
		s := serve(t, t.TempDir(), append(args, "--max-requests", "100")...)
		before := s.only().Workers
		l := startLoad(t, s.address(), 2, "GET /info", "POST /login")
		for _, was := range before {
			eventually(t, "replacement", func() error {
				if now := s.ps()["site"].Workers; slices.ContainsFunc(now, func(w listedWorker) bool { return w.Pid == was.Pid }) {
					return fmt.Errorf("%+v", now)
				}
				return nil
			})
		}
		l.Stop()
		l.CheckFailures(t, 0)
		if l := s.only(); l.Restarts != 0 {
			t.Errorf("a replacement counted as a death: %+v", l)
		}
	})
}

// A program that is not ours has the same respawn, reload and end.
func TestForeignProgram(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "activated")
	if said, err := exec.Command("go", "build", "-o", binary, "./testdata/activated").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, home: t.TempDir(), url: "http://" + free.Addr().String()}
	free.Close()
	_, port, _ := net.SplitHostPort(s.address())
	s.cmd = s.balanza("run", "-i", "2", "--name", "api", "--host", "127.0.0.1", "--port", port, "--", binary)
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer s.end(syscall.SIGKILL)
	pids := func() (pids []int) {
		for _, w := range s.only().Workers {
			pids = append(pids, w.Pid)
		}
		return pids
	}
	answers := func(among []int) {
		t.Helper()
		c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
		answer, err := c.Get(s.url)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if pid, _ := strconv.Atoi(answer.Header.Get("X-Pid")); !slices.Contains(among, pid) {
			t.Errorf("%d answered, not one of %v", pid, among)
		}
	}
	eventually(t, "start", func() error {
		if now := s.ps()["api"]; now.Status != "online" {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
	first := pids()
	answers(first)
	if err := syscall.Kill(first[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "respawn", func() error {
		if now := s.ps()["api"]; now.Restarts != 1 {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
	answers(pids())
	s.order("reload", "api")
	second := pids()
	for _, pid := range second {
		if slices.Contains(first, pid) {
			t.Errorf("not reloaded: %v, then %v", first, second)
		}
	}
	answers(second)
	s.end(syscall.SIGKILL)
	for _, pid := range second {
		eventually(t, "the end of all", func() error { return proctree.Exited(pid) })
	}
}
