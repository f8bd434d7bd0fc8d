package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
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

	"balanza/e2e/load"
	"balanza/e2e/proctree"
	"balanza/e2e/testenv"
	"balanza/services/serverfile"
	"balanza/services/workers/control"
)

// declaredNode and declaredPython answer with the variable VERSION and their first argument; with the argument fail they do not
// start. They end requests in flight before they end.
const (
	declaredNode = `
if (process.argv[2] === 'fail') throw new Error('no such option');
const server = require('http').createServer((q, s) => s.end(process.env.VERSION + ' ' + process.argv[2] + ' ' + process.cwd()));
server.listen(process.env.PORT);
console.log('node started');
process.on('SIGTERM', () => server.close());
`
	declaredPython = `
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        body = (os.environ.get('VERSION', '') + ' ' + sys.argv[1] + ' ' + os.getcwd()).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
print('python started', flush=True)
http.server.ThreadingHTTPServer(('', int(os.environ['PORT'])), Handler).serve_forever()
`
)

// stack is a folder with a balanza.yaml and the programs that it names.
type stack struct {
	*home
	file         string
	front, store string // ports
}

func newStack(t *testing.T) *stack {
	t.Helper()
	for _, tool := range []string{"node", "python3"} {
		if _, err := exec.LookPath(tool); err != nil {
			testenv.SkipOrFail(t, err)
		}
	}
	h := newHome(t)
	s := &stack{home: h, file: filepath.Join(h.cwd, "balanza.yaml"), front: testenv.FreePort(t), store: testenv.FreePort(t)}
	s.put("server.js", declaredNode)
	s.put("store/server.py", declaredPython)
	return s
}

func (s *stack) put(name, content string) {
	s.t.Helper()
	path := filepath.Join(s.cwd, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
		s.t.Fatal(err)
	}
}

// write writes balanza.yaml: the node server web, which depends on the python server store.
func (s *stack) write(version, webArgument, storeArgument string, instances int) {
	s.put("balanza.yaml", fmt.Sprintf(`
servers:
  web:
    command: node server.js %s
    port: %s
    instances: %d
    env: {VERSION: %s}
    ready: {path: /}
    depends_on: [store]
  store:
    command: [python3, server.py, %q]
    cwd: store
    port: %s
`, webArgument, s.front, instances, version, storeArgument, s.store))
}

func (s *stack) get(port string) string {
	s.t.Helper()
	answer, err := http.Get("http://127.0.0.1:" + port)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: %s, %v", answer.Status, body, err)
	}
	return string(body)
}

