package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
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
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shirou/gopsutil/v4/process"

	"balanza/e2e/proctree"
	"balanza/e2e/testenv"
)

// managed is a server of `balanza run` in the foreground, and its home.
type managed struct {
	*server
	port   string
	mark   string
	record string // the file of the POSTs that server.js has got
}

// needPrograms skips the test where one of the programs is not there.
func needPrograms(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			testenv.SkipOrFail(t, err)
		}
	}
}

// testProgram is the path of a program of testdata.
func testProgram(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", "programs", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// newManaged prepares a home and a port.
func newManaged(t *testing.T) *managed {
	t.Helper()
	home := t.TempDir()
	log, err := os.Create(filepath.Join(home, "output"))
	if err != nil {
		t.Fatal(err)
	}
	m := &managed{
		server: &server{t: t, home: home, log: log}, port: testenv.FreePort(t),
		mark: filepath.Base(home) + strconv.Itoa(os.Getpid()) + t.Name(), record: filepath.Join(home, "record"),
	}
	m.url = "http://127.0.0.1:" + m.port
	t.Cleanup(func() {
		m.end(syscall.SIGTERM)
		for _, pid := range m.left() { // of a test that failed
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if t.Failed() {
			t.Logf("output:\n%s", tail(m.output(), 6000))
		}
	})
	return m
}

func (m *managed) output() string {
	content, _ := os.ReadFile(m.log.Name())
	return string(content)
}

// balanza is server.balanza with the variables that the programs read.
func (m *managed) balanza(args ...string) *exec.Cmd {
	cmd := m.server.balanza(args...)
	cmd.Env = append(cmd.Env, "MARK="+m.mark, "RECORD="+m.record)
	return cmd
}

// run starts `balanza run` with these arguments and waits until all instances are online.
func (m *managed) run(args ...string) {
	m.t.Helper()
	m.launch(args...)
	m.awaitOnline(1)
}

// launch starts `balanza run` with these arguments.
func (m *managed) launch(args ...string) {
	m.t.Helper()
	m.cmd = m.balanza(append([]string{"run"}, args...)...)
	m.cmd.Stdout, m.cmd.Stderr = m.log, m.log
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
}

// left are the pids of the processes with the test's mark, but for the commands of Balanza itself.
func (m *managed) left() (pids []int) {
	all, err := process.Pids()
	if err != nil {
		m.t.Error(err)
	}
	for _, pid := range all {
		environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err == nil && slices.Contains(strings.Split(string(environment), "\x00"), "MARK="+m.mark) && proctree.Exited(int(pid)) != nil {
			pids = append(pids, int(pid))
		}
	}
	return pids
}

// checkNothingLeft fails unless all processes have ended, and the port is free, within 3 s.
func (m *managed) checkNothingLeft() {
	m.t.Helper()
	began := time.Now()
	var left []int
	for left = m.left(); len(left) > 0 && time.Since(began) < 3*time.Second; left = m.left() {
		time.Sleep(20 * time.Millisecond)
	}
	for _, pid := range left {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		m.t.Errorf("process %d is left after 3 s: %s", pid, bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
	}
	ln, err := net.Listen("tcp", "127.0.0.1:"+m.port)
	if err != nil {
		m.t.Errorf("the port is not free: %v", err)
		return
	}
	ln.Close()
}

// get sends a GET on a new connection and returns the answer's body.
func (m *managed) get(path string) (string, error) { return whole(noKeepAlive.Get(m.url + path)) }

// whole returns the text of a response, without the white space around it. A response that is cut off is an error, and so is a
// status other than 200.
func whole(response *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	return strings.TrimSpace(string(text)), err
}

func (m *managed) mustGet(path string) string {
	m.t.Helper()
	text, err := m.get(path)
	if err != nil {
		m.t.Fatal(err)
	}
	return text
}

// pids are those of the programs.
func (m *managed) pids() (pids []int) {
	for _, w := range m.onlyServer().Workers {
		pids = append(pids, w.Pid)
	}
	return pids
}

// The instances of a server that knows only $PORT get the same number of requests.
func TestRunSharesRequestsEvenly(t *testing.T) {
	t.Parallel()
	needPrograms(t, "node")
	m := newManaged(t)
	m.run("-i", "3", "--port", m.port, "--", "node", testProgram(t, "server.js"))
	counts := map[string]int{}
	for range 300 {
		counts[m.mustGet("/")]++
	}
	for _, pid := range m.pids() {
		if n := counts[strconv.Itoa(pid)]; n != 100 {
			t.Errorf("%d got %d of 300 requests: %v", pid, n, counts)
		}
	}
	var servers []struct{ Workers []struct{ Requests int } }
	out, err := m.balanza("ps", "--json").Output()
	if err == nil {
		err = json.Unmarshal(out, &servers)
	}
	if err != nil || len(servers) != 1 || len(servers[0].Workers) != 3 || servers[0].Workers[0].Requests != 100 {
		t.Errorf("ps says %+v, %v", servers, err)
	}
}

// programLoad sends requests one after the other on kept connections, POSTs with a text that no other has, and counts failures.
type programLoad struct {
	stop            chan struct{}
	wg              sync.WaitGroup
	mu              sync.Mutex
	answered        int
	failedGets      []string
	postsUnanswered int
}

func startProgramLoad(m *managed, posts bool) *programLoad {
	l := &programLoad{stop: make(chan struct{})}
	for i := range 4 {
		client := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
		l.wg.Go(func() {
			defer client.CloseIdleConnections()
			for n := 0; ; n++ {
				select {
				case <-l.stop:
					return
				default:
				}
				post := posts && i%2 == 1
				var err error
				if post {
					_, err = whole(client.Post(m.url+"/", "text/plain", strings.NewReader(fmt.Sprintf("%d-%d", i, n))))
				} else {
					_, err = whole(client.Get(m.url + "/"))
				}
				l.mu.Lock()
				switch {
				case err == nil:
					l.answered++
				case post:
					l.postsUnanswered++
				default:
					l.failedGets = append(l.failedGets, err.Error())
				}
				l.mu.Unlock()
			}
		})
	}
	return l
}

// await waits for n more answers.
func (l *programLoad) await(t *testing.T, n int) {
	t.Helper()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.answered
	}
	end := count() + n
	eventually(t, "answers", func() error {
		if now := count(); now < end {
			return fmt.Errorf("%d of %d", now, end)
		}
		return nil
	})
}

// unansweredPosts is how many POSTs got no answer: those that an instance had when it was killed, which are not sent again.
func (l *programLoad) unansweredPosts() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.postsUnanswered
}

// checkPosts fails when more POSTs than those got no answer.
func (l *programLoad) checkPosts(t *testing.T, allowed int) {
	t.Helper()
	if n := l.unansweredPosts(); n > allowed {
		t.Errorf("%d POSTs got no answer", n-allowed)
	}
}

func (l *programLoad) end() {
	close(l.stop)
	l.wg.Wait()
}

// Reloads, kills of instances and scales lose no GET, and no POST is carried out twice.
func TestRunLosesNothing(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, needs string
		command     []string
		posts       bool
	}{
		{"node", "node", []string{"node", testProgram(t, "server.js")}, true},
		{"python3 -m http.server", "python3", []string{"python3", "-m", "http.server", "$PORT"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			needPrograms(t, test.needs)
			m := newManaged(t)
			m.run(append([]string{"-i", "3", "--port", m.port, "--"}, test.command...)...)
			name := test.needs
			l := startProgramLoad(m, test.posts)
			for range 20 {
				l.await(t, 20)
				m.mustRun("reload", name)
			}
			l.checkPosts(t, 0)
			for n := range 10 {
				l.await(t, 20)
				sendSignal(t, m.pids()[n%3], syscall.SIGKILL)
				m.awaitRestarts(name, n+1)
			}
			killed := l.unansweredPosts()
			for _, n := range []int{1, 4} {
				l.await(t, 20)
				m.mustRun("scale", fmt.Sprintf("%s=%d", name, n))
			}
			l.await(t, 20)
			l.end()
			l.checkPosts(t, killed)
			if len(l.failedGets) > 0 {
				t.Errorf("%d GETs failed, the first: %s", len(l.failedGets), l.failedGets[0])
			}
			record, _ := os.ReadFile(m.record)
			posts := strings.Fields(string(record))
			slices.Sort(posts)
			if once := slices.Compact(slices.Clone(posts)); len(once) != len(posts) {
				t.Errorf("%d POSTs were carried out twice", len(posts)-len(once))
			}
			if test.posts && len(posts) == 0 {
				t.Error("no POST arrived")
			}
			t.Logf("%d answers, %d POSTs carried out, %d without an answer", l.answered, len(posts), l.postsUnanswered)
		})
	}
}

