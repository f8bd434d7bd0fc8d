package e2e

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"balanza/e2e/testenv"
)

// The stack of the tests has its own ports and project name, so that it may run beside another stack.
const (
	composeProject = "balanza-e2e"
	composeHTTP    = "http://127.0.0.1:21080"
	composeHTTPS   = "https://127.0.0.1:21443"
	composeFork    = "http://127.0.0.1:28080"
	composeCluster = "http://127.0.0.1:28081"
)

var composeEnvironment = []string{
	"COMPOSE_PROJECT_NAME=" + composeProject, "VERSION=first",
	"HTTP_PORT=21080", "HTTPS_PORT=21443", "FORK_PORT=28080", "CLUSTER_PORT=28081", "REPLICA_PORTS=28082-28085",
	"PROMETHEUS_PORT=29090",
}

// stack is the Compose stack, run from a copy of the tree as git would clone it.
type stack struct {
	dir string
	env []string
}

// newStack copies the files that git tracks or would add. A file that a clone lacks is missing here, too, and tests may edit
// the copy. As in a clone made with umask 077, only their owner may read them, who is not the root of a container.
func newStack(t *testing.T) *stack {
	t.Helper()
	needDocker(t)
	out, err := exec.Command("git", "-C", "..", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		testenv.SkipOrFail(t, fmt.Errorf("git ls-files: %w", err))
	}
	s := &stack{dir: t.TempDir(), env: append(os.Environ(), composeEnvironment...)}
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join("..", name))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, and not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		s.write(t, name, content)
	}
	return s
}

// cloneUser owns the clone's files where the tests run as root.
const cloneUser = 1000

// write writes a file of the clone, and makes its folders.
func (s *stack) write(t *testing.T, name string, content []byte) {
	t.Helper()
	path := filepath.Join(s.dir, name)
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, content, 0o600)
	}
	for ; err == nil && os.Geteuid() == 0 && len(path) >= len(s.dir); path = filepath.Dir(path) {
		err = os.Lchown(path, cloneUser, cloneUser)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func needDocker(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("docker", "info").CombinedOutput(); err != nil {
		testenv.SkipOrFail(t, fmt.Errorf("a Docker engine: %w: %s", err, tail(string(out), 200)))
	}
}

// command returns a command that runs in the stack's folder, with its environment.
func (s *stack) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = s.dir, s.env
	return cmd
}

// compose runs docker compose with the profile "cluster" and returns its standard output. It fails the test on an error.
func (s *stack) compose(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.try(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// try is compose, but returns the error.
func (s *stack) try(args ...string) (string, error) {
	cmd := s.command("docker", append([]string{"compose", "--profile", "cluster"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("docker compose %s: %w\n%s", strings.Join(args, " "), err, tail(out.String()+errs.String(), 2000))
	}
	return out.String(), nil
}

// networkTurns keeps two kinds of parallel tests apart: a container that starts or ends changes this machine's network, and
// Chromium gives up what it is loading then (ERR_NETWORK_CHANGED).
var networkTurns = turns{ended: sync.NewCond(&sync.Mutex{})}

// turns lets tests of one kind run beside each other, and not beside those of another kind.
type turns struct {
	ended   *sync.Cond // its lock guards what follows
	kind    string
	running int
}

// parallel is t.Parallel for a test of a kind.
func (s *turns) parallel(t *testing.T, kind string) {
	t.Parallel()
	s.ended.L.Lock()
	defer s.ended.L.Unlock()
	for s.running > 0 && s.kind != kind {
		s.ended.Wait()
	}
	s.kind = kind
	s.running++
	t.Cleanup(func() {
		s.ended.L.Lock()
		defer s.ended.L.Unlock()
		s.running--
		s.ended.Broadcast()
	})
}

// parallelStack is t.Parallel for a test that starts and ends containers.
func parallelStack(t *testing.T) { networkTurns.parallel(t, "stack") }

// parallelPage is t.Parallel for a test with a page in Chromium.
func parallelPage(t *testing.T) { networkTurns.parallel(t, "page") }

// remove removes the stack's containers, volumes and images.
func (s *stack) remove(t *testing.T) {
	t.Helper()
	s.compose(t, "--profile", "*", "down", "--volumes", "--rmi", "local", "--remove-orphans", "--timeout", "5")
}

// removeAtEnd removes the stack when the test ends, and now what an interrupted run has left. The log of a test that fails has
// the stack's.
func (s *stack) removeAtEnd(t *testing.T) {
	t.Helper()
	s.remove(t)
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := s.try("logs", "--no-color")
			t.Logf("log of %s, without successful requests:\n%s", s.dir, tail(failureLines(logs), 8000))
		}
		s.remove(t)
	})
}

// docker runs a docker command.
func (s *stack) docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.command("docker", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, tail(string(out), 1000))
	}
	return string(out)
}

