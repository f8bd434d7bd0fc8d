package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"balanza/e2e/testenv"
)

// nodeServer is a program that answers with the value in value.js, and adds a line to $STARTS at each start. It takes its
// socket or its port, whichever it is given. What follows it is run at each start.
const nodeServer = `
const fs = require('fs')
fs.appendFileSync(process.env.STARTS, process.pid + '\n')
const value = require('./value.js')
const server = require('http').createServer((_, answer) => answer.end(value))
server.listen(process.env.LISTEN_FDS ? { fd: 3 } : process.env.PORT)
process.on('SIGTERM', () => process.exit(0))
`

// watched is a program under balanza run --watch.
type watched struct {
	t      *testing.T
	dir    string // the folder that the command was started in, as it was named
	starts string
	port   string
	output *buffer
}

// watchNode runs server.js of a folder with the flags.
func watchNode(t *testing.T, dir string, flags ...string) *watched {
	t.Helper()
	return watchProgram(t, dir, []string{"node", "server.js"}, flags...)
}

func watchProgram(t *testing.T, dir string, program []string, flags ...string) *watched {
	t.Helper()
	if _, err := exec.LookPath(program[0]); err != nil {
		t.Skip(err)
	}
	h := newHome(t)
	w := &watched{t: t, dir: dir, starts: filepath.Join(t.TempDir(), "starts"), port: testenv.FreePort(t), output: &buffer{}}
	args := append([]string{"run", "--watch", "-i", "1", "--name", "watched", "--port", w.port}, flags...)
	cmd := h.command(append(append(args, "--"), program...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, w.output, w.output
	cmd.Env = append(cmd.Env, "STARTS="+w.starts, "PWD="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("output: %s", w.output)
		}
	})
	eventually(t, "the first answer", func() bool { return w.answer() != "" })
	eventually(t, "the watcher", func() bool { return strings.Contains(w.output.String(), `"watching"`) })
	time.Sleep(500 * time.Millisecond) // the first scan
	return w
}

func (w *watched) answer() string {
	answer, err := http.Get("http://127.0.0.1:" + w.port)
	if err != nil {
		return ""
	}
	defer answer.Body.Close()
	content, _ := io.ReadAll(answer.Body)
	if answer.StatusCode != http.StatusOK {
		return ""
	}
	return string(content)
}

func (w *watched) expect(value string) {
	w.t.Helper()
	eventually(w.t, "the answer "+value, func() bool { return w.answer() == value })
}

// started is how often the program was started.
func (w *watched) started() int {
	content, _ := os.ReadFile(w.starts)
	return bytes.Count(content, []byte("\n"))
}

// tree writes files, whose content follows their path, below dir.
func tree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func symlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil { // as ln -sfn does
		t.Fatal(err)
	}
}

func value(v string) string { return fmt.Sprintf("module.exports = %q", v) }

func TestWatchSeesEveryFolder(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		make func(dir string) (start, edited string) // where the program starts, and the value's file
	}{
		"a plain one": {func(dir string) (string, string) { return dir, "value.js" }},
		"a symbolic link": {func(dir string) (string, string) {
			tree(t, dir, map[string]string{"real/server.js": nodeServer, "real/value.js": value("1")})
			symlink(t, "real", filepath.Join(dir, "link"))
			return filepath.Join(dir, "link"), "real/value.js"
		}},
		"one below a symbolic link": {func(dir string) (string, string) {
			tree(t, dir, map[string]string{"real/app/server.js": nodeServer, "real/app/value.js": value("1")})
			symlink(t, "real", filepath.Join(dir, "link"))
			return filepath.Join(dir, "link", "app"), "real/app/value.js"
		}},
		"with a link to a folder elsewhere": {func(dir string) (string, string) {
			tree(t, dir, map[string]string{"app/server.js": nodeServer, "app/value.js": `module.exports = require('./lib/v.js')`, "shared/v.js": value("1")})
			symlink(t, "../shared", filepath.Join(dir, "app/lib"))
			symlink(t, "..", filepath.Join(dir, "app/circle"))
			symlink(t, ".", filepath.Join(dir, "shared/circle"))
			return filepath.Join(dir, "app"), "shared/v.js"
		}},
		"with a link to a file elsewhere": {func(dir string) (string, string) {
			tree(t, dir, map[string]string{"app/server.js": nodeServer, "elsewhere/value.js": value("1")})
			symlink(t, "../elsewhere/value.js", filepath.Join(dir, "app/value.js"))
			return filepath.Join(dir, "app"), "elsewhere/value.js"
		}},
		"a [strange] * name?": {func(dir string) (string, string) {
			tree(t, dir, map[string]string{"a [1-9] *?{x,y}/server.js": nodeServer, "a [1-9] *?{x,y}/b [*] c/v.js": value("1"),
				"a [1-9] *?{x,y}/value.js": `module.exports = require('./b [*] c/v.js')`})
			return filepath.Join(dir, "a [1-9] *?{x,y}"), "a [1-9] *?{x,y}/b [*] c/v.js"
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of the time is spent waiting
			dir := t.TempDir()
			tree(t, dir, map[string]string{"server.js": nodeServer, "value.js": value("1")})
			start, edited := c.make(dir)
			w := watchNode(t, start)
			w.expect("1")
			tree(t, dir, map[string]string{edited: value("2")})
			w.expect("2")
			tree(t, dir, map[string]string{edited: value("3")})
			w.expect("3")
		})
	}
}

