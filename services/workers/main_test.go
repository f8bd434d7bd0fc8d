package workers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"balanza/services/metrics"
	"balanza/services/workers/control"
)

// The tests start this test binary as masters and workers. The environment says as which.
const (
	roleVariable      = "WORKERS_TEST_ROLE"      // master; see TestMain
	specVariable      = "WORKERS_TEST_SPEC"      // the masterConfig of a master, as JSON
	behaviourVariable = "WORKERS_TEST_BEHAVIOUR" // a file with the behaviour of the workers, see behaviour
	argVariable       = "WORKERS_TEST_ARGUMENT"  // a behaviour that stands before the file's; see updatable
	acceptsVariable   = "WORKERS_TEST_ACCEPTS"   // a file to which workers write the addresses that they accepted
)

func TestMain(m *testing.M) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	var err error
	child, err := Inherit()
	switch role := os.Getenv(roleVariable); {
	case err != nil:
	case child != nil:
		if behaviour(child.Slot) == "slow-start" {
			fmt.Println("slow start")
			time.Sleep(500 * time.Millisecond)
		}
		err = child.Run(program, signals, slog.New(slog.DiscardHandler))
	case role == "master":
		err = masterProcess(signals)
	default:
		signal.Reset()
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "test process:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// behaviour returns the behaviour of a slot. The file has one word, like "exit", or a word and a slot, like "exit 2".
func behaviour(slot int) string {
	if arg := os.Getenv(argVariable); arg == "exit" || arg == "hang" {
		return arg
	}
	text, _ := os.ReadFile(os.Getenv(behaviourVariable))
	word, only, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	if only != "" && only != strconv.Itoa(slot) {
		return ""
	}
	return word
}

// The families that the workers report.
var (
	answersFamily = metrics.Family{Name: "answers_total", Kind: metrics.Counter, Help: "Answers."}
	slotFamily    = metrics.Family{Name: "worker_pid", Kind: metrics.Gauge, Help: "Number of the process."}
)

// program runs in the workers: a web server that drains as the site does.
func program(ctx context.Context, w *Worker) error {
	switch behaviour(w.Slot) {
	case "exit":
		return errors.New("exit as ordered")
	case "panic":
		panic("panic as ordered")
	case "hang": // never ready
		<-ctx.Done()
		return nil
	case "no-drain": // ready, and does not drain
		w.Ready()
		select {}
	case "short-lived": // ready, and exits at once
		w.Ready()
		return errors.New("exit after Ready as ordered")
	}
	s := &site{w: w}
	w.Sample = func() Heartbeat {
		n := s.answered.Load()
		return Heartbeat{Requests: n, Counters: map[string]float64{answersFamily.Name: float64(n)}}
	}
	w.Report = func() (r Report) {
		if behaviour(w.Slot) == "no-report" {
			time.Sleep(time.Hour)
		}
		r.Totals.Set(answersFamily, float64(s.answered.Load()))
		r.Own.Set(slotFamily, float64(os.Getpid()))
		return r
	}
	w.Health = func() error {
		if behaviour(w.Slot) == "unhealthy" {
			return errors.New("unhealthy")
		}
		return nil
	}
	return s.serve(ctx)
}

type site struct {
	w        *Worker
	answered atomic.Int64
	conns    atomic.Int64
	draining atomic.Bool
	blocks   [][]byte                // of /allocate
	accepts  atomic.Pointer[os.File] // the file of acceptsVariable
}

func (s *site) serve(ctx context.Context) error {
	if path := os.Getenv(acceptsVariable); path != "" {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		s.accepts.Store(f)
	}
	server := http.Server{Handler: s, ConnState: s.state}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(s.w.Listener) }()
	s.w.Ready()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	s.draining.Store(true)
	s.w.Listener.Close()
	// Shutdown closes idle connections at once, though a request may be on its way.
	for began := time.Now(); s.conns.Load() > 0 && time.Since(began) < 2*time.Second; time.Sleep(5 * time.Millisecond) {
	}
	return server.Shutdown(context.Background())
}

func (s *site) state(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.conns.Add(1)
		if f := s.accepts.Load(); f != nil {
			fmt.Fprintln(f, time.Now().UnixNano(), os.Getpid(), c.RemoteAddr())
		}
	case http.StateClosed, http.StateHijacked:
		s.conns.Add(-1)
	}
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.answered.Add(1)
	if s.draining.Load() {
		w.Header().Set("Connection", "close")
	}
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("X-Pid", strconv.Itoa(os.Getpid()))
	w.Header().Set("X-Generation", strconv.Itoa(s.w.Generation))
	switch r.URL.Path {
	case "/until": // lasts until the file exists
		fmt.Fprintln(w, "waiting")
		_ = http.NewResponseController(w).Flush()
		for {
			if _, err := os.Stat(r.FormValue("file")); err == nil {
				fmt.Fprintln(w, "done")
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	case "/metrics":
		text, err := s.w.Scrape()
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, text)
	case "/allocate":
		block := make([]byte, 64<<20)
		for i := range block {
			block[i] = 1
		}
		s.blocks = append(s.blocks, block)
	case "/orphan": // starts a process whose parent exits before it
		if err := exec.Command("sh", "-c", "sleep 0.1 &").Run(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	case "/exe":
		exe, _ := os.Readlink("/proc/self/exe")
		fmt.Fprint(w, exe)
	}
}

// masterConfig configures a master that runs in a process of its own.
type masterConfig struct {
	ControlDir  string
	Port, Count int
	Single      bool
}

// masterProcess runs a master in a process of its own.
func masterProcess(signals <-chan os.Signal) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ReapOrphans(log)
	var from masterConfig
	if err := json.Unmarshal([]byte(os.Getenv(specVariable)), &from); err != nil {
		return err
	}
	config := Config{
		Name: "test", Host: "127.0.0.1", Port: from.Port, Single: from.Single,
		Launch: Launch{Path: os.Args[0], Env: []string{roleVariable + "="}, Count: from.Count}, ControlDir: from.ControlDir, Output: os.Stderr, Logger: log,
	}
	if from.Single {
		config.InProcess = program
	}
	server, err := NewServer(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-signals
		cancel()
	}()
	return server.Run(ctx)
}

