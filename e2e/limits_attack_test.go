package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"balanza/e2e/attack"
	"balanza/e2e/testenv"
)

// attackTime is how long each attack goes on.
func attackTime() time.Duration {
	if testenv.All() {
		return 5 * time.Second
	}
	return 4 * time.Second
}

// victim is a client with an address of its own that goes on using the site. None of its requests may fail.
type victim struct {
	stop  chan struct{}
	ended sync.WaitGroup
	times []time.Duration
	fails []string
}

// visit is a request of a victim, and the statuses that it may get.
type visit struct {
	method, path, body string
	statuses           []int
}

// anonymousVisits read pages, draw a few numbers and send a body that does not fit into nginx's buffer in memory.
var anonymousVisits = []visit{
	{http.MethodGet, "/info", "", []int{http.StatusOK}},
	{http.MethodGet, "/login", "", []int{http.StatusOK}},
	{http.MethodGet, "/api/randoms?cant=1000", "", []int{http.StatusOK}},
	{http.MethodPost, "/api/productos", strings.Repeat("b", 40_000), []int{http.StatusUnauthorized, http.StatusForbidden}},
}

// startVictim makes the visits again and again, with the headers.
func startVictim(url string, visits []visit, headers ...string) *victim {
	v := &victim{stop: make(chan struct{})}
	v.ended.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-v.stop:
				return
			case <-time.After(5 * time.Millisecond): // leaves CPU time for the servers
			}
			r := visits[i%len(visits)]
			began := time.Now()
			answer, err := ask(r.method, url+r.path, r.body, headers...)
			if err != nil || !slices.Contains(r.statuses, answer.StatusCode) {
				v.fails = append(v.fails, fmt.Sprintf("%s %s: %d, error %v", r.method, r.path, answer.StatusCode, err))
			}
			v.times = append(v.times, time.Since(began))
		}
	})
	return v
}

// end stops the victim, fails the test for each of its requests that failed, and returns the median time of all.
func (v *victim) end(t *testing.T) time.Duration {
	t.Helper()
	close(v.stop)
	v.ended.Wait()
	for _, failure := range v.fails[:min(5, len(v.fails))] {
		t.Errorf("the victim: %s", failure)
	}
	if len(v.times) == 0 {
		t.Fatal("the victim sent nothing")
	}
	slices.Sort(v.times)
	median := v.times[len(v.times)/2]
	t.Logf("the victim: %d requests, %d failed, median %v, slowest %v", len(v.times), len(v.fails), median, v.times[len(v.times)-1])
	return median
}

// besideAttack runs a victim beside an attack, and compares with the time before it.
func besideAttack(t *testing.T, url string, attack func()) {
	t.Helper()
	v := startVictim(url, anonymousVisits)
	time.Sleep(time.Second)
	quiet := v.end(t)
	v = startVictim(url, anonymousVisits)
	attack()
	if median := v.end(t); median > time.Second {
		t.Errorf("the victim's median is %v, and %v without the attack", median, quiet)
	}
}

// One address attacks the edge, another one is served.
func TestAttacksOnTheEdge(t *testing.T) {
	f := up(t, many)
	for name, run := range attack.Kinds {
		t.Run(name, func(t *testing.T) {
			var opened atomic.Int64
			dial := attack.To(f.address("edge"), "127.0.0.77")
			besideAttack(t, f.url, func() {
				ctx, cancel := context.WithTimeout(t.Context(), attackTime())
				defer cancel()
				run(ctx, func(ctx context.Context) (net.Conn, error) {
					c, err := dial(ctx)
					if err == nil {
						opened.Add(1)
					}
					return c, err
				})
			})
			if n := opened.Load(); n < 20 {
				t.Errorf("the attack opened %d connections: the test proves nothing", n)
			}
		})
	}
	if n := f.upstreamFailures(); n != 0 {
		t.Errorf("the edge counts %d failures of the servers", n)
	}
	for name, server := range f.awaitOnline(fleetSize) {
		if server.Restarts != 0 {
			t.Errorf("%s was restarted: %+v", name, server)
		}
	}
}

// testAttacks attacks nginx from a container of the stack's network, while another address is served.
func testAttacks(t *testing.T, s *stack) {
	began := time.Now()
	attacker := buildAttacker(t, s)
	for name := range attack.Kinds {
		t.Run(name, func(t *testing.T) { s.attack(t, attacker, name, "nginx:80") })
	}
	for protocol := range attack.TLSKinds {
		t.Run("half-sent headers in TLS, "+protocol, func(t *testing.T) { s.attack(t, attacker, "TLS", "nginx:443", protocol) })
	}
	s.checkNoServerFailed(t, began)
	for _, id := range s.containers(t, "nginx") {
		if state := s.docker(t, "inspect", "--format", "{{.RestartCount}} {{.State.OOMKilled}}", id); strings.TrimSpace(state) != "0 false" {
			t.Errorf("nginx was restarted, or out of memory: %s", state)
		}
	}
}

// buildAttacker builds the program attacker for a container without libraries.
func buildAttacker(t *testing.T, s *stack) string {
	t.Helper()
	attacker := filepath.Join(s.dir, "attacker")
	build := exec.Command("go", "build", "-o", attacker, "./testdata/attacker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return attacker
}

// attack runs one attack and checks that nginx's workers survive it.
func (s *stack) attack(t *testing.T, attacker string, args ...string) {
	workers := s.nginxWorkers(t)
	besideAttack(t, composeHTTP, func() {
		const container = composeProject + "-attacker"
		defer func() { _, _ = s.command("docker", "rm", "--force", container).CombinedOutput() }()
		s.docker(t, append([]string{"run", "--detach", "--stop-signal", "TERM", "--name", container, "--network", composeProject + "_front",
			"--volume", attacker + ":/attacker:ro", "--entrypoint", "/attacker", "nginx:1.30"}, args...)...)
		time.Sleep(attackTime())
		s.docker(t, "stop", "--timeout", "20", container)
		opened := strings.TrimSpace(s.docker(t, "logs", container))
		if n, err := strconv.Atoi(opened); err != nil || n < 20 {
			t.Errorf("the attack opened %q connections: the test proves nothing", opened)
		}
		t.Logf("the attack opened %s connections", opened)
	})
	if now := s.nginxWorkers(t); now != workers {
		t.Errorf("nginx's processes were %q, now %q", workers, now)
	}
}

// nginxWorkers are nginx's worker processes: their ids change when one is replaced.
func (s *stack) nginxWorkers(t *testing.T) (workers string) {
	t.Helper()
	for line := range strings.Lines(s.docker(t, "top", composeProject+"-nginx-1", "-o", "pid,args")) {
		if strings.Contains(line, "worker process") {
			workers += line
		}
	}
	return workers
}