func TestWatchFollowsACurrentRelease(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, release := range []string{"1", "2"} {
		tree(t, filepath.Join(dir, release), map[string]string{"server.js": nodeServer, "value.js": value(release), "sub/a.js": ""})
	}
	current := filepath.Join(dir, "current")
	symlink(t, "1", current)
	w := watchNode(t, current)
	before := w.started()
	symlink(t, "2", current)
	eventually(t, "a reload for the new release", func() bool { return w.started() == before+1 })
	time.Sleep(2 * time.Second) // the scan after the reload
	tree(t, filepath.Join(dir, "1"), map[string]string{"value.js": value("old")})
	time.Sleep(2 * time.Second)
	tree(t, filepath.Join(dir, "2"), map[string]string{"sub/a.js": "changed"})
	eventually(t, "a reload for the change in the new release", func() bool { return w.started() >= before+2 })
	time.Sleep(2 * time.Second)
	if n := w.started() - before; n != 2 {
		t.Errorf("%d reloads, want 2: the old release is watched too", n)
	}
}

func TestWatchWaitsForAFolderThatIsAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	app := filepath.Join(dir, "app")
	tree(t, app, map[string]string{"server.js": nodeServer, "value.js": value("1")})
	w := watchNode(t, app)
	if err := os.Rename(app, app+".away"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a line about it", func() bool { return strings.Contains(w.output.String(), "the folder can't be watched") })
	if err := os.Rename(app+".away", app); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a line about the return", func() bool { return strings.Contains(w.output.String(), "watching again") })
	tree(t, app, map[string]string{"value.js": value("2")})
	w.expect("2")
}

func TestWatchIgnores(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tree(t, dir, map[string]string{
		"server.js": nodeServer, "value.js": value("1"), ".gitignore": "*.out\n/dist/\n", "sub/.gitignore": "made/\n!keep.out\n",
		"vendor/own/a.js": "",
	})
	if output, err := exec.Command("git", "init", "-q", dir).CombinedOutput(); err != nil {
		t.Skipf("git: %v: %s", err, output)
	}
	tree(t, dir, map[string]string{".git/info/exclude": "private/\n"})
	w := watchNode(t, dir, "--watch-ignore", "*.csv", "--watch-ignore", "/uploads/", "--watch-ignore", "!vendor/")
	before := w.started()
	for _, name := range []string{
		"a.out", "sub/b.out", "dist/a.js", "sub/made/a.js", "private/a.js", "node_modules/a/index.js", "sub/node_modules/a.js", "coverage/a.js",
		".git/HEAD.lock", "a.csv", "sub/b.csv", "uploads/a.jpg", "a.log", ".a.js.swp", "__pycache__/a.pyc",
	} {
		tree(t, dir, map[string]string{name: "1"})
		time.Sleep(20 * time.Millisecond)
		tree(t, dir, map[string]string{name: "2"})
	}
	time.Sleep(2 * time.Second)
	if n := w.started() - before; n != 0 {
		t.Fatalf("%d reloads for files that are ignored", n)
	}
	for i, name := range []string{"sub/dist/a.js", "sub/keep.out", "sub/uploads/a.jpg", "vendor/own/a.js", "new folder/a.js", "value.js"} {
		tree(t, dir, map[string]string{name: value("2")})
		eventually(t, "a reload for "+name, func() bool { return w.started() == before+i+1 })
		time.Sleep(1500 * time.Millisecond)
	}
	w.expect("2")
}

