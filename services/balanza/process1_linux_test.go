package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"balanza/e2e/proctree"
	"balanza/e2e/testenv"
)

// infoOf is the /info of a server on this machine.
func infoOf(t *testing.T, port string) (info struct {
	Pid, Worker int
	Mode        string
}) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	answer, err := client.Get("http://127.0.0.1:" + port + "/info?format=json")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&info); err != nil {
		t.Fatal(err)
	}
	return info
}

// Where FORK is process 1, as in a container, its master replaces the process that serves when that hangs: nobody else does.
func TestForkAsProcess1IsReplacedWhenItHangs(t *testing.T) {
	t.Parallel()
	namespace := []string{"unshare", "--pid", "--fork", "--mount-proc", "--kill-child"}
	if out, err := exec.Command(namespace[0], append(namespace[1:], "true")...).CombinedOutput(); err != nil {
		testenv.SkipOrFail(t, fmt.Errorf("making a PID namespace: %w: %s", err, out))
	}
	h := newHome(t)
	port := testenv.FreePort(t)
	serve := h.command("--p", port, "--m", "FORK", "--name", "one")
	cmd := exec.Command(namespace[0], append(namespace[1:], serve.Args...)...)
	cmd.Dir, cmd.Env = serve.Dir, append(serve.Env, "BALANZA_HEARTBEAT_TIMEOUT=1s")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	eventually(t, "the server is healthy", func() bool { _, _, status := h.run("healthcheck", "--p", port); return status == 0 })
	before := infoOf(t, port)
	if before.Pid == 1 || before.Mode != "FORK" || before.Worker != 0 {
		t.Errorf("/info says %+v", before)
	}
	master := proctree.Children(t, cmd.Process.Pid)[0]
	workers := proctree.Children(t, master)
	if len(workers) != 1 {
		t.Fatalf("the master has the processes %v", workers)
	}
	proctree.Stop(t, workers[0])
	if after := infoOf(t, port); after.Pid == before.Pid || after.Mode != "FORK" {
		t.Errorf("the process that was stopped, %d, answers: %+v", before.Pid, after)
	}
	if out := h.must("ps", "--json"); !strings.Contains(out, `"restarts": 1`) {
		t.Errorf("ps: %s", out)
	}
}

// The workers of a master that hangs serve on, but the health check fails, since the master replaces none of them.
func TestHealthcheckFailsWhenTheMasterHangs(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	port := testenv.FreePort(t)
	h.must("start", "--p", port, "--m", "CLUSTER", "-i", "1", "--name", "one")
	h.must("healthcheck", "--p", port)
	pid := h.masterPid("one")
	proctree.Stop(t, pid)
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	if _, errs, status := h.run("healthcheck", "--p", port); status != exitFailure || !strings.Contains(errs, fmt.Sprintf("the master of one (pid %d) does not answer", pid)) {
		t.Errorf("status %d: %s", status, errs)
	}
	infoOf(t, port)
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	h.must("healthcheck", "--p", port)
}
