package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Each header names the process that answered, in Balanza and in the peers.
const (
	balanzaPid = "X-Balanza-Pid"
	peerPid    = "X-Pid"
)

// server is a measured server: Balanza or a peer. Its log file is deleted at the end of the run.
type server struct {
	name      string
	url       string // http://127.0.0.1:PORT
	port      string
	pidHeader string // the header of an answer that names the process
	cmd       *exec.Cmd
	log       string
}

// startBalanza runs `balanza ARGS` on a free port and waits until it answers. The prefix is put before the command, such as
// taskset or env with their arguments.
func (b *bench) startBalanza(ctx context.Context, prefix []string, args ...string) (*server, error) {
	s, err := b.newServer("Balanza", balanzaPid)
	if err != nil {
		return nil, err
	}
	argv := append(append(append([]string{}, prefix...), b.balanza, "--p", s.port), args...)
	return s, s.start(ctx, b.temp, b.environment(), argv)
}

// startPeer runs the Express server on a free port and waits until it answers.
func (b *bench) startPeer(ctx context.Context, name string, prefix []string, args ...string) (*server, error) {
	s, err := b.newServer(name, peerPid)
	if err != nil {
		return nil, err
	}
	argv := append(append(append([]string{}, prefix...), "node", "server.js", "--port", s.port), args...)
	return s, s.start(ctx, b.peers, b.environment(), argv)
}

// environment returns this process's environment with the data and the control sockets of every server in the temporary
// folder: a bench must not touch the servers that its user runs.
func (b *bench) environment() []string {
	return append(os.Environ(),
		"NODE_ENV=production",
		// Pages send and connect more often than people do.
		"BALANZA_LIMIT_MESSAGES=1000000", "BALANZA_LIMIT_WEBSOCKETS=100000",
		"PM2_HOME="+filepath.Join(b.temp, "pm2"),
		"BALANZA_HOME="+filepath.Join(b.temp, "home"),
		"BALANZA_DATA="+filepath.Join(b.temp, "data"),
		"BALANZA_DRAIN_DELAY=0s", // no balancer has to notice the draining first
		"MONGODB_URI=",           // the prefix of a storeConfig overrides it
	)
}

// newServer chooses a free port for a server and starts nothing.
func (b *bench) newServer(name, pidHeader string) (*server, error) {
	address, port, err := freePort()
	if err != nil {
		return nil, err
	}
	return &server{
		name: name, port: port, url: "http://" + address, pidHeader: pidHeader,
		log: filepath.Join(b.temp, "log-"+port),
	}, nil
}

// start prints the command, runs it in dir and waits until the server answers.
func (s *server) start(ctx context.Context, dir string, env, argv []string) error {
	// Printed so that it can be repeated by hand: without the long path of the temporary folder.
	shown := append([]string{}, argv...)
	for i, arg := range shown {
		shown[i] = strings.TrimPrefix(arg, dir+"/")
	}
	fmt.Println("$", strings.Join(shown, " "))
	log, err := os.Create(s.log)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the server keeps a descriptor of its own
	s.cmd = exec.Command(argv[0], argv[1:]...)
	s.cmd.Dir, s.cmd.Env, s.cmd.Stdout, s.cmd.Stderr = dir, env, log, log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	if err := s.waitReady(ctx); err != nil {
		s.stop()
		return err
	}
	return nil
}

// waitReady waits until the server answers /info, at most 20 seconds. The error contains the server's log.
func (s *server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		_, err := s.get(ctx, "/info")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(s.log)
			return fmt.Errorf("%s is not ready: %w\n%s", s.name, err, log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends the server with SIGTERM, and with SIGKILL when that takes more than five seconds.
func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(5*time.Second, func() { _ = s.cmd.Process.Kill() })
	defer kill.Stop()
	_ = s.cmd.Wait()
}

// noKeepAlive opens a connection for every request, so that any worker may accept it.
var noKeepAlive = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// get requests JSON on a new connection and returns the id of the process that answered.
func (s *server) get(ctx context.Context, path string) (pid int, err error) {
	return s.getWith(ctx, noKeepAlive, path)
}

// getWith is get with the connections of that client. It reads the whole answer and fails unless its status is 200.
func (s *server) getWith(ctx context.Context, client *http.Client, path string) (pid int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	// A connection with an unread answer is not used again.
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0, err
	}
	if res.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s answers %s to %s", s.name, res.Status, path)
	}
	return strconv.Atoi(res.Header.Get(s.pidHeader))
}

// workers repeats requests until n processes have answered, at most 10 seconds, and returns their ids.
func (s *server) workers(ctx context.Context, n int) (map[int]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	pids := map[int]bool{}
	for len(pids) < n {
		pid, err := s.get(ctx, "/info")
		if err != nil {
			return nil, fmt.Errorf("%d of %d workers of %s answered: %w", len(pids), n, s.name, err)
		}
		pids[pid] = true
	}
	return pids, nil
}