// Each program writes into its own folder in its way, and would be restarted every second or two.
func TestAProgramThatWritesIntoItsFolderIsNotRestartedForEver(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code string
		most int    // starts
		edit string // a file that the program writes, and a person may edit
	}{
		"a file at each start": {
			code: `fs.writeFileSync('state.json', JSON.stringify({ pid: process.pid }))`, most: 12, edit: "state.json",
		},
		"a new file at each start": {code: `fs.writeFileSync('report-' + process.pid + '.txt', 'x')`, most: 12},
		"a build at each start": {
			code: `fs.rmSync('build', { recursive: true, force: true }); fs.mkdirSync('build')
			       for (const n of ['a', 'b', 'c']) fs.writeFileSync('build/' + n + '.js', String(Date.now()))`, most: 12, edit: "build/a.js",
		},
		"an open file, all the time": {
			code: `const out = fs.createWriteStream('activity.txt', { flags: 'a' }); setInterval(() => out.write('x\n'), 50)`, most: 1,
		},
		"a file again and again": {code: `setInterval(() => fs.appendFileSync('activity.txt', 'x\n'), 300)`, most: 12},
		"a file every second":    {code: `setInterval(() => fs.writeFileSync('activity.txt', String(Date.now())), 1000)`, most: 12},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of the time is spent waiting
			dir := t.TempDir()
			tree(t, dir, map[string]string{"server.js": nodeServer + c.code, "value.js": value("1")})
			w := watchNode(t, dir)
			starts, since := w.started(), time.Now()
			eventually(t, "five seconds without a restart, and a line that says why", func() bool {
				if n := w.started(); n != starts {
					starts, since = n, time.Now()
				}
				return time.Since(since) > 5*time.Second && strings.Contains(w.output.String(), "the program writes this itself") &&
					strings.Contains(w.output.String(), "--watch-ignore")
			})
			if starts > c.most {
				t.Errorf("%d starts, want at most %d", starts, c.most)
			}
			tree(t, dir, map[string]string{"value.js": value("2")})
			w.expect("2")
			if c.edit == "" {
				return
			}
			time.Sleep(5 * time.Second)
			starts = w.started()
			tree(t, dir, map[string]string{c.edit: "edited"})
			eventually(t, "a restart for the edit of "+c.edit, func() bool { return w.started() > starts })
		})
	}
}

// Two programs that keep their data in a file beside their code, as beginners' do.
func TestADatabaseInTheWatchedFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tree(t, dir, map[string]string{"server.py": `
import http.server, os, signal, socket, sqlite3, sys
open(os.environ["STARTS"], "a").write("x\n")
db = sqlite3.connect("app.data", isolation_level=None)
db.execute("create table if not exists visits (n integer)")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        db.execute("insert into visits values (1)")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *args):
        print(*args, file=open("visits.txt", "a"))
inherited = "LISTEN_FDS" in os.environ
server = http.server.HTTPServer(("127.0.0.1", int(os.environ.get("PORT", 0))), Handler, bind_and_activate=not inherited)
if inherited:
    server.socket = socket.socket(fileno=3)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
server.serve_forever()
`})
	w := watchProgram(t, dir, []string{"python3", "server.py"}, "--watch-ignore", "visits.txt")
	eventually(t, "a start at rest", func() bool {
		before := w.started()
		time.Sleep(3 * time.Second)
		return w.started() == before
	})
	before := w.started()
	for range 20 {
		w.answer()
		time.Sleep(150 * time.Millisecond)
	}
	time.Sleep(time.Second)
	if n := w.started() - before; n != 0 {
		t.Errorf("%d restarts for 20 requests that write into a database", n)
	}
}