func (s *stack) status(name string) control.Status {
	s.t.Helper()
	st, err := control.NewClient(filepath.Join(s.dir, "run"), name).Status(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// descendants are a process and all that it has started.
func descendants(t *testing.T, pid int) []int {
	t.Helper()
	all := []int{pid}
	for _, child := range proctree.Children(t, pid) {
		all = append(all, descendants(t, child)...)
	}
	return all
}

// lockedBuffer is a buffer that may be read while a process writes.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// lines returns the lines of an output, sorted.
func lines(output string) []string { return slices.Sorted(strings.Lines(output)) }

// The servers of a file are started, changed under load without losing a request, and ended with all that they started.
func TestUpFile(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.write("1", "a", "x", 2)
	onlineWeb, onlineStore := "web: online on port "+s.front+"\n", "store: online on port "+s.store+"\n"
	if output := s.must("up", "-f", "balanza.yaml", "-d"); output != onlineStore+onlineWeb {
		t.Errorf("output %q", output)
	}
	storeDir, err := filepath.EvalSymlinks(filepath.Join(s.cwd, "store"))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.get(s.store); got != " x "+storeDir {
		t.Errorf("the store answers %q", got)
	}
	if got := s.get(s.front); !strings.HasPrefix(got, "1 a ") {
		t.Errorf("web answers %q", got)
	}
	if table := s.must("ps"); !strings.Contains(table, "web") || !strings.Contains(table, "store") {
		t.Errorf("ps:\n%s", table)
	}
	if st := s.status("web"); st.Fleet != s.file || len(st.Workers) != 2 {
		t.Errorf("status %+v", st)
	}
	masters := []int{s.status("web").Pid, s.status("store").Pid}

	loads := []*load.Load{}
	for _, port := range []string{s.front, s.store} {
		loads = append(loads, load.Start(t, load.Config{Address: "127.0.0.1:" + port, Clients: 4, Requests: []string{"GET /"}, Timeout: time.Minute}))
	}
	up := func(want ...string) {
		t.Helper()
		for i := range want {
			want[i] += "\n"
		}
		if got := lines(s.must("up", "-d", "--file", s.file)); !slices.Equal(got, want) {
			t.Errorf("output %q, want %q", got, want)
		}
		for _, l := range loads {
			l.AwaitResponses(t, 20)
		}
	}
	up("store: unchanged", "web: unchanged")
	s.write("2", "a", "x", 2)
	up("store: unchanged", "web: updated")
	if got := s.get(s.front); !strings.HasPrefix(got, "2 a ") {
		t.Errorf("web answers %q", got)
	}
	s.write("2", "b", "y", 3)
	up("store: updated", "web: updated")
	if got := s.get(s.front) + s.get(s.store); !strings.HasPrefix(got, "2 b ") || !strings.Contains(got, " y ") {
		t.Errorf("answers %q", got)
	}
	if st := s.status("web"); len(st.Workers) != 3 || st.Command[len(st.Command)-1] != "b" {
		t.Errorf("status %+v", st)
	}
	s.write("2", "b", "y", 1)
	up("store: unchanged", "web: scaled")

	// A version that does not start leaves the old one, and its command for crashes and reloads.
	s.write("2", "fail", "y", 1)
	if _, errs, status := s.run("up", "-f", s.file, "-d"); status != exitFailure || !strings.Contains(errs, "web: worker 1: ") || strings.Count(errs, "\n") != 1 {
		t.Errorf("status %d, %q", status, errs)
	}
	s.must("reload", "web")
	if got := s.get(s.front); !strings.HasPrefix(got, "2 b ") {
		t.Errorf("after an update that failed web answers %q", got)
	}
	s.write("3", "c", "y", 1)
	up("store: unchanged", "web: updated")
	for _, l := range loads {
		l.Stop()
		l.CheckFailures(t, 0)
	}
	if after := []int{s.status("web").Pid, s.status("store").Pid}; !slices.Equal(after, masters) {
		t.Errorf("the masters %v were replaced by %v", masters, after)
	}

	// save writes down what runs since the update.
	s.must("save")
	s.must("down", "-f", s.file)
	s.must("resurrect")
	if got := s.get(s.front); !strings.HasPrefix(got, "3 c ") {
		t.Errorf("after resurrect web answers %q", got)
	}
	if got := s.must("up", "-f", s.file, "-d"); !slices.Equal(lines(got), []string{"store: unchanged\n", "web: unchanged\n"}) {
		t.Errorf("after resurrect: %q", got)
	}

	// What listens elsewhere is started anew, and what the file does not name any more is ended.
	old := s.front
	s.front = testenv.FreePort(t)
	s.write("3", "c", "y", 1)
	output := s.must("up", "-f", s.file, "-d")
	if !strings.Contains(output, "web: online on port "+s.front) || !strings.Contains(output, "store: unchanged") {
		t.Errorf("output %q", output)
	}
	if _, err := http.Get("http://127.0.0.1:" + old); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the old port: %v", err)
	}
	pids := descendants(t, s.status("store").Pid)
	s.put("balanza.yaml", "servers: {web: {command: node server.js c, port: "+s.front+", env: {VERSION: 3}, ready: {path: /}}}")
	if output := s.must("up", "-f", s.file, "-d"); !strings.Contains(output, "delete store") || !strings.Contains(output, "web: unchanged") {
		t.Errorf("output %q", output)
	}
	pids = append(pids, descendants(t, s.status("web").Pid)...)
	s.must("stop", "web")
	if output := s.must("up", "-f", s.file, "-d"); output != "web: online\n" {
		t.Errorf("a server that was stopped: %q", output)
	}
	if output := s.must("down"); !strings.Contains(output, "nothing is up") {
		t.Errorf("down without -f: %q", output)
	}
	if err := os.Remove(s.file); err != nil {
		t.Fatal(err)
	}
	s.must("down", "-f", s.file)
	if output := s.must("ps"); !strings.Contains(output, "nothing runs") {
		t.Errorf("after down: %s", output)
	}
	for _, pid := range append(pids, masters...) {
		eventually(t, fmt.Sprint("end of process ", pid), func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
	}
}

// Without -d, up prints what the servers write, and a signal ends them.
func TestUpFileInTheForeground(t *testing.T) {
	s := newStack(t)
	s.write("1", "a", "x", 1)
	output := &lockedBuffer{}
	cmd := s.command("up", "-f", "balanza.yaml")
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"web: online on port ", "web   | node started", "store | python started"} {
		eventually(t, text, func() bool { return strings.Contains(output.String(), text) })
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, output)
	}
	if text := output.String(); strings.Index(text, "delete web") > strings.Index(text, "delete store") {
		t.Errorf("the order of the end: %s", text)
	}
	if table := s.must("ps"); !strings.Contains(table, "nothing runs") {
		t.Errorf("after the signal:\n%s", table)
	}
}

