package e2e

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"balanza/e2e/load"
	"balanza/e2e/testenv"
)

// shareRequests is how many requests of a client are shared among the workers of a CLUSTER.
const shareRequests = 200

// Requests, not connections, are shared evenly among the workers of a CLUSTER, whoever pools connections in front; a new
// worker gets its share at once; reloads meanwhile lose nothing.
func TestRequestsAreShared(t *testing.T) {
	for _, workers := range []int{2, 4} {
		t.Run(strconv.Itoa(workers)+" workers", func(t *testing.T) {
			f := up(t)
			f.mustRun("scale", "cluster="+strconv.Itoa(workers))
			entries := map[string]string{
				"edge": f.address("edge"), "nginx": startNginx(t, f.address("cluster")), "straight": f.address("cluster"),
			}
			for _, entry := range []string{"edge", "nginx", "straight"} {
				checkShares(t, entry, entries[entry], workers)
				f.testSuccessorsShare(entry, entries[entry])
			}
			if workers == 2 {
				f.testReloadsBesides(entries["nginx"])
			}
		})
	}
}

// checkShares sends requests at 1, 4 and 16 at a time: the busiest worker has at most 1.25 times the mean. On two busy
// processors the kernel once in a hundred times keeps a worker waiting for so long that it misses this: once is allowed.
func checkShares(t *testing.T, entry, address string, workers int) {
	t.Helper()
	missed := 0
	for _, clients := range []int{1, 4, 16} {
		for shared := false; !shared && missed < 2; {
			shares := share(t, address, clients)
			busiest := slices.Max(slices.Collect(maps.Values(shares)))
			if shared = 4*busiest*workers <= 5*shareRequests; !shared {
				missed++
			}
			t.Logf("%s, %d at a time: %v, at most 1.25 times the mean: %v", entry, clients, shares, shared)
		}
	}
	if missed > 1 {
		t.Errorf("%s: twice the busiest of %d workers had over 1.25 times the mean", entry, workers)
	}
}

// testShares compares the workers of the cluster behind the nginx of Compose, and straight.
func testShares(t *testing.T, s *stack) {
	for _, workers := range []int{2, 4} {
		s.compose(t, "exec", "--no-TTY", "cluster", "balanza", "scale", "cluster-8081="+strconv.Itoa(workers))
		checkShares(t, "nginx", strings.TrimPrefix(composeHTTP, "http://"), workers)
		checkShares(t, "straight", "127.0.0.1:28081", workers)
	}
	s.compose(t, "exec", "--no-TTY", "cluster", "balanza", "scale", "cluster-8081="+strconv.Itoa(runtime.NumCPU())) // as it was
}

// testSuccessorsShare kills a worker of the cluster: its successor has at least half a share of the next requests.
func (f *fleet) testSuccessorsShare(entry, address string) {
	f.t.Helper()
	before := f.ps()["cluster"]
	if err := syscall.Kill(before.Workers[0].Pid, syscall.SIGKILL); err != nil {
		f.t.Fatal(err)
	}
	f.awaitRestarts("cluster", before.Restarts+1)
	successor := f.awaitOnline(fleetSize)["cluster"].Workers[0].Pid
	shares := share(f.t, address, 4)
	f.t.Logf("%s, after kill -9: the successor %d of %v", entry, shares[strconv.Itoa(successor)], shares)
	if n := shares[strconv.Itoa(successor)]; 2*n*len(before.Workers) < shareRequests {
		f.t.Errorf("%s: the successor has %d of %v", entry, n, shares)
	}
}

// testReloadsBesides reloads the cluster twenty times beside requests, of which none fails.
func (f *fleet) testReloadsBesides(address string) {
	f.t.Helper()
	l := load.Start(f.t, load.Config{
		Address: address, Clients: 4, Requests: []string{"GET /api/randoms?cant=1000"}, Interval: time.Millisecond,
		Timeout: time.Minute, Check: func(r *http.Response) error {
			if r.StatusCode != http.StatusOK {
				return errors.New(r.Status)
			}
			return nil
		},
	})
	for range 20 {
		f.mustRun("reload", "cluster")
	}
	l.Stop()
	f.t.Logf("20 reloads beside %d requests", l.Responses())
	l.CheckFailures(f.t, 0)
}

// share sends requests for random numbers, so many at a time over connections that are kept, and returns how many each
// process has answered, by pid.
func share(t *testing.T, address string, clients int) map[string]int {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: 20 * time.Second}
	var sent atomic.Int64
	var mu sync.Mutex
	shares := map[string]int{}
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for sent.Add(1) <= shareRequests {
				res, err := client.Get("http://" + address + "/api/randoms?cant=1000")
				if err != nil {
					t.Error(err)
					return
				}
				_, err = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != http.StatusOK {
					t.Errorf("%s: %v", res.Status, err)
				}
				mu.Lock()
				shares[res.Header.Get("X-Balanza-Pid")]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return shares
}

// plainNginx keeps idle connections to its upstream, the last used first, as most balancers do.
const plainNginx = `daemon off;
worker_processes 2;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log;
events {}
http {
    access_log off;
    client_body_temp_path %[1]s/body;
    proxy_temp_path %[1]s/proxy;
    fastcgi_temp_path %[1]s/fastcgi;
    uwsgi_temp_path %[1]s/uwsgi;
    scgi_temp_path %[1]s/scgi;
    upstream cluster {
        server %[2]s;
        keepalive 64;
    }
    server {
        listen %[3]s;
        location / {
            proxy_pass http://cluster;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host localhost;
        }
    }
}
`

// startNginx runs an nginx in front of a server until the test's end, and returns its address.
func startNginx(t *testing.T, upstream string) string {
	t.Helper()
	if _, err := exec.LookPath("nginx"); err != nil {
		testenv.SkipOrFail(t, err)
	}
	dir := t.TempDir()
	address := "127.0.0.1:" + testenv.FreePort(t)
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, plainNginx, dir, upstream, address), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // its workers have another user
		t.Fatal(err)
	}
	cmd := exec.Command("nginx", "-e", filepath.Join(dir, "error.log"), "-p", dir, "-c", config)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	eventually(t, "nginx", func() error { return load.Send(address, "GET /info") })
	return address
}