// The source is a copy, which the test can break.
func TestStartWatchesInTheBackground(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "services"), os.DirFS("..")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		tree(t, dir, map[string]string{name: string(content)})
	}
	binary := filepath.Join(dir, "balanza")
	build := exec.Command("go", "build", "-o", binary, "./services/balanza")
	build.Dir = dir
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	h := newHome(t)
	port := testenv.FreePort(t)
	balanza := func(args ...string) (string, error) {
		cmd := h.command(args...)
		cmd.Path, cmd.Args[0], cmd.Dir = binary, binary, dir
		output, err := cmd.CombinedOutput()
		return string(output), err
	}
	broken := map[string]string{"services/draw/added.go": "package draw\n\nfunc broken( {\n"}

	tree(t, dir, broken)
	flags := []string{"start", "--p", port, "--m", "CLUSTER", "-i", "1", "--name", "own", "--watch", "--watch-ignore", "*.txt", "--watch-ignore", "/a b/"}
	output, err := balanza(flags...)
	if err == nil || strings.Count(output, "\n") != 1 || !strings.Contains(output, "added.go:3:14: syntax error") {
		t.Errorf("a start with a source that does not compile: %v, %q", err, output)
	}

	tree(t, dir, map[string]string{"services/draw/added.go": "package draw\n"})
	if output, err := balanza(flags...); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	if table := h.must("ps", "own"); !strings.Contains(table, "yes") {
		t.Errorf("not watching:\n%s", table)
	}
	if command := h.must("describe", "own"); !strings.Contains(command, "*.txt") || !strings.Contains(command, "/a b/") {
		t.Errorf("describe does not show the patterns:\n%s", command)
	}
	tree(t, dir, broken)
	eventually(t, "the compiler's error in the server's log", func() bool {
		log := h.must("logs", "-n", "50", "own")
		return strings.Contains(log, "build failed") && strings.Contains(log, "added.go:3:14: syntax error")
	})
	h.must("healthcheck", "--p", port) // the old code serves
	tree(t, dir, map[string]string{"services/draw/added.go": "package draw\n\nvar _ = 1\n", "notes.txt": "x", "a b/x.go": "package x"})
	eventually(t, "the second generation", func() bool { return strings.Contains(h.must("ps", "--json", "own"), `"generation": 2`) })
}

// In the background a stopped server stays stopped, and one that ended with an error starts when its program is repaired.
func TestWatchStartsARepairedServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tree(t, dir, map[string]string{"server.js": nodeServer, "value.js": value("1")})
	h := newHome(t)
	w := &watched{t: t, starts: filepath.Join(t.TempDir(), "starts"), port: testenv.FreePort(t)}
	cmd := h.command("run", "-d", "--watch", "-i", "1", "--name", "app", "--port", w.port, "--", "node", "server.js")
	cmd.Dir, cmd.Env = dir, append(cmd.Env, "STARTS="+w.starts)
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	w.expect("1")
	h.must("stop", "app")
	before := w.started()
	tree(t, dir, map[string]string{"value.js": "throw new Error('broken')"})
	eventually(t, "the change", func() bool { return strings.Contains(h.must("logs", "-n", "50", "app"), "files changed") })
	time.Sleep(time.Second)
	if table := h.must("ps"); w.started() != before || !strings.Contains(table, "stopped") {
		t.Errorf("%d starts of a stopped server:\n%s", w.started()-before, table)
	}
	if _, errs, status := h.run("start", "app"); status != exitFailure {
		t.Fatalf("a broken program starts: %s", errs)
	}
	eventually(t, "the end with an error", func() bool { return strings.Contains(h.must("ps"), "errored") })
	tree(t, dir, map[string]string{"value.js": value("3")})
	w.expect("3")
	if log := h.must("logs", "-n", "200", "app"); strings.Contains(log, "reload failed") {
		t.Errorf("an error that is none:\n%s", log)
	}
}

func TestBadPatternsAreOneLineAndStatus2(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	for _, args := range [][]string{
		{"run", "--watch-ignore", "*.csv", "--", "/bin/true"}, {"start", "--p", "1", "--watch-ignore", "*.csv"}, {"--watch-ignore", "*.csv"},
		{"run", "--watch", "--watch-ignore", "[a", "--", "/bin/true"}, {"run", "--watch", "--watch-ignore", "", "--", "/bin/true"},
	} {
		_, errs, status := h.run(args...)
		if status != exitUsage || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, "--watch") {
			t.Errorf("%q: status %d, %q", args, status, errs)
		}
	}
}