// A file with a mistake, or one that would change servers of another origin, changes nothing.
func TestUpFileRefused(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	for content, want := range map[string]string{
		"servers:\n  a:\n    command: x\n    prot: 1":                                                    "balanza.yaml:4:5: servers.a.prot",
		"servers:\n  a: {command: sleep 60, depends_on: [b]}\n  b: {command: sleep 60, depends_on: [a]}": "balanza.yaml:3:39: servers.b.depends_on[0]: b depends on a",
		"servers:\n  a: {command: sleep 60}\n  b: {command: sleep 60, depends_on: [c]}":                  "balanza.yaml:3:39: servers.b.depends_on[0]: no server",
		"servers:\n  a: {command: sleep 60, port: 9}\n  b: {command: sleep 60, port: 9}":                 "balanza.yaml:3:32: servers.b.port: 9 is the port of a",
		"servers:\n  a/b: {command: sleep 60}":                                                           `balanza.yaml:2:3: servers: name "a/b"`,
		"servers:\n  a: {command: sleep 60, env_file: none.env}":                                         "a: open ",
	} {
		s.put("balanza.yaml", content)
		out, errs, status := s.run("up", "-f", "balanza.yaml", "-d")
		if status != exitUsage || out != "" || strings.Count(errs, "\n") != 1 || !strings.HasPrefix(errs, "balanza: "+want) {
			t.Errorf("%q: status %d, %q %q", content, status, out, errs)
		}
	}
	for args, want := range map[string]string{
		"up -f none.yaml": "none.yaml", "up -f balanza.yaml --watch": "--watch", "up -f balanza.yaml --shift 3": "--shift", "up -f": "--file",
	} {
		if _, errs, status := s.run(strings.Fields(args)...); status != exitUsage || !strings.Contains(errs, want) {
			t.Errorf("%s: status %d, %q", args, status, errs)
		}
	}
	if table := s.must("ps"); !strings.Contains(table, "nothing runs") {
		t.Errorf("something was started:\n%s", table)
	}
	s.must("run", "-d", "--name", "web", "--port", s.front, "--", "node", "server.js", "mine")
	s.write("1", "a", "x", 1)
	if _, errs, status := s.run("up", "-f", "balanza.yaml", "-d"); status != exitFailure || !strings.Contains(errs, "named web runs") {
		t.Errorf("another server's name: status %d, %q", status, errs)
	}
	s.must("delete", "web")
	s.must("run", "-d", "--name", "other", "--port", s.front, "--", "node", "server.js", "mine")
	if _, errs, status := s.run("up", "-f", "balanza.yaml", "-d"); status != exitFailure || !strings.Contains(errs, "other has port "+s.front) {
		t.Errorf("another server's port: status %d, %q", status, errs)
	}
	if table := s.must("ps"); strings.Contains(table, "store") || !strings.Contains(table, "other") {
		t.Errorf("something was changed:\n%s", table)
	}
}

