package workers

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"balanza/e2e/load"
	"balanza/e2e/proctree"
	"balanza/services/workers/control"
)

// startRequest starts a request that lasts until finish is called, which checks that the response is complete. pid is the
// process that answers.
func (r *running) startRequest() (pid int, finish func()) {
	r.t.Helper()
	file := filepath.Join(r.t.TempDir(), "go")
	answer, err := noKeepAlive.Get(r.url("/until?file=" + url.QueryEscape(file)))
	if err != nil {
		r.t.Fatal(err)
	}
	in := bufio.NewReader(answer.Body)
	if line, err := in.ReadString('\n'); err != nil || line != "waiting\n" {
		r.t.Fatalf("%q, %v", line, err)
	}
	_, _ = fmt.Sscan(answer.Header.Get("X-Pid"), &pid)
	finish = sync.OnceFunc(func() {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			r.t.Error(err)
		}
		rest, err := io.ReadAll(in)
		if err != nil || string(rest) != "done\n" {
			r.t.Errorf("the long request: %q, %v", rest, err)
		}
		answer.Body.Close()
	})
	r.t.Cleanup(finish)
	return pid, finish
}

func TestReloadsLoseNothing(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t, 2))
	config := loadConfig(r.Port(), 6)
	var responders sync.Map // the X-Pid of each response
	config.Check = func(response *http.Response) error {
		responders.Store(response.Header.Get("X-Pid"), true)
		return checkResponse(response)
	}
	l := load.Start(t, config)
	for range 50 {
		l.AwaitResponses(t, 5)
		if err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	l.Stop()
	l.CheckFailures(t, 0)
	processes := 0
	for range responders.Range {
		processes++
	}
	if processes < 50 {
		t.Errorf("only %d processes answered", processes)
	}
	for _, w := range r.online(2) {
		if w.Generation != 51 || w.Restarts != 0 {
			t.Errorf("after 50 reloads: %+v", w)
		}
	}
}

func TestScaleLosesNothing(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t, 2))
	l := startLoad(t, r.Port(), 6)
	for _, n := range []int{5, 1, 3, 2, 4, 1} {
		if err := r.Scale(n); err != nil {
			t.Fatal(err)
		}
		r.online(n)
		l.AwaitResponses(t, 20)
	}
	l.Stop()
	l.CheckFailures(t, 0)
	for _, n := range []int{0, MaxWorkers + 1} {
		if err := r.Scale(n); err == nil {
			t.Errorf("scaled to %d", n)
		}
	}
	r.behave("exit")
	if err := r.Scale(3); err == nil || !strings.Contains(err.Error(), "exit as ordered") {
		t.Errorf("scaled up by a worker that does not start: %v", err)
	}
	r.behave("")
	r.online(1)
}

// While its successor does not get ready, the old worker serves, and the error has the cause.
func TestReloadFails(t *testing.T) {
	t.Parallel()
	symlink := filepath.Join(t.TempDir(), "worker")
	script := func(text string, mode os.FileMode) func() {
		return func() {
			if err := os.Remove(symlink); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(symlink, []byte(text), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	self, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, symlink); err != nil {
		t.Fatal(err)
	}
	s := testConfig(t, 2)
	s.Path, s.ReadyTimeout = symlink, 4*time.Second
	r := start(t, s)
	before := pids(r.online(2))
	for _, c := range []struct {
		name, cause string
		breakWorker func()
	}{
		{"exits", "exit as ordered", func() { r.behave("exit") }},
		{"panics", "panic: panic as ordered", func() { r.behave("panic") }},
		{"hangs", "not ready after 4s", func() { r.behave("hang") }},
		{"exits silently", "exit status 3", script("#!/bin/sh\nexit 3\n", 0o700)},
		{"is no program", "exec format error", script("nothing", 0o700)},
		{"may not be run", "permission denied", script("#!/bin/sh\nexit 0\n", 0o600)},
		{"is missing", "no such file", func() {
			if err := os.Remove(symlink); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.breakWorker()
			if err := r.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), c.cause) {
				t.Errorf("reload: %v, not %q", err, c.cause)
			}
			if after := pids(r.online(2)); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("the workers were %v and are %v", before, after)
			}
			get(t, r.url("/"))
		})
	}
	// After a crash the code that served runs again, although its path does not exist any more.
	r.behave("")
	r.killWorker(0)
	if now := r.online(2); now[0].Restarts != 1 || now[0].Generation != 1 {
		t.Errorf("after a crash: %+v", now[0])
	}
	// The same after a restart that fails.
	if err := r.Restart(); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("restart: %v", err)
	}
	r.online(2)
}

func TestRestart(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t, 2))
	before := r.online(2)
	if err := r.Restart(); err != nil {
		t.Fatal(err)
	}
	for i, w := range r.online(2) {
		if w.Pid == before[i].Pid || w.Restarts != 1 || w.Generation != 2 {
			t.Errorf("%+v became %+v", before[i], w)
		}
	}
}

func TestConcurrentReloads(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t, 2))
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if err := r.Reload(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, w := range r.online(2) {
		if w.Generation != 11 {
			t.Errorf("after ten reloads: %+v", w)
		}
	}
}