// waitLimit is the longest time that a test waits for an event. It is long enough for a busy machine.
const waitLimit = 20 * time.Second

// eventually calls f until it returns nil, for at most waitLimit.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for began := time.Now(); time.Since(began) < waitLimit; time.Sleep(10 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// running is a server in the test's process; its workers are child processes.
type running struct {
	*Server
	t         *testing.T
	behaviour string // path of the behaviour file
	ended     chan error
	end       context.CancelFunc
	result    error // of Run
	output    *lines
}

// lines receives the output of the workers.
type lines struct {
	all chan string
}

func (l *lines) Write(line []byte) (int, error) {
	select {
	case l.all <- string(line):
	default:
	}
	return len(line), nil
}

// testConfig configures a server with n workers on a free port. A busy machine stays within its limits.
func testConfig(t *testing.T, n int) Config {
	t.Helper()
	return Config{
		Name: "test", Mode: "CLUSTER", Host: "127.0.0.1",
		Launch:     Launch{Path: os.Args[0], Count: n, Limits: Limits{StopTimeout: 20 * time.Second}},
		ControlDir: shortDir(t), Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// shortDir makes a folder whose path is short enough for a socket's path.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "w")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// run starts a server without waiting for its workers.
func run(t *testing.T, c Config) *running {
	t.Helper()
	r := &running{
		t: t, behaviour: filepath.Join(c.ControlDir, "behaviour"), ended: make(chan error, 1),
		output: &lines{make(chan string, 1000)},
	}
	c.Env = append(c.Env, behaviourVariable+"="+r.behaviour)
	c.Output = r.output
	server, err := NewServer(c)
	if err != nil {
		t.Fatal(err)
	}
	r.Server = server
	ctx, cancel := context.WithCancel(context.Background())
	r.end = cancel
	go func() { r.ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		if err := r.stopped(); err != nil && r.result == nil {
			t.Errorf("Run returned %v", err)
		}
	})
	return r
}

// start starts a server and waits until all workers serve.
func start(t *testing.T, c Config) *running {
	t.Helper()
	r := run(t, c)
	r.online(c.Count)
	return r
}

// stopped ends the server and returns what Run returned.
func (r *running) stopped() error {
	if r.ended == nil {
		return r.result
	}
	r.end()
	select {
	case r.result = <-r.ended:
		r.ended = nil
		return r.result
	case <-time.After(waitLimit):
		r.t.Fatalf("Run did not return: %+v", r.Status())
		return nil
	}
}

// behave sets the behaviour of workers that start from now on.
func (r *running) behave(behaviour string) {
	r.t.Helper()
	if err := os.WriteFile(r.behaviour, []byte(behaviour), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// online waits until there are exactly n processes, all online.
func (r *running) online(n int) []control.WorkerStatus {
	r.t.Helper()
	var all []control.WorkerStatus
	eventually(r.t, "all online", func() error {
		all = r.Status().Workers
		for _, w := range all {
			if w.Status != "online" {
				return fmt.Errorf("%+v", all)
			}
		}
		if len(all) != n {
			return fmt.Errorf("%d processes, not %d", len(all), n)
		}
		return nil
	})
	return all
}

// killWorker kills the process of worker n, counted from 0, and waits until the master has removed it.
func (r *running) killWorker(n int) {
	r.t.Helper()
	pid := r.Status().Workers[n].Pid
	signalProcess(r.t, pid, syscall.SIGKILL)
	eventually(r.t, "removal of the killed process", func() error {
		if all := r.Status().Workers; slices.Contains(pids(all), pid) {
			return fmt.Errorf("%+v", all)
		}
		return nil
	})
}

func (r *running) url(path string) string {
	return fmt.Sprintf("http://127.0.0.1:%d%s", r.Port(), path)
}

func (r *running) Restart() error { return r.Order(r.t.Context(), control.Restart, 0) }

func (r *running) Scale(count int) error { return r.Order(r.t.Context(), control.Scale, count) }

// get sends a request on a new connection and returns the body and the pid of the process that answered.
func get(t *testing.T, url string) (body string, pid int) {
	t.Helper()
	body, pid, err := request(url)
	if err != nil {
		t.Fatal(err)
	}
	return body, pid
}

var noKeepAlive = http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: waitLimit}

func request(url string) (body string, pid int, err error) {
	answer, err := noKeepAlive.Get(url)
	if err != nil {
		return "", 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, text)
	}
	pid, _ = strconv.Atoi(answer.Header.Get("X-Pid"))
	return string(text), pid, err
}

func pids(all []control.WorkerStatus) (pids []int) {
	for _, w := range all {
		pids = append(pids, w.Pid)
	}
	return pids
}

// awaitExit waits until no process has the pid, not even a zombie.
func awaitExit(t *testing.T, pid int) {
	t.Helper()
	eventually(t, fmt.Sprintf("end of process %d", pid), func() error {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("the process still exists: %v", err)
		}
		return nil
	})
}

func signalProcess(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatalf("kill -%d %d: %v", s, pid, err)
	}
}
