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

	"go.mongodb.org/mongo-driver/x/mongo/driver/connstring"

	"balanza/e2e/testenv"
)

// The test binary is also the programs that the tests run: balanza itself, and a server that is not ours.
const roleVariable = "TEST_ROLE_OF_BALANZA"

// nameServerVariable is the address of the name server that balanza asks.
const nameServerVariable = "TEST_NAME_SERVER"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "balanza":
		if address := os.Getenv(nameServerVariable); address != "" {
			net.DefaultResolver = testenv.Resolver(func() string { return address })
		}
		main()
	case "server":
		externalServer()
	default:
		os.Exit(m.Run())
	}
}

// externalServer takes its socket as systemd hands it over and answers with its process number.
func externalServer() {
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

// home is a BALANZA_HOME and a working folder for the servers of one test.
type home struct {
	t   *testing.T
	dir string // BALANZA_HOME
	cwd string
}

func newHome(t *testing.T) *home {
	t.Helper()
	dir, err := os.MkdirTemp("", "bz") // short: a socket's path must fit
	if err != nil {
		t.Fatal(err)
	}
	h := &home{t: t, dir: dir, cwd: t.TempDir()}
	t.Cleanup(func() {
		h.run("delete")
		os.RemoveAll(dir)
	})
	return h
}

func (h *home) command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir = h.cwd
	cmd.Env = append(os.Environ(), roleVariable+"=balanza", "BALANZA_HOME="+h.dir, "MONGODB_URI=", "LC_ALL=C")
	return cmd
}

// run runs balanza to its end and returns what it output and its exit status.
func (h *home) run(args ...string) (out, errs string, status int) {
	h.t.Helper()
	var o, e bytes.Buffer
	cmd := h.command(args...)
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	defer time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() }).Stop() // a server that should not have started
	if err := cmd.Wait(); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			h.t.Fatal(err)
		}
		status = exit.ExitCode()
	}
	return o.String(), e.String(), status
}