// An order to end reaches all of a wrapper's group, and what still answers a request is waited for.
func TestRunWaitsForTheWholeGroup(t *testing.T) {
	t.Parallel()
	needPrograms(t, "node")
	for _, flags := range [][]string{nil, {"--port"}} {
		m := newManaged(t)
		script := fmt.Sprintf("sleep 1000 & trap ended=1 TERM; until [ $ended ]; do sleep 0.1; done; sleep 1.5; echo finished >> %s; true", m.record)
		args := []string{"--name", "wrapped"}
		if flags != nil {
			script = fmt.Sprintf("node %s; true", testProgram(t, "server.js"))
			args = append(args, "--port", m.port)
		}
		m.run(append(args, "--", "sh", "-c", script)...)
		if flags == nil {
			m.end(syscall.SIGTERM)
			if text, _ := os.ReadFile(m.record); string(text) != "finished\n" {
				t.Errorf("the wrapper's work was cut off: %q", text)
			}
		} else {
			answers := make(chan error, 1)
			go func() {
				_, err := whole(noKeepAlive.Post(m.url+"/?delay=1500", "text/plain", strings.NewReader("arrived")))
				answers <- err
			}()
			eventually(t, "the request is in flight", func() error {
				_, err := os.Stat(m.record)
				return err
			})
			m.mustRun("delete", "wrapped")
			if err := <-answers; err != nil {
				t.Errorf("the request in flight: %v", err)
			}
		}
		m.checkNothingLeft()
	}
}

