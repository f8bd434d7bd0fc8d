package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is also the programs that the tests run: balanza itself, and a server that is not ours.
const actVariable = "BALANZA_TEST_ACT"

func TestMain(m *testing.M) {
	switch os.Getenv(actVariable) {
	case "balanza":
		main()
	case "server":
		foreignServer()
	default:
		os.Exit(m.Run())
	}
}

// foreignServer takes its socket as systemd hands it over and answers with its process number.
func foreignServer() {
	if os.Getenv("LISTEN_PID") != fmt.Sprint(os.Getpid()) || os.Getenv("LISTEN_FDS") != "1" {
		fmt.Fprintln(os.Stderr, "no socket for this process")
		os.Exit(1)
	}
	ln, err := net.FileListener(os.NewFile(3, "socket"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	go func() {
		_ = http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, os.Getpid()) }))
	}()
	<-end
}

// world is a home of its own for the servers of one test.
type world struct {
	t    *testing.T
	home string
	dir  string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	home, err := os.MkdirTemp("", "bz") // short: a socket's path must fit
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, home: home, dir: t.TempDir()}
	t.Cleanup(func() {
		w.run("delete")
		os.RemoveAll(home)
	})
	return w
}

func (w *world) command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), actVariable+"=balanza", "BALANZA_HOME="+w.home, "MONGODB_URI=")
	return cmd
}

// run runs balanza to its end and returns what it said and its exit status.
func (w *world) run(args ...string) (out, errs string, status int) {
	w.t.Helper()
	var o, e bytes.Buffer
	cmd := w.command(args...)
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Run(); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			w.t.Fatal(err)
		}
		status = exit.ExitCode()
	}
	return o.String(), e.String(), status
}

// must runs balanza and fails the test unless it succeeds.
func (w *world) must(args ...string) string {
	w.t.Helper()
	out, errs, status := w.run(args...)
	if status != 0 {
		w.t.Fatalf("balanza %s: exit status %d: %s", strings.Join(args, " "), status, errs)
	}
	return out
}

func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func TestBadInputIsOneLineAndStatus2(t *testing.T) {
	w := newWorld(t)
	for args, names := range map[string]string{
		"--p abc":               "abc",
		"--p 70000":             "70000",
		"-p -1":                 "-1",
		"--m QUICK":             "QUICK",
		"--modo=":               "mode",
		"-i 0":                  "workers",
		"-i many":               "many",
		"--max-memory 5X":       "5X",
		"--nonsense":            "nonsense",
		"--m FORK stray":        "stray",
		"frobnicate":            "frobnicate",
		"up --profile galaxy":   "galaxy",
		"up extra":              "extra",
		"scale":                 "NAME=N",
		"scale cluster=x":       "cluster=x",
		"run --port 9000":       "run takes",
		"edge --p 1":            "",
		"logs -n -4":            "-4",
		"start fork --p 8080":   "not both",
		"--name no/slashes":     "slashes",
		"run -i 2 -- /no/where": "/no/where",
	} {
		t.Run(args, func(t *testing.T) {
			out, errs, status := w.run(strings.Fields(args)...)
			if status != exitUsage {
				t.Errorf("exit status %d, want %d", status, exitUsage)
			}
			if strings.Count(errs, "\n") != 1 || !strings.HasPrefix(errs, "balanza: ") || !strings.Contains(errs, names) {
				t.Errorf("stderr %q: want one line that names %q", errs, names)
			}
			if out != "" {
				t.Errorf("stdout %q", out)
			}
		})
	}
}

func TestEverySpellingOfTheCoursesCommands(t *testing.T) {
	for _, args := range [][]string{
		{"--p", "8085", "--m", "CLUSTER"}, {"-p", "8085", "-m", "cluster"}, {"--port=8085", "--modo=Cluster"},
		{"-port", "8085", "--mode", "CLUSTER"}, {"--p=8085", "-modo", "CLUSTER", "-i", "max"},
	} {
		f := flags("balanza")
		var s settings
		serveFlags(f, &s)
		if err := f.Parse(args); err != nil {
			t.Errorf("%q: %v", args, err)
		}
		if s.Port != 8085 || s.Mode != clusterMode {
			t.Errorf("%q: port %d, mode %s", args, s.Port, s.Mode)
		}
	}
}

func TestFlagsStandBeforeEnvironmentBeforeDotEnv(t *testing.T) {
	w := newWorld(t)
	if err := os.WriteFile(filepath.Join(w.dir, ".env"), []byte("BALANZA_PORT=1111\nBALANZA_NAME=dotenv\nBALANZA_MODE=quick\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The bad mode of .env is reported, with its variable, unless the environment stands before it.
	if _, errs, status := w.run("ps"); status != exitUsage || !strings.Contains(errs, "BALANZA_MODE") {
		t.Errorf("status %d, stderr %q", status, errs)
	}
	cmd := w.command("ps")
	cmd.Env = append(cmd.Env, "BALANZA_MODE=fork")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, said)
	}
}