// must runs balanza and fails the test unless it succeeds.
func (h *home) must(args ...string) string {
	h.t.Helper()
	out, errs, status := h.run(args...)
	if status != 0 {
		h.t.Fatalf("balanza %s: exit status %d: %s", strings.Join(args, " "), status, errs)
	}
	return out
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func TestBadInputIsOneLineAndStatus2(t *testing.T) {
	t.Parallel()
	h := newHome(t)
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

		"run --env-file /dev/null/x -- true": "/dev/null/x",
		"run --env-file /dev/null -- true":   "no regular file",
	} {
		t.Run(args, func(t *testing.T) {
			out, errs, status := h.run(strings.Fields(args)...)
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

func TestBadSettingIsOneLineAndStatus2(t *testing.T) {
	h := newHome(t)
	for _, setting := range [][2]string{
		{"BALANZA_SERVICE", strings.Repeat("x", 65)}, {"BALANZA_SERVICE", "a\nb"}, {"BALANZA_MACHINE", "a\xff"},
		{"BALANZA_LOG_FORMAT", "yaml"}, {"BALANZA_LOG_FILES", "-1"}, {"BALANZA_LOG_SIZE", "-1"}, {"BALANZA_KEEP_MESSAGES", "1h"}, {"BALANZA_KEEP_MESSAGES", "-48h"}, {"BALANZA_KEEP_MESSAGES", "x"},
		{"BALANZA_TRUSTED_PROXIES", "10.0.0.300"}, {"BALANZA_TRUSTED_PROXIES", "nginx,http://nginx"},
	} {
		t.Run(setting[0]+"="+setting[1], func(t *testing.T) {
			t.Setenv(setting[0], setting[1])
			_, errs, status := h.run("--p", "0")
			if status != exitUsage || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, setting[0]) {
				t.Errorf("exit status %d, stderr %q", status, errs)
			}
		})
	}
}

func TestEverySpellingOfTheCoursesCommands(t *testing.T) {
	for _, args := range [][]string{
		{"--p", "8085", "--m", "CLUSTER"}, {"-p", "8085", "-m", "cluster"}, {"--port=8085", "--modo=Cluster"},
		{"-port", "8085", "--mode", "CLUSTER"}, {"--p=8085", "-modo", "CLUSTER", "-i", "max"},
	} {
		var p program
		root := p.root()
		if err := root.ParseFlags(doubleHyphens(root, args)); err != nil {
			t.Errorf("%q: %v", args, err)
		}
		if s := p.settings; s.Port != 8085 || s.Mode != clusterMode {
			t.Errorf("%q: port %d, mode %s", args, s.Port, s.Mode)
		}
	}
}

func TestFlagsStandBeforeEnvironmentBeforeDotEnv(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	if err := os.WriteFile(filepath.Join(h.cwd, ".env"), []byte("BALANZA_PORT=1111\nBALANZA_NAME=dotenv\nBALANZA_MODE=quick\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The bad mode of .env is reported, with its variable, unless the environment stands before it.
	if _, errs, status := h.run("ps"); status != exitUsage || !strings.Contains(errs, "BALANZA_MODE") {
		t.Errorf("status %d, stderr %q", status, errs)
	}
	cmd := h.command("ps")
	cmd.Env = append(cmd.Env, "BALANZA_MODE=fork")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, output)
	}
}

func TestUpPsScaleReloadDown(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	shift := "17000"
	output := h.must("up", "-d", "--shift", shift)
	if !strings.Contains(output, "http://localhost:25000") {
		t.Errorf("up output %q", output)
	}
	table := h.must("ps")
	for _, name := range []string{"edge", "fork", "cluster", "online", "WATCHING"} {
		if !strings.Contains(table, name) {
			t.Errorf("ps does not show %s:\n%s", name, table)
		}
	}
	if _, errs, status := h.run("up", "-d", "--shift", shift); status != exitFailure || !strings.Contains(errs, "running already") {
		t.Errorf("a second up: status %d, %q", status, errs)
	}
	h.must("scale", "cluster=3")
	if table := h.must("ps", "cluster"); !strings.Contains(table, "worker 3") {
		t.Errorf("after scale:\n%s", table)
	}
	if _, errs, status := h.run("scale", "fork=2"); status != exitFailure || !strings.Contains(errs, "CLUSTER") {
		t.Errorf("scale of a FORK server: status %d, %q", status, errs)
	}
	h.must("reload")
	h.must("restart", "25080")
	h.must("stop", "cluster")
	if table := h.must("ps", "cluster"); !strings.Contains(table, "stopped") {
		t.Errorf("after stop:\n%s", table)
	}
	// The cluster was the only server of the numbers: the edge says so, clearly.
	eventually(t, "503 without a server", func() bool {
		answer, err := http.Get("http://127.0.0.1:25000/api/randoms?cant=10")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusServiceUnavailable
	})
	h.must("start", "cluster")
	eventually(t, "an answer after start", func() bool {
		answer, err := http.Get("http://127.0.0.1:25000/api/randoms?cant=10")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK && answer.Header.Get("X-Balanza-Server") == "cluster"
	})
	if lines := h.must("logs", "-n", "5", "fork"); !strings.Contains(lines, "worker ready") {
		t.Errorf("logs: %q", lines)
	}
	h.must("down")
	if output := h.must("ps"); !strings.Contains(output, "nothing runs") {
		t.Errorf("after down: %s", output)
	}
}

func TestRunClustersAnyProgram(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	port := testenv.FreePort(t)
	cmd := h.command("run", "-d", "--socket", "-i", "2", "--name", "api", "--port", port, "--", "/usr/bin/env", roleVariable+"=server", os.Args[0])
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
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
	eventually(t, "both processes answer", ask)
	h.must("reload", "api")
	h.must("stop", "api")
	if table := h.must("ps"); !strings.Contains(table, "stopped") {
		t.Errorf("after stop:\n%s", table)
	}
	h.must("start", "api")
	h.must("save")
	h.must("delete", "api")
	h.must("resurrect")
	if table := h.must("ps"); !strings.Contains(table, "worker 2") {
		t.Errorf("after resurrect:\n%s", table)
	}
}

func TestStartInTheBackgroundSaysWhyItFails(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	_, errs, status := h.run("run", "-d", "--name", "none", "--port", testenv.FreePort(t), "--", "/bin/false")
	if status != exitFailure || !strings.Contains(errs, "none") || strings.Count(errs, "\n") != 1 {
		t.Errorf("status %d, %q", status, errs)
	}
	if table := h.must("ps"); !strings.Contains(table, "nothing runs") {
		t.Errorf("the server that failed is still listed:\n%s", table)
	}
}

func TestDamagedStateIsAnErrorAndIsLeftAlone(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	port := testenv.FreePort(t)
	h.must("start", "--p", port, "--name", "one")
	h.must("save")
	h.must("save") // the first list becomes the backup
	path := filepath.Join(h.dir, "saved.json")
	complete, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, complete[:len(complete)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, status := h.run("resurrect"); status != exitFailure || !strings.Contains(errs, "damaged") {
		t.Errorf("status %d, %q", status, errs)
	}
	if backup, err := os.ReadFile(path + ".bak"); err != nil || !bytes.Equal(backup, complete) {
		t.Errorf("backup: %v, %q", err, backup)
	}
	if half, _ := os.ReadFile(path); !bytes.Equal(half, complete[:len(complete)/2]) {
		t.Error("the damaged file was touched")
	}
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
	// The driver reads any password as it is written in the file.
	for _, password := range []string{"a b", "a+b", "%41", "a:/?#[]@b", "ñ&=;"} {
		parsed, err := connstring.Parse(withPassword("mongodb://u@h/x", password))
		if err != nil || parsed.Password != password {
			t.Errorf("%q became %+v, %v", password, parsed, err)
		}
	}
}
