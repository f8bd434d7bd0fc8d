package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	balanzaPid = "X-Balanza-Pid"
	peerPid    = "X-Pid"
)

// server is one that is measured. Its log is kept until the end of the run.
type server struct {
	name      string
	url       string // http://127.0.0.1:PORT
	port      string
	pidHeader string // of the answers: which process it was
	cmd       *exec.Cmd
	log       string
}

// startBalanza runs `balanza ARGS` on a free port, behind the words of prefix (taskset …).
func (b *bench) startBalanza(ctx context.Context, prefix []string, args ...string) (*server, error) {
	s, err := b.newServer("Balanza", balanzaPid)
	if err != nil {
		return nil, err
	}
	argv := append(append(append([]string{}, prefix...), b.balanza, "--p", s.port), args...)
	return s, s.start(ctx, b.temp, b.environment(), argv)
}

// startPeer runs the Express server on a free port.
func (b *bench) startPeer(ctx context.Context, name string, prefix []string, args ...string) (*server, error) {
	s, err := b.newServer(name, peerPid)
	if err != nil {
		return nil, err
	}
	argv := append(append(append([]string{}, prefix...), "node", "server.js", "--port", s.port), args...)
	return s, s.start(ctx, b.peers, b.environment(), argv)
}

// environment is this process's, with the data and control sockets of every server in the temporary folder.
func (b *bench) environment() []string {
	return append(os.Environ(),
		"NODE_ENV=production",
		"PM2_HOME="+filepath.Join(b.temp, "pm2"),
		"BALANZA_HOME="+filepath.Join(b.temp, "home"),
		"BALANZA_DATA="+filepath.Join(b.temp, "data"),
		"BALANZA_DRAIN_DELAY=0s",
		"MONGODB_URI=", // a place may say otherwise
	)
}

func (b *bench) newServer(name, pidHeader string) (*server, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer func() { _ = ln.Close() }()
	port := strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
	return &server{
		name: name, port: port, url: "http://127.0.0.1:" + port, pidHeader: pidHeader,
		log: filepath.Join(b.temp, "log-"+port),
	}, nil
}

func (s *server) start(ctx context.Context, dir string, env, argv []string) error {
	shown := append([]string{}, argv...)
	for i, word := range shown {
		shown[i] = strings.TrimPrefix(word, dir+"/")
	}
	fmt.Println("$", strings.Join(shown, " "))
	log, err := os.Create(s.log)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	s.cmd = exec.Command(argv[0], argv[1:]...)
	s.cmd.Dir, s.cmd.Env, s.cmd.Stdout, s.cmd.Stderr = dir, env, log, log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	if err := s.ready(ctx); err != nil {
		s.stop()
		return err
	}
	return nil
}

// ready waits until the server answers /info.
func (s *server) ready(ctx context.Context) error {
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

// stop ends the server, at once if it takes more than five seconds.
func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(5*time.Second, func() { _ = s.cmd.Process.Kill() })
	defer kill.Stop()
	_ = s.cmd.Wait()
}

// fresh makes a connection for every request, so that any worker may get it.
var fresh = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// get asks for JSON on a fresh connection and returns the answering process.
func (s *server) get(ctx context.Context, path string) (pid int, err error) {
	return s.getBy(ctx, fresh, path)
}

func (s *server) getBy(ctx context.Context, client *http.Client, path string) (pid int, err error) {
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
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0, err
	}
	if res.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s answers %s to %s", s.name, res.Status, path)
	}
	return strconv.Atoi(res.Header.Get(s.pidHeader))
}

// workers asks until it has met n processes, and returns their ids.
func (s *server) workers(ctx context.Context, n int) (map[int]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	met := map[int]bool{}
	for len(met) < n {
		pid, err := s.get(ctx, "/info")
		if err != nil {
			return nil, fmt.Errorf("%d of %d workers of %s answered: %w", len(met), n, s.name, err)
		}
		met[pid] = true
	}
	return met, nil
}