// Whatever a program starts ends with it, however it or its master ends.
func TestRunLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	needPrograms(t, "node", "python3", "setsid")
	server := "node " + testProgram(t, "server.js")
	programs := map[string][]string{
		"wrapper":               {"sh", "-c", server + "; true"},
		"wrapper in background": {"sh", "-c", server + " & wait"},
		"setsid":                {"sh", "-c", "setsid " + server + " & sleep 1000"},
		"ignores TERM":          {"sh", "-c", "trap '' TERM; (trap '' TERM; while :; do sleep 1; done) & " + server + "; true"},
		"daemon":                {"python3", testProgram(t, "daemon.py"), "stay"},
	}
	ends := map[string]func(m *managed){
		"delete":           func(m *managed) { m.mustRun("delete", "any") },
		"kill of master":   func(m *managed) { m.end(syscall.SIGKILL) },
		"kill of instance": func(m *managed) { m.killInstances(); m.mustRun("delete", "any") },
		"second signal": func(m *managed) {
			_ = m.cmd.Process.Signal(syscall.SIGTERM)
			time.Sleep(50 * time.Millisecond)
			m.end(syscall.SIGTERM)
		},
	}
	for name, command := range programs {
		for how, end := range ends {
			t.Run(name+", "+how, func(t *testing.T) {
				m := newManaged(t)
				m.run(append([]string{"--name", "any", "--stop-timeout", "1s", "--port", m.port, "--"}, command...)...)
				if len(m.left()) < 2 {
					t.Fatalf("only processes %v", m.left())
				}
				end(m)
				m.checkNothingLeft()
			})
		}
	}
}

// killInstances kills the parents of the programs, as a lack of memory may.
func (m *managed) killInstances() {
	m.t.Helper()
	for _, pid := range proctree.Children(m.t, m.cmd.Process.Pid) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	time.Sleep(200 * time.Millisecond)
}

