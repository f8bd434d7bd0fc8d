package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

const randomsPath = "/api/randoms?cant=1000"

// awaitEven waits, under load, until requests are split evenly over the replicas, and logs the time since then.
func (s *stack) awaitEven(t *testing.T, since time.Time, replicas int) {
	t.Helper()
	eventually(t, "an even split", func() error { return s.checkEven(t, 10*replicas, replicas, 5) })
	t.Logf("even split over %d replicas after %v", replicas, time.Since(since).Round(100*time.Millisecond))
}

func testScale(t *testing.T, s *stack) {
	underLoad(t, "scaling", func() {
		for _, n := range []int{2, 4} {
			s.compose(t, "up", "--detach", "--wait", "--scale", fmt.Sprint("replica=", n))
			s.awaitEven(t, time.Now(), n)
		}
	}, randomsPath)
}

// testKills kills each container by SIGKILL and starts it again. No request for random numbers may fail while nginx lives, and
// a session outlasts every kill.
func testKills(t *testing.T, s *stack) {
	u := newUser(t, composeHTTP, "kills")
	replicas := s.containers(t, "replica")
	for _, victim := range []struct {
		name       string
		containers []string
		paths      []string
	}{
		{"one replica", replicas[:1], []string{randomsPath}},
		{"all replicas", replicas, []string{randomsPath}},
		{"fork", s.containers(t, "fork"), []string{randomsPath, "/info", "/login"}},
		{"cluster", s.containers(t, "cluster"), []string{randomsPath, "/info", "/login"}},
		{"mongo", s.containers(t, "mongo"), []string{randomsPath, "/info"}},
		{"certificates", s.containers(t, "certificates"), []string{randomsPath, "/info", "/login"}},
		{"nginx", s.containers(t, "nginx"), nil},
	} {
		kill := func() {
			s.docker(t, append([]string{"kill"}, victim.containers...)...)
			time.Sleep(2 * time.Second) // requests arrive while it is down
			s.docker(t, append([]string{"start"}, victim.containers...)...)
			began := time.Now()
			s.waitHealthy(t) // the next victim's backup must live
			s.back(t, u, "killing "+victim.name, began)
		}
		if victim.paths == nil {
			kill()
		} else {
			underLoad(t, "killing "+victim.name, kill, victim.paths...)
		}
	}
	eventually(t, "the site after its database came back", func() error { return status(http.StatusOK, "/api/productos") })
}

// testSentOnce kills fork while it has requests that it has not answered. nginx must repeat a GET on cluster, and must not
// repeat another method: fork may have executed it.
func testSentOnce(t *testing.T, s *stack) {
	requests := []struct {
		method, path string
		repeated     bool
	}{
		{http.MethodGet, "/api/productos?sent=once", true},
		{http.MethodPost, "/api/productos", false},
		{http.MethodPut, "/api/productos/none", false},
		{http.MethodDelete, "/api/productos/none", false},
		{http.MethodPost, "/login", false},
	}
	fork := s.containers(t, "fork")[0]
	s.stopWorker(t, fork, composeFork)
	answers := make([]reply, len(requests))
	failures := make([]error, len(requests))
	var pending sync.WaitGroup
	for i, r := range requests {
		pending.Go(func() {
			answers[i], failures[i] = ask(r.method, composeHTTP+r.path, "{}", "Content-Type: application/json")
		})
	}
	time.Sleep(2 * time.Second) // until fork has them; its master replaces the worker later
	s.docker(t, "kill", fork)
	pending.Wait()
	s.docker(t, "start", fork)
	services := s.services(t)
	for i, r := range requests {
		answer, want := answers[i], http.StatusBadGateway
		if r.repeated {
			want = http.StatusOK
		}
		service := services[answer.server()]
		if failures[i] != nil || answer.StatusCode != want || (service == "cluster") != r.repeated {
			t.Errorf("%s %s: %d of %q, %v, want %d", r.method, r.path, answer.StatusCode, service, failures[i], want)
		}
	}
	s.waitHealthy(t)
}

// stopWorker stops the process that answers at a container's own address, and returns its pid there. The image has no shell:
// another container, in the same namespace of processes, sends the signal.
func (s *stack) stopWorker(t *testing.T, container, url string) (pid string) {
	t.Helper()
	answer, err := ask(http.MethodGet, url+"/info", "")
	if err != nil {
		t.Fatal(err)
	}
	pid = answer.Header.Get("X-Balanza-Pid")
	s.docker(t, "run", "--rm", "--network", "none", "--pid", "container:"+container, "--entrypoint", "sh",
		"nginx:1.30", "-c", "kill -STOP "+pid)
	return pid
}