// containers returns the ids of a service's running containers.
func (s *stack) containers(t *testing.T, service string) []string {
	t.Helper()
	return strings.Fields(s.compose(t, "ps", "--quiet", service))
}

// services returns the service of each container, by the first 12 digits of the container's id, which are its host name.
func (s *stack) services(t *testing.T) map[string]string {
	t.Helper()
	services := map[string]string{}
	for line := range strings.Lines(s.compose(t, "ps", "--all", "--format", "{{.ID}} {{.Service}}")) {
		id, service, _ := strings.Cut(strings.TrimSpace(line), " ")
		services[id[:12]] = service
	}
	return services
}

// insecure returns a client that accepts the stack's self-signed certificate and follows no redirect.
func insecure() *http.Client {
	return &http.Client{
		Timeout:       30 * time.Second,
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// reply is a response whose body was read.
type reply struct {
	*http.Response
	body string
}

// server returns the host name of the container that answered.
func (r reply) server() string {
	id, _, _ := strings.Cut(r.Header.Get("X-Balanza-Server"), ":")
	return id
}

// ask sends a request; headers are "Name: value".
func ask(method, url, body string, headers ...string) (reply, error) {
	none := reply{Response: new(http.Response)} // so that a caller may read the status and headers all the same
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return none, err
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		if name == "Host" {
			request.Host = value
		}
		request.Header.Set(name, value)
	}
	client := insecure()
	defer client.CloseIdleConnections()
	answer, err := client.Do(request)
	if err != nil {
		return none, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	return reply{answer, string(content)}, err
}

// tally sends n requests, eight at a time, and counts the responses of each container.
func tally(path string, n int) (map[string]int, error) {
	var (
		mu     sync.Mutex
		wg     sync.WaitGroup
		counts = map[string]int{}
		failed error
		jobs   = make(chan int)
	)
	for range 8 {
		wg.Go(func() {
			for range jobs {
				answer, err := ask(http.MethodGet, composeHTTP+path, "")
				if err == nil && answer.StatusCode != http.StatusOK {
					err = fmt.Errorf("%s: %s", path, answer.Status)
				}
				mu.Lock()
				if err != nil {
					failed = err
				} else {
					counts[answer.server()]++
				}
				mu.Unlock()
			}
		})
	}
	for i := range n {
		jobs <- i
	}
	close(jobs)
	wg.Wait()
	return counts, failed
}

// checkEven sends n requests for random numbers and returns nil when each replica answered its share, give or take off.
// Other clients' requests may come in between.
func (s *stack) checkEven(t *testing.T, n, replicas, off int) error {
	t.Helper()
	counts, err := tally("/api/randoms?cant=1000", n)
	if err != nil {
		return err
	}
	services := s.services(t)
	for id, count := range counts {
		if services[id] != "replica" || max(count-n/replicas, n/replicas-count) > off || len(counts) != replicas {
			return fmt.Errorf("%d requests over %d replicas were split %v", n, replicas, counts)
		}
	}
	return nil
}

// underLoad runs an action while clients request the paths, and fails the test for each request that fails.
func underLoad(t *testing.T, name string, action func(), paths ...string) {
	t.Helper()
	var (
		mu       sync.Mutex
		wg       sync.WaitGroup
		answered int
		failures []string
		done     = make(chan struct{})
	)
	for _, path := range paths {
		for range 2 {
			wg.Go(func() {
				client := insecure()
				for {
					select {
					case <-done:
						return
					case <-time.After(5 * time.Millisecond): // leaves CPU time for the servers
					}
					failure := ""
					answer, err := client.Get(composeHTTP + path)
					if err != nil {
						failure = err.Error()
					} else {
						if _, err = io.Copy(io.Discard, answer.Body); err != nil {
							failure = path + ": " + err.Error()
						} else if answer.StatusCode >= 400 {
							failure = path + ": " + answer.Status
						}
						_ = answer.Body.Close()
					}
					mu.Lock()
					answered++
					if failure != "" {
						failures = append(failures, time.Now().Format("15:04:05.000 ")+failure)
					}
					mu.Unlock()
				}
			})
		}
	}
	action()
	close(done)
	wg.Wait()
	t.Logf("%s: %d requests, %d failed", name, answered, len(failures))
	for _, failure := range failures[:min(5, len(failures))] {
		t.Errorf("%s: %s", name, failure)
	}
	if answered == 0 {
		t.Errorf("%s: no request was answered", name)
	}
}