// A dependent of a server that does not start is not started.
func TestUpFileStartsNoDependentOfAFailure(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.put("balanza.yaml", `servers:
  a: {command: "false"}
  b: {command: sleep 60, depends_on: [a]}
  c: {command: sleep 60}
`)
	out, errs, status := s.run("up", "-f", "balanza.yaml", "-d")
	if status != exitFailure || out != "c: online\n" || !strings.HasPrefix(errs, "balanza: a: ") || !strings.Contains(errs, "b: left as it is, since a failed\n") {
		t.Errorf("status %d, %q, %q", status, out, errs)
	}
	if output := s.must("down", "-f", "balanza.yaml"); !strings.HasPrefix(output, "delete c: done") {
		t.Errorf("down: %q", output)
	}
}

func TestPlanOfUpFile(t *testing.T) {
	t.Parallel()
	parse := func(content string) *serverfile.File {
		f, err := serverfile.Parse("/x/balanza.yaml", []byte(content))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	const server = "servers:\n  a:\n    command: x y\n    port: 9\n    instances: 2\n"
	before := parse(server)
	running := func(status string) []control.Status {
		args := specArgs(before, &before.Servers[0])
		spec, err := specDigest(args, &before.Servers[0])
		if err != nil {
			t.Fatal(err)
		}
		return []control.Status{{
			Name: "a", Port: 9, Status: status, Instances: 2,
			Metadata: control.Metadata{Fleet: "/x/balanza.yaml", Spec: spec, Command: append([]string{"balanza"}, args...)},
		}}
	}
	for _, c := range []struct {
		content, status string
		want            action
	}{
		{server, "online", keep}, {strings.Replace(server, ": 2", ": 3", 1), "stopped", recreate}, {server, "starting", keep}, {server, "stopped", startStopped}, {server, "errored", startStopped},
		{server + "    env: {A: b}", "online", update}, {server + "    env: {A: b}", "stopped", recreate},
		{strings.Replace(server, "x y", "x z", 1), "online", update}, {server + "    cwd: z", "online", update},
		{server + "    max_memory: 1M", "online", update}, {server + "    depends_on: []", "online", keep},
		{strings.Replace(server, ": 2", ": 3", 1), "online", scaling}, {strings.Replace(server, ": 9", ": 8", 1), "online", recreate},
		{strings.Replace(server, "port: 9", "", 1), "online", recreate},
		{server + "    host: 127.0.0.1", "online", recreate}, {server + "    socket: true", "online", recreate}, {server + "    watch: true", "online", recreate},
	} {
		servers, gone, err := planUp(parse(c.content), running(c.status))
		if err != nil || len(gone) > 0 || servers[0].action != c.want {
			t.Errorf("%q, %s: %+v, %v, %v, want action %d", c.content, c.status, servers[0], gone, err, c.want)
		}
	}
	servers, gone, err := planUp(parse("servers: {b: {command: x, port: 9}}"), running("online"))
	if err != nil || len(gone) != 1 || gone[0].Name != "a" || servers[0].action != create {
		t.Errorf("another name for a server: %+v, %v, %v", servers, gone, err)
	}
	if _, _, err := planUp(before, []control.Status{{Name: "a", Status: "unresponsive", Pid: 7}}); err == nil || !strings.Contains(err.Error(), "pid 7") {
		t.Errorf("a server that does not answer: %v", err)
	}
	// Secrets are on no command line.
	secret := parse(server + "    env: {PASSWORD: hunter2}")
	if args := specArgs(secret, &secret.Servers[0]); strings.Contains(fmt.Sprint(args), "hunter2") {
		t.Errorf("arguments %q", args)
	}
	// A file of variables counts by its content.
	path := filepath.Join(t.TempDir(), "env")
	digest := func(content string) string {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		f := parse(server + "    env_file: " + path)
		d, err := specDigest(specArgs(f, &f.Servers[0]), &f.Servers[0])
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if first := digest("A=1"); first == digest("A=2") || first != digest("A=1") {
		t.Error("the digest does not tell the file's content")
	}
}
