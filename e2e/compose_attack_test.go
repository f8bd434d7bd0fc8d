package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// allAttacksTime is how long all attackers go on: as long as BALANZA_TEST_ATTACK says, or for a minute.
func allAttacksTime(t *testing.T) time.Duration {
	text := os.Getenv("BALANZA_TEST_ATTACK")
	if text == "" {
		return time.Minute
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("BALANZA_TEST_ATTACK: %v", err)
	}
	return d
}

// testAttackers lets two hostile clients, one with an account, each in a container with an address of its own, do all that
// package attack knows, while a victim uses the site. The victim's requests all succeed, no container exceeds its memory or is
// started again, and nginx takes no server for failed.
func testAttackers(t *testing.T, s *stack) {
	s.compose(t, "up", "--detach", "--wait")
	s.awaitNginx(t)
	began := time.Now()
	program := buildAttacker(t, s)
	session := "Cookie: " + newUser(t, composeHTTP, "victim").cookies(composeHTTP)
	attacker := newUser(t, composeHTTP, "attacker")
	var visits []visit
	for _, path := range []string{"/", "/info", "/api/productos", "/api/randoms?cant=1000"} {
		visits = append(visits, visit{http.MethodGet, path, "", []int{http.StatusOK}})
	}
	v := startVictim(composeHTTP, visits, session)
	time.Sleep(5 * time.Second)
	v.end(t)

	restarts := s.restarts(t)
	attackers := map[string][]string{
		composeProject + "-anonymous": {"anonymous", "nginx:80"},
		composeProject + "-account":   {"account", "nginx:80", attacker.author.ID, password},
	}
	// The processor time that they take themselves is none of their attack: on two processors the stack keeps three quarters.
	for container, args := range attackers {
		defer func() { _, _ = s.command("docker", "rm", "--force", container).CombinedOutput() }()
		s.docker(t, append([]string{"run", "--detach", "--stop-signal", "TERM", "--name", container, "--network", composeProject + "_front",
			"--memory", "1g", "--cpus", "0.25", "--volume", program + ":/attacker:ro", "--entrypoint", "/attacker", "nginx:1.30"}, args...)...)
	}
	var watching sync.WaitGroup
	peaks := make(map[string]float64)
	done := make(chan struct{})
	watching.Go(func() { s.watchMemory(peaks, done) })
	v = startVictim(composeHTTP, visits, session)
	time.Sleep(allAttacksTime(t))
	v.end(t)
	close(done)
	watching.Wait()
	t.Logf("highest memory in percent: %v", peaks)
	for container := range attackers {
		s.docker(t, "stop", "--timeout", "30", container)
		opened := strings.TrimSpace(s.docker(t, "logs", container))
		t.Logf("%s opened %s connections", container, opened)
		if n, err := strconv.Atoi(opened); err != nil || n < 1000 {
			t.Errorf("%s opened %q connections: the test proves nothing", container, opened)
		}
	}
	if len(v.times) < 100 {
		t.Errorf("the victim sent %d requests", len(v.times))
	}
	for name, percent := range peaks {
		if percent >= 99 {
			t.Errorf("%s uses %.1f %% of its memory", name, percent)
		}
	}
	if after := s.restarts(t); after != restarts {
		t.Errorf("restarts were\n%s\nand are\n%s", restarts, after)
	}
	s.checkNoServerFailed(t, began)
}

// restarts describes how often each container was started and whether it ran out of memory.
func (s *stack) restarts(t *testing.T) string {
	t.Helper()
	ids := strings.Fields(s.compose(t, "ps", "--quiet"))
	return s.docker(t, append([]string{"inspect", "--format", "{{.Name}} {{.RestartCount}} {{.State.OOMKilled}} {{.State.StartedAt}}"}, ids...)...)
}

// watchMemory keeps the highest memory of each container of the stack, in percent of its limit, until done is closed.
func (s *stack) watchMemory(peaks map[string]float64, done <-chan struct{}) {
	for {
		out, err := exec.Command("docker", "stats", "--no-stream", "--format", "{{.Name}} {{.MemPerc}}").Output()
		for line := range strings.Lines(string(out)) {
			name, percent, _ := strings.Cut(strings.TrimSpace(line), " ")
			value, parsed := strconv.ParseFloat(strings.TrimSuffix(percent, "%"), 64)
			if err == nil && parsed == nil && strings.HasPrefix(name, composeProject) {
				peaks[name] = max(peaks[name], value)
			}
		}
		select {
		case <-done:
			return
		case <-time.After(5 * time.Second):
		}
	}
}