func TestUpPsScaleReloadDown(t *testing.T) {
	w := newWorld(t)
	shift := "17000"
	said := w.must("up", "-d", "--shift", shift)
	if !strings.Contains(said, "http://localhost:25000") {
		t.Errorf("up said %q", said)
	}
	table := w.must("ps")
	for _, name := range []string{"edge", "fork", "cluster", "online", "WATCHING"} {
		if !strings.Contains(table, name) {
			t.Errorf("ps does not show %s:\n%s", name, table)
		}
	}
	if _, errs, status := w.run("up", "-d", "--shift", shift); status != exitFailure || !strings.Contains(errs, "running already") {
		t.Errorf("a second up: status %d, %q", status, errs)
	}
	w.must("scale", "cluster=3")
	if table := w.must("ps", "cluster"); !strings.Contains(table, "worker 3") {
		t.Errorf("after scale:\n%s", table)
	}
	if _, errs, status := w.run("scale", "fork=2"); status != exitFailure || !strings.Contains(errs, "CLUSTER") {
		t.Errorf("scale of a FORK server: status %d, %q", status, errs)
	}
	w.must("reload")
	w.must("restart", "25080")
	w.must("stop", "cluster")
	if table := w.must("ps", "cluster"); !strings.Contains(table, "stopped") {
		t.Errorf("after stop:\n%s", table)
	}
	// The cluster was the only server of the numbers: the edge says so, clearly.
	within(t, "503 without a server", func() bool {
		answer, err := http.Get("http://127.0.0.1:25000/api/randoms?cant=10")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusServiceUnavailable
	})
	w.must("start", "cluster")
	within(t, "an answer after start", func() bool {
		answer, err := http.Get("http://127.0.0.1:25000/api/randoms?cant=10")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK && answer.Header.Get("X-Balanza-Server") == "cluster"
	})
	if lines := w.must("logs", "-n", "5", "fork"); !strings.Contains(lines, "worker ready") {
		t.Errorf("logs: %q", lines)
	}
	w.must("down")
	if said := w.must("ps"); !strings.Contains(said, "nothing runs") {
		t.Errorf("after down: %s", said)
	}
}

func TestRunClustersAnyProgram(t *testing.T) {
	w := newWorld(t)
	port := freePort(t)
	cmd := w.command("run", "-d", "-i", "2", "--name", "api", "--port", port, "--", "/usr/bin/env", actVariable+"=server", os.Args[0])
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	pids := map[string]bool{}
	ask := func() bool {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
		answer, err := client.Get("http://127.0.0.1:" + port)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		var b bytes.Buffer
		_, _ = b.ReadFrom(answer.Body)
		pids[b.String()] = true
		return len(pids) >= 2
	}
	within(t, "both processes answer", ask)
	w.must("reload", "api")
	w.must("stop", "api")
	if table := w.must("ps"); !strings.Contains(table, "stopped") {
		t.Errorf("after stop:\n%s", table)
	}
	w.must("start", "api")
	w.must("save")
	w.must("delete", "api")
	w.must("resurrect")
	if table := w.must("ps"); !strings.Contains(table, "worker 2") {
		t.Errorf("after resurrect:\n%s", table)
	}
}

func TestStartInTheBackgroundSaysWhyItFails(t *testing.T) {
	w := newWorld(t)
	_, errs, status := w.run("run", "-d", "--name", "none", "--port", freePort(t), "--", "/bin/false")
	if status != exitFailure || !strings.Contains(errs, "none") || strings.Count(errs, "\n") != 1 {
		t.Errorf("status %d, %q", status, errs)
	}
	if table := w.must("ps"); !strings.Contains(table, "nothing runs") {
		t.Errorf("what failed is still there:\n%s", table)
	}
}

func TestDamagedStateIsRefusedAndKept(t *testing.T) {
	w := newWorld(t)
	port := freePort(t)
	w.must("start", "--p", port, "--name", "one")
	w.must("save")
	w.must("save") // what was there becomes the backup
	path := filepath.Join(w.home, "saved.json")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, status := w.run("resurrect"); status != exitFailure || !strings.Contains(errs, "damaged") {
		t.Errorf("status %d, %q", status, errs)
	}
	if backup, err := os.ReadFile(path + ".bak"); err != nil || !bytes.Equal(backup, whole) {
		t.Errorf("backup: %v, %q", err, backup)
	}
	if half, _ := os.ReadFile(path); !bytes.Equal(half, whole[:len(whole)/2]) {
		t.Error("the damaged file was touched")
	}
}

func TestOutputNeverWaits(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close() // nobody reads
	s := newSink(writer)
	line := bytes.Repeat([]byte("x"), 1000)
	for range 3 * sinkLines {
		s.put(line) // would hang here
	}
	s.mu.Lock()
	dropped := s.dropped
	s.mu.Unlock()
	if dropped == 0 {
		t.Error("a pipe that nobody reads took everything")
	}
	s.close()
}

func TestTailFollowsRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	write := func(text string) {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	write("one\ntwo\nthree\n")
	lines := make(chan string, 10)
	go tail(t.Context(), path, 2, true, func(l []byte) { lines <- string(l) })
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-lines:
			if got != want {
				t.Fatalf("%q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no line; want %q", want)
		}
	}
	expect("two")
	expect("three")
	write("four\n")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write("five\n")
	expect("four")
	expect("five")
}

func TestPasswordGoesOnlyWhereOneIsMissing(t *testing.T) {
	for uri, want := range map[string]string{
		"mongodb://balanza@mongo:27017/balanza":    "mongodb://balanza:p%40ss@mongo:27017/balanza",
		"mongodb://u@a:1,b:2/x?replicaSet=rs":      "mongodb://u:p%40ss@a:1,b:2/x?replicaSet=rs",
		"mongodb+srv://u:own@cluster.example/x":    "mongodb+srv://u:own@cluster.example/x",
		"mongodb://localhost:27017/?appName=a@b.c": "mongodb://localhost:27017/?appName=a@b.c",
	} {
		if got := withPassword(uri, "p@ss"); got != want {
			t.Errorf("%s: %s, want %s", uri, got, want)
		}
	}
}
