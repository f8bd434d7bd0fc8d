package workers

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"balanza/services/workers/control"
)

// updatable makes a server's configuration one whose updates are the argument that its workers get, and their number.
// The worker whose argument is exit does not start.
func updatable(t *testing.T, n int) Config {
	t.Helper()
	c := testConfig(t, n)
	launch := c.Launch
	behaviour := behaviourVariable + "=" + c.ControlDir + "/behaviour" // as run has it
	c.ParseUpdate = func(change json.RawMessage) (Launch, error) {
		var arg string
		l := launch
		if _, err := fmt.Sscan(strings.Trim(string(change), `"`), &arg, &l.Count); err != nil {
			return Launch{}, errors.New("bad change")
		}
		l.Args, l.Metadata.Command = []string{arg}, []string{arg}
		l.Env = []string{behaviour, argVariable + "=" + arg}
		return l, nil
	}
	return c
}

// args returns the argument of each worker's process, as the kernel has it.
func (r *running) args() (all []string) {
	for _, w := range r.online(r.Status().Instances) {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", w.Pid))
		if err != nil {
			r.t.Fatal(err)
		}
		_, arg, _ := strings.Cut(strings.TrimSuffix(string(line), "\x00"), "\x00")
		all = append(all, arg)
	}
	return all
}

// An update moves the workers to another launch, and to another number of them, without losing a request. Crashes,
// reloads and new workers have that launch from then on.
func TestUpdateLosesNothing(t *testing.T) {
	t.Parallel()
	r := start(t, updatable(t, 2))
	client := control.NewClient(r.ControlDir, r.Name)
	l := startLoad(t, r.Port(), 6)
	for i, n := range []int{2, 4, 1, 1, 3, 2} {
		arg := fmt.Sprint("v", i)
		if err := client.Update(t.Context(), fmt.Sprint(arg, " ", n)); err != nil {
			t.Fatal(err)
		}
		want := slices.Repeat([]string{arg}, n)
		if got := r.args(); !slices.Equal(got, want) {
			t.Errorf("arguments %q, want %q", got, want)
		}
		if st := r.Status(); st.Instances != n || !slices.Equal(st.Command, []string{arg}) {
			t.Errorf("status %+v", st)
		}
		l.AwaitResponses(t, 20)
	}
	l.Stop()
	l.CheckFailures(t, 0)
	r.killWorker(0)
	r.online(2)
	if err := errors.Join(r.Reload(t.Context()), r.Scale(3)); err != nil {
		t.Fatal(err)
	}
	if got := r.args(); !slices.Equal(got, []string{"v5", "v5", "v5"}) {
		t.Errorf("after a crash, a reload and a scale: %q", got)
	}
}

// After an update that fails the launch before is in force: for those that serve, for successors of crashed ones, and for
// workers that were already replaced.
func TestUpdateFails(t *testing.T) {
	t.Parallel()
	r := start(t, updatable(t, 2))
	update := func(change string) error {
		return r.Update(t.Context(), json.RawMessage(fmt.Sprintf("%q", change)))
	}
	if err := update("old 2"); err != nil {
		t.Fatal(err)
	}
	before := pids(r.online(2))
	l := startLoad(t, r.Port(), 4)
	for _, change := range []string{"exit 2", "exit 4", "exit 1"} {
		if err := update(change); err == nil || !strings.Contains(err.Error(), "exit as ordered") {
			t.Errorf("%s: %v", change, err)
		}
		if after := pids(r.online(2)); !slices.Equal(before, after) {
			t.Errorf("%s: the workers %v were replaced by %v", change, before, after)
		}
	}
	// The second worker fails when the first one has been replaced, and so does one that is added.
	for behaviour, change := range map[string]string{"exit 2": "new 2", "exit 3": "new 3"} {
		r.behave(behaviour)
		if err := update(change); err == nil || !strings.Contains(err.Error(), "exit as ordered") {
			t.Errorf("%s: %v", change, err)
		}
		r.behave("")
		if got := r.args(); !slices.Equal(got, []string{"old", "old"}) {
			t.Errorf("%s: arguments %q", change, got)
		}
		l.AwaitResponses(t, 20)
	}
	l.Stop()
	l.CheckFailures(t, 0)
	for n := range 2 {
		r.killWorker(n)
		if got := r.args(); !slices.Equal(got, []string{"old", "old"}) {
			t.Errorf("after a crash: arguments %q", got)
		}
	}
	for change, want := range map[string]string{"x 0": "workers: 0", "x 101": "workers: 101", "x": "bad change"} {
		if err := update(change); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", change, err)
		}
	}
	if st := r.Status(); st.Instances != 2 || !slices.Equal(st.Command, []string{"old"}) {
		t.Errorf("status %+v", st)
	}
}

// The predecessor dies while its successor, of another launch, fails: the slot gets the launch in force again.
func TestWorkerDiesDuringUpdateThatFails(t *testing.T) {
	t.Parallel()
	r := start(t, updatable(t, 1))
	old := r.online(1)[0].Pid
	ended := make(chan error, 1)
	go func() { ended <- r.Update(t.Context(), json.RawMessage(`"hang 1"`)) }()
	successor := 0
	eventually(t, "the successor", func() error {
		for _, w := range r.Status().Workers {
			if w.Pid != old && w.Pid != 0 {
				successor = w.Pid
				return nil
			}
		}
		return errors.New("not yet")
	})
	r.killWorker(0)
	signalProcess(t, successor, syscall.SIGKILL)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "did not get ready") {
		t.Errorf("the update: %v", err)
	}
	if got := r.args(); !slices.Equal(got, []string{""}) {
		t.Errorf("arguments %q", got)
	}
	if _, err := http.Get(r.url("/")); err != nil {
		t.Error(err)
	}
}

// A server without ParseUpdate can't be updated, and one that is stopped has no workers to update.
func TestUpdateRefused(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t, 1))
	if err := r.Update(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "can't be updated") {
		t.Error(err)
	}
	c := updatable(t, 1)
	c.KeepStopped = true
	r = start(t, c)
	if err := r.Order(t.Context(), control.Stop, 0); err != nil {
		t.Fatal(err)
	}
	if err := r.Update(t.Context(), json.RawMessage(`"x 1"`)); err == nil || !strings.Contains(err.Error(), "stopped") {
		t.Error(err)
	}
}