// testHangs lets fork hang in three ways: its worker, whom its master replaces; the whole container and a replica, in whose
// place nginx asks others; its master, without which the worker serves on. No GET fails.
func testHangs(t *testing.T, s *stack) {
	paths := []string{randomsPath, "/info", "/login"}
	fork, replica := s.containers(t, "fork")[0], s.containers(t, "replica")[0]
	underLoad(t, "a worker that hangs", func() {
		began, pid := time.Now(), s.stopWorker(t, fork, composeFork)
		eventually(t, "another worker", func() error {
			answer, err := ask(http.MethodGet, composeFork+"/info?format=json", "")
			return expect(err, answer.Header.Get("X-Balanza-Pid") != pid && strings.Contains(answer.body, `"mode":"FORK"`), "%s", answer.body)
		})
		t.Logf("it was replaced after %v", time.Since(began).Round(100*time.Millisecond))
	}, paths...)
	if processes := s.docker(t, "exec", fork, "balanza", "ps", "--json"); !strings.Contains(processes, `"restarts": 1`) {
		t.Errorf("fork was not restarted by its master: %s", processes)
	}

	underLoad(t, "containers that hang", func() {
		s.docker(t, "pause", fork, replica)
		time.Sleep(15 * time.Second)
		s.docker(t, "unpause", fork, replica)
	}, paths...)

	underLoad(t, "a master that hangs", func() {
		s.docker(t, "kill", "--signal", "STOP", fork)
		defer s.docker(t, "kill", "--signal", "CONT", fork)
		if answer, err := ask(http.MethodGet, composeFork+"/info", ""); err != nil || answer.StatusCode != http.StatusOK {
			t.Errorf("its worker answers %s, %v", answer.Status, err)
		}
		out, err := s.command("docker", "exec", fork, "balanza", "healthcheck").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "does not answer") {
			t.Errorf("the health check: %v: %s", err, out)
		}
	}, paths...)
	s.waitHealthy(t)
}

// waitHealthy waits until all containers are healthy. MongoDB is checked once a minute, and unhealthy until the next check when a
// fault meets one.
func (s *stack) waitHealthy(t *testing.T) {
	t.Helper()
	eventuallyFor(t, 90*time.Second, "all healthy", func() error {
		for line := range strings.Lines(s.compose(t, "ps", "--format", "{{.Service}} {{.Health}}")) {
			if !strings.HasSuffix(strings.TrimSpace(line), " healthy") {
				return fmt.Errorf("%s", line)
			}
		}
		return nil
	})
}

// reloadNginx reloads nginx with its own command.
func (s *stack) reloadNginx(t *testing.T) {
	t.Helper()
	s.compose(t, "exec", "--no-TTY", "nginx", "nginx", "-s", "reload")
}

// testReload reloads nginx eight times: no request fails, and a websocket stays connected.
func testReload(t *testing.T, s *stack) {
	conn, _, err := newUser(t, composeHTTP, "reload").dial(t.Context(), composeHTTP, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	underLoad(t, "reloading nginx", func() {
		for range 8 {
			s.reloadNginx(t)
			time.Sleep(time.Second)
		}
	}, randomsPath, "/info", "/login")

	alive := errors.New("pong")
	conn.SetPongHandler(func(string) error { return alive })
	err = errors.Join(conn.SetReadDeadline(time.Now().Add(10*time.Second)),
		conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second)))
	for err == nil {
		_, _, err = conn.ReadMessage()
	}
	if err != alive {
		t.Errorf("the websocket: %v", err)
	}
}

// testSlowClients holds 500 connections that never finish their request, and measures the response time of other requests.
func testSlowClients(t *testing.T, _ *stack) {
	address := strings.TrimPrefix(composeHTTP, "http://")
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 500 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatalf("slow client %d: %v", i, err)
		}
		wg.Go(func() {
			defer conn.Close()
			for part := "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"; ; part = "X-Slow: 1\r\n" {
				if _, err := io.WriteString(conn, part); err != nil {
					return // nginx closed the connection
				}
				select {
				case <-done:
					return
				case <-time.After(time.Second):
				}
			}
		})
	}
	var times []time.Duration
	for range 200 {
		began := time.Now()
		if err := status(http.StatusOK, "/info"); err != nil {
			t.Error(err)
		}
		times = append(times, time.Since(began))
	}
	close(done)
	wg.Wait()
	slices.Sort(times)
	p99 := times[len(times)*99/100]
	t.Logf("response time beside 500 slow clients: %v (median), %v (p99)", times[len(times)/2], p99)
	if p99 > time.Second {
		t.Errorf("p99 %v", p99)
	}
}

// testForceHTTPS gives nginx FORCE_HTTPS, and takes it away at the end.
func testForceHTTPS(t *testing.T, s *stack) {
	before := s.env
	s.env = append(slices.Clone(before), "FORCE_HTTPS=true", "SERVER_NAMES=balanza.test")
	defer func() {
		s.env = before
		s.compose(t, "up", "--detach", "--wait", "nginx")
		s.awaitNginx(t)
	}()
	s.compose(t, "up", "--detach", "--wait", "nginx")
	s.awaitNginx(t)
	answer, err := ask(http.MethodGet, composeHTTP+"/info?x=1", "", "Host: balanza.test:21080")
	if err != nil {
		t.Fatal(err)
	}
	if to := answer.Header.Get("Location"); answer.StatusCode != http.StatusMovedPermanently || to != "https://balanza.test:21443/info?x=1" {
		t.Errorf("plain HTTP: %d to %q", answer.StatusCode, to)
	}
	answer, err = ask(http.MethodGet, composeHTTPS+"/info", "", "Host: balanza.test:21443")
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("HTTPS: %d, Strict-Transport-Security %q", answer.StatusCode, answer.Header.Get("Strict-Transport-Security"))
	}
	if err := answer.TLS.PeerCertificates[0].VerifyHostname("balanza.test"); err != nil {
		t.Error(err)
	}
}

// testFourTimesTwo makes each replica a CLUSTER with two workers.
func testFourTimesTwo(t *testing.T, s *stack) {
	s.env = append(s.env, "REPLICA_MODE=CLUSTER")
	s.compose(t, "up", "--detach", "--wait")
	for _, id := range s.containers(t, "replica") {
		if processes := s.docker(t, "exec", id, "balanza", "ps"); strings.Count(processes, "worker ") != 2 {
			t.Errorf("a replica is not two workers:\n%s", processes)
		}
	}
	eventually(t, "an even split", func() error { return s.checkEven(t, 40, 4, 0) })
}
