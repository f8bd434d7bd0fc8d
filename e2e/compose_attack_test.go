package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// allAttacksTime is how long all attackers go on.
const allAttacksTime = 5 * time.Minute

// testAttackers lets a hostile client in a container, which has an address and an account of its own, do all that package
// attacker knows, while a victim uses the site. The victim's requests all succeed, no container exceeds its memory or is
// started again, and nginx takes no server for failed.
func testAttackers(t *testing.T, s *stack) {
	began := time.Now()
	program := filepath.Join(s.dir, "attacker")
	build := exec.Command("go", "build", "-o", program, "balanza/e2e/attacker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	victim := signUpAt(t, composeHTTP, "victim@example.org")
	signUpAt(t, composeHTTP, "attacker@example.org")
	paths := []string{"/", "/info", "/api/productos", "/api/randoms?cant=1000"}
	quiet := useSite(victim, paths, 5*time.Second)

	restarts := s.restarts(t)
	attack := exec.Command("docker", "run", "--rm", "--network", composeProject+"_front", "--memory", "1g", "--cpus", "1",
		"-v", program+":/attacker:ro", "golang:1.26", "/attacker", "-for", allAttacksTime.String(),
		"-email", "attacker@example.org", "-password", attackPassword, "nginx:80")
	var report strings.Builder
	attack.Stdout, attack.Stderr = &report, &report
	if err := attack.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- attack.Wait() }()
	var watching sync.WaitGroup
	peaks := make(map[string]float64)
	done := make(chan struct{})
	watching.Go(func() { s.watchMemory(peaks, done) })
	beside := useSite(victim, paths, allAttacksTime-5*time.Second)
	if err := <-ended; err != nil {
		t.Errorf("the attacker: %v", err)
	}
	close(done)
	watching.Wait()

	t.Logf("the victim's median: %v quiet, %v attacked (%d requests); attacks:\n%s\nhighest memory in percent: %v",
		quiet.median(), beside.median(), len(beside.times), report.String(), peaks)
	for _, failure := range beside.failures[:min(5, len(beside.failures))] {
		t.Errorf("the victim (%d failures): %s", len(beside.failures), failure)
	}
	if len(beside.times) < 100 || !strings.Contains(report.String(), "half-sent headers") {
		t.Errorf("%d requests of the victim beside these attacks:\n%s", len(beside.times), report.String())
	}
	for name, percent := range peaks {
		if percent >= 99 {
			t.Errorf("%s uses %.1f %% of its memory", name, percent)
		}
	}
	if after := s.restarts(t); after != restarts {
		t.Errorf("restarts were\n%s\nand are\n%s", restarts, after)
	}
	logs := s.compose(t, "logs", "--no-color", "--since", began.Format(time.RFC3339), "nginx")
	if i := strings.Index(logs, "temporarily disabled"); i >= 0 {
		t.Errorf("nginx takes a server for failed: %s", tail(logs[:i+20], 500))
	}
}

const attackPassword = "una contraseña que nadie adivina"

// signUpAt makes an account at a server and returns a client with its session.
func signUpAt(t *testing.T, server, email string) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, Timeout: 20 * time.Second}
	answer, err := client.PostForm(server+"/signup", url.Values{
		"email": {email}, "password": {attackPassword}, "nombre": {"Eva"}, "apellido": {"Sosa"}, "edad": {"30"}, "alias": {"eva"},
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
