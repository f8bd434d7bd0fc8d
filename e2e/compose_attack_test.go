package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"balanza/e2e/attack"
)

// allAttacksTime is how long all attackers go on: as long as BALANZA_TEST_ATTACK says, or for two minutes.
func allAttacksTime(t *testing.T) time.Duration {
	text := os.Getenv("BALANZA_TEST_ATTACK")
	if text == "" {
		return 2 * time.Minute
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
	began := time.Now()
	program := buildAttacker(t, s)
	victim := signUpAt(t, composeHTTP, "victim@example.org")
	signUpAt(t, composeHTTP, "attacker@example.org")
	paths := []string{"/", "/info", "/api/productos", "/api/randoms?cant=1000"}
	quiet := useSite(victim, paths, 5*time.Second)

	restarts := s.restarts(t)
	attackers := map[string][]string{
		composeProject + "-anonymous": {"anonymous", "nginx:80"},
		composeProject + "-account":   {"account", "nginx:80", "attacker@example.org"},
	}
	for container, args := range attackers {
		defer func() { _, _ = s.command("docker", "rm", "--force", container).CombinedOutput() }()
		s.docker(t, append([]string{"run", "--detach", "--stop-signal", "TERM", "--name", container, "--network", composeProject + "_front",
			"--memory", "1g", "--cpus", "0.5", "--volume", program + ":/attacker:ro", "--entrypoint", "/attacker", "nginx:1.30"}, args...)...)
	}
	var watching sync.WaitGroup
	peaks := make(map[string]float64)
	done := make(chan struct{})
	watching.Go(func() { s.watchMemory(peaks, done) })
	beside := useSite(victim, paths, allAttacksTime(t))
	close(done)
	watching.Wait()
	t.Logf("the victim's median: %v quiet, %v attacked (%d requests); highest memory in percent: %v",
		quiet.median(), beside.median(), len(beside.times), peaks)
	for container := range attackers {
		s.docker(t, "stop", "--timeout", "30", container)
		opened := strings.TrimSpace(s.docker(t, "logs", container))
		t.Logf("%s opened %s connections", container, opened)
		if n, err := strconv.Atoi(opened); err != nil || n < 1000 {
			t.Errorf("%s opened %q connections: the test proves nothing", container, opened)
		}
	}
	for _, failure := range beside.failures[:min(5, len(beside.failures))] {
		t.Errorf("the victim (%d failures): %s", len(beside.failures), failure)
	}
	if len(beside.times) < 100 {
		t.Errorf("the victim sent %d requests", len(beside.times))
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

// signUpAt makes an account at a server and returns a client with its session.
func signUpAt(t *testing.T, server, email string) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, Timeout: 20 * time.Second}
	answer, err := client.PostForm(server+"/signup", url.Values{
		"email": {email}, "password": {attack.Password}, "nombre": {"Eva"}, "apellido": {"Sosa"}, "edad": {"30"}, "alias": {"eva"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if body, _ := io.ReadAll(answer.Body); answer.StatusCode != http.StatusOK || answer.Request.URL.Path != "/" {
		t.Fatalf("sign-up of %s: %s at %s: %s", email, answer.Status, answer.Request.URL, tail(string(body), 500))
	}
	return client
}

// usage is what a victim met.
type usage struct {
	times    []time.Duration
	failures []string
}

func (u usage) median() time.Duration {
	sorted := slices.Sorted(slices.Values(u.times))
	return sorted[len(sorted)/2]
}

// useSite requests the paths in turn, about ten a second, and takes every answer but 200 for a failure.
func useSite(client *http.Client, paths []string, duration time.Duration) (u usage) {
	for end := time.Now().Add(duration); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for _, path := range paths {
			began := time.Now()
			answer, err := client.Get(composeHTTP + path)
			if err == nil {
				_, err = io.Copy(io.Discard, answer.Body)
				answer.Body.Close()
			}
			if err == nil && (answer.StatusCode != http.StatusOK || answer.Request.URL.Path == "/login") {
				err = fmt.Errorf("%s at %s", answer.Status, answer.Request.URL)
			}
			u.times = append(u.times, time.Since(began))
			if err != nil {
				u.failures = append(u.failures, began.Format("15:04:05.000 ")+path+": "+err.Error())
			}
		}
	}
	return u
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