// A program that goes into the background by itself is told what to do, and leaves nothing.
func TestRunTellsADaemoniser(t *testing.T) {
	t.Parallel()
	needPrograms(t, "python3")
	m := newManaged(t)
	out, err := m.balanza("run", "-d", "--name", "daemon", "--port", m.port, "--", "python3", testProgram(t, "daemon.py")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "foreground") {
		t.Errorf("%v: %s", err, out)
	}
	m.checkNothingLeft()
}

// A server that a managed program starts in the background is a master of its own: it stays.
func TestRunInBackgroundByAProgramStays(t *testing.T) {
	t.Parallel()
	needPrograms(t, "sh")
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	m := newManaged(t)
	m.launch("--name", "deploy", "--", "sh", "-c",
		fmt.Sprintf("BALANZA_HOME=%s %s run -d --name inner -- sleep 1000; sleep 1000", m.home, path))
	m.awaitOnline(2)
	m.mustRun("restart", "deploy")
	m.mustRun("delete", "deploy")
	if now := m.awaitOnline(1); now["inner"].Status != "online" {
		t.Errorf("%+v", now)
	}
	m.mustRun("delete", "inner")
	m.checkNothingLeft()
}

// Reload and restart look the folder and the program up anew, by the path that the user named. One that fails leaves the old
// program serving.
func TestRunFollowsTheNamedPath(t *testing.T) {
	t.Parallel()
	needPrograms(t, "python3")
	for _, how := range []string{"PWD", "--cwd"} {
		for _, bound := range []bool{true, false} {
			m := newManaged(t)
			current := filepath.Join(m.home, "current")
			link := func(release string) {
				dir := filepath.Join(m.home, release)
				script := fmt.Sprintf("#!/bin/sh\necho %s > %s\nexec python3 -m http.server %s\n", release, m.record, "${PORT:-"+m.port+"}")
				if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "serve"), []byte(script), 0o755),
					os.WriteFile(filepath.Join(dir, "release"), []byte(release), 0o644)); err != nil {
					t.Fatal(err)
				}
				_ = os.Remove(current)
				if err := os.Symlink(dir, current); err != nil {
					t.Fatal(err)
				}
			}
			link("one")
			args := []string{"run", "--name", "site", "--host", "127.0.0.1"}
			if bound {
				args = append(args, "--port", m.port)
			}
			if how == "--cwd" {
				args = append(args, "--cwd", "current")
			}
			m.cmd = m.balanza(append(args, "--", "./serve")...)
			if how == "PWD" {
				m.cmd.Dir = current
				m.cmd.Env = append(m.cmd.Env, "PWD="+current)
			}
			m.cmd.Stdout, m.cmd.Stderr = m.log, m.log
			if err := m.cmd.Start(); err != nil {
				t.Fatal(err)
			}
			m.awaitOnline(1)
			expect := func(release string) {
				t.Helper()
				eventually(t, release, func() error {
					text, err := m.get("/release")
					if err == nil && text != release {
						err = fmt.Errorf("release %s answers", text)
					}
					return err
				})
			}
			expect("one")
			link("two")
			if bound {
				m.mustRun("reload", "site")
			} else {
				m.mustRun("restart", "site")
			}
			expect("two")
			if err := os.RemoveAll(filepath.Join(m.home, "two")); err != nil {
				t.Fatal(err)
			}
			out, err := m.balanza("restart", "site").CombinedOutput()
			if err == nil || strings.Count(string(out), "\n") > 2 {
				t.Errorf("%s, %v: a restart without the program: %v, %s", how, bound, err, out)
			}
			if status := m.ps()["site"].Status; status != "online" {
				t.Errorf("%s, %v: %s after a restart that failed", how, bound, status)
			}
			if response, err := noKeepAlive.Get(m.url); err != nil {
				t.Errorf("%s, %v: the old program does not answer: %v", how, bound, err)
			} else {
				response.Body.Close()
			}
			link("three")
			m.mustRun("restart", "site")
			expect("three")
			m.end(syscall.SIGTERM)
			m.checkNothingLeft()
		}
	}
}