// A reload does not wait for the requests in flight that the reload before it left to the old process.
func TestReloadDuringDrain(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t, 1))
	first, finishFirst := r.startRequest()
	var reloads sync.WaitGroup
	reload := func(generation string) {
		reloads.Go(func() {
			if err := r.Reload(t.Context()); err != nil {
				t.Error(err)
			}
		})
		eventually(t, "the new code", func() error {
			answer, err := noKeepAlive.Get(r.url("/"))
			if err != nil {
				return err
			}
			answer.Body.Close()
			if g := answer.Header.Get("X-Generation"); g != generation {
				return fmt.Errorf("generation %s answers", g)
			}
			return nil
		})
	}
	reload("2")
	var second int
	var finishSecond func()
	eventually(t, "the old process accepts no more", func() error {
		if second, finishSecond = r.startRequest(); second == first {
			finishSecond()
			return errors.New("it accepted a request")
		}
		return nil
	})
	reload("3")
	if got := len(r.Status().Workers); got != 3 {
		t.Errorf("%d processes, not 3: %+v", got, r.Status().Workers)
	}
	finishFirst()
	finishSecond()
	reloads.Wait()
	awaitExit(t, first)
	awaitExit(t, second)
	r.online(1)
}

func TestStopDuringReload(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t, 2))
	r.behave("hang")
	reload := make(chan error, 1)
	go func() { reload <- r.Reload(t.Context()) }()
	eventually(t, "successor", func() error {
		for _, w := range r.Status().Workers {
			if w.Status == "starting" {
				return nil
			}
		}
		return errors.New("no worker is starting")
	})
	if err := r.stopped(); err != nil {
		t.Error(err)
	}
	if err := <-reload; !errors.Is(err, ErrStopping) {
		t.Errorf("the reload: %v", err)
	}
}

// When a worker and its successor are killed together, a new worker starts.
func TestWorkerAndSuccessorDieDuringReload(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t, 1))
	for range 5 {
		r.behave("hang")
		reload := make(chan error, 1)
		go func() { reload <- r.Reload(t.Context()) }()
		var both []control.WorkerStatus
		eventually(t, "successor", func() error {
			if both = r.Status().Workers; len(both) != 2 {
				return fmt.Errorf("%+v", both)
			}
			return nil
		})
		r.behave("")
		for _, w := range both {
			signalProcess(t, w.Pid, syscall.SIGKILL)
		}
		<-reload // it fails, unless the successor was ready before
		for _, w := range both {
			awaitExit(t, w.Pid)
		}
		r.online(1)
		get(t, r.url("/"))
	}
}

// A symbolic link is moved to a new release, and the old release is deleted. After a crash the old code runs again; a reload
// starts the new code.
func TestReleaseReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	symlink := filepath.Join(dir, "current")
	release := func(name string) {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		binary, err := os.ReadFile(os.Args[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "worker"), binary, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(name, symlink+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(symlink+".new", symlink); err != nil {
			t.Fatal(err)
		}
	}
	release("one")
	s := testConfig(t, 1)
	s.Path = filepath.Join(symlink, "worker")
	r := start(t, s)
	release("two")
	if err := os.RemoveAll(filepath.Join(dir, "one")); err != nil {
		t.Fatal(err)
	}
	r.killWorker(0)
	r.online(1)
	if exe, _ := get(t, r.url("/exe")); !strings.Contains(exe, "/one/") {
		t.Errorf("after a crash %s runs", exe)
	}
	if err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exe, _ := get(t, r.url("/exe")); exe != filepath.Join(dir, "two", "worker") {
		t.Errorf("after the reload %s runs", exe)
	}
}

func TestReloadsDoNotLeak(t *testing.T) {
	r := start(t, testConfig(t, 1))
	reload := func(n int) {
		for range n {
			if err := r.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	descriptors := func() int { return proctree.Descriptors(t, os.Getpid()) }
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	reload(10)
	wantDescriptors, wantGoroutines, before := descriptors(), runtime.NumGoroutine(), heap()
	reload(40)
	eventually(t, "as many as before", func() error {
		if now := heap(); now > before+256<<10 {
			return fmt.Errorf("%d KiB of heap, before %d", now>>10, before>>10)
		}
		if d, g := descriptors(), runtime.NumGoroutine(); d > wantDescriptors || g > wantGoroutines {
			return fmt.Errorf("%d descriptors, before %d; %d goroutines, before %d", d, wantDescriptors, g, wantGoroutines)
		}
		return nil
	})
	if left := proctree.Children(t, os.Getpid()); len(left) != 1 {
		t.Errorf("child processes: %v", left)
	}
}

// With one request for each connection, no worker gets more than 125 % of its share.
func TestRequestsAreSpreadEvenly(t *testing.T) {
	r := start(t, testConfig(t, 4))
	const clients, requests = 8, 2000
	counts := map[string]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for range requests / clients {
				answer, err := noKeepAlive.Get(r.url("/"))
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, answer.Body)
				answer.Body.Close()
				if answer.StatusCode != http.StatusOK {
					t.Error(answer.Status)
				}
				mu.Lock()
				counts[answer.Header.Get("X-Pid")]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Log(counts)
	for pid, n := range counts {
		if n*4*100 > requests*125 {
			t.Errorf("worker %s got %d of %d", pid, n, requests)
		}
	}
	if len(counts) != 4 {
		t.Errorf("%d workers answered", len(counts))
	}
}
