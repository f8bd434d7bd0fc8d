package workers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const socketSuffix = ".sock"

// longestSocket is what the kernel takes for a socket's path, in bytes (107 on Linux, 103 elsewhere).
const longestSocket = 103

func socketPath(home, name string) string { return filepath.Join(home, name+socketSuffix) }

// openControl serves the control socket: HTTP, JSON, only for the user that owns the folder.
func (s *Server) openControl() (io.Closer, error) {
	path := socketPath(s.spec.Home, s.spec.Name)
	if len(path) > longestSocket {
		return nil, fmt.Errorf("control socket %s: the path is longer than %d bytes; set BALANZA_HOME to a shorter one", path, longestSocket)
	}
	if err := os.MkdirAll(s.spec.Home, 0o700); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	// The lock ends with its holder, however that dies. A socket that nobody holds was left by a server that was killed.
	lock, err := lockFile(strings.TrimSuffix(path, socketSuffix) + ".lock")
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("a server named %s is running already", s.spec.Name)
	} else if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		lock.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	answer := func(f func(r *http.Request) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if err := f(r); err != nil {
				http.Error(w, err.Error(), http.StatusConflict)
			}
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(s.Status())
	})
	// An order is carried out to its end, even when whoever gave it goes away.
	mux.HandleFunc("POST /reload", answer(func(r *http.Request) error { return s.Reload(context.WithoutCancel(r.Context())) }))
	mux.HandleFunc("POST /restart", answer(func(r *http.Request) error { return s.Restart(context.WithoutCancel(r.Context())) }))
	mux.HandleFunc("POST /scale", answer(func(r *http.Request) error {
		n, err := strconv.Atoi(r.FormValue("count"))
		if err != nil {
			return fmt.Errorf("count: %q is not a whole number", r.FormValue("count"))
		}
		return s.Scale(context.WithoutCancel(r.Context()), n)
	}))
	mux.HandleFunc("POST /start", answer(func(*http.Request) error { return s.Start() }))
	mux.HandleFunc("POST /stop", answer(func(*http.Request) error { return s.Stop() }))
	mux.HandleFunc("POST /delete", answer(func(*http.Request) error { return s.Delete() }))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(ln) }()
	return closer(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		defer lock.Close()
		return server.Shutdown(ctx) // whoever ordered the end is told that it came
	}), nil
}

// lockFile opens a file and takes its lock; EWOULDBLOCK says that another process has it.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

type closer func() error

func (c closer) Close() error { return c() }

// Client speaks to one server's control socket.
type Client struct {
	Name string
	http http.Client
}

// NewClient returns a client for the server of that name.
func NewClient(home, name string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socketPath(home, name))
	}
	return &Client{Name: name, http: http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Status asks how the server is.
func (c *Client) Status(ctx context.Context) (st Status, err error) {
	body, err := c.call(ctx, http.MethodGet, "status", nil)
	if err == nil {
		err = json.Unmarshal(body, &st)
	}
	return st, err
}

// Order gives one of the orders reload, restart, scale (with its count), start, stop and delete, and waits until it is
// carried out. The error is the server's.
func (c *Client) Order(ctx context.Context, what string, count int) error {
	form := url.Values{}
	if what == "scale" {
		form.Set("count", strconv.Itoa(count))
	}
	_, err := c.call(ctx, http.MethodPost, what, form)
	return err
}

func (c *Client) call(ctx context.Context, method, what string, form url.Values) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://balanza/"+what, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := c.http.Do(r)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(string(bytes.TrimSpace(body)))
	}
	return body, err
}

// askLimit is how long a server may take to say how it is.
const askLimit = 2 * time.Second

// List asks all servers whose control sockets are in home, and returns them by name. One that does not answer has the
// status unresponsive; a socket that nobody holds is not listed, and left to the next server of its name: it may be about
// to be held.
func List(ctx context.Context, home string) ([]Status, error) {
	paths, err := filepath.Glob(filepath.Join(home, "*"+socketSuffix))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	all := make([]*Status, len(paths))
	var wg sync.WaitGroup
	for i, path := range paths {
		wg.Go(func() {
			name := strings.TrimSuffix(filepath.Base(path), socketSuffix)
			st, err := NewClient(home, name).Status(ctx)
			switch {
			case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
				return
			case err != nil:
				st = Status{Name: name, Status: "unresponsive", Cause: err.Error()}
			}
			all[i] = &st
		})
	}
	wg.Wait()
	var found []Status
	for _, st := range all {
		if st != nil {
			found = append(found, *st)
		}
	}
	slices.SortFunc(found, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}
