package control

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

const (
	// statusTimeout is how long a server may take to tell its state.
	statusTimeout = 2 * time.Second
	// silenceTimeout is how long a server that carries out an order may leave questions for its state unanswered.
	silenceTimeout = 10 * time.Second
	// endTimeout is how long a server may answer after it has carried out the order to end.
	endTimeout      = 2 * time.Second
	endPollInterval = 5 * time.Millisecond
)

// Client talks to one server's control socket.
type Client struct {
	dir, name string
	http      http.Client
}

// NewClient returns a client of the server called name, whose socket is in dir. It connects at the first call.
func NewClient(dir, name string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socketPath(dir, name))
	}
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	return &Client{dir: dir, name: name, http: http.Client{Transport: transport}}
}

// Status returns the server's state. The error is a syscall.ECONNREFUSED or os.ErrNotExist where no server runs, and a
// deadline's where it does not answer within 2 s.
func (c *Client) Status(ctx context.Context) (st Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	body, err := c.call(ctx, http.MethodGet, "status", nil)
	if err == nil {
		err = json.Unmarshal(body, &st)
	}
	return st, err
}

// Order gives an order (count is for Scale) and returns when it is carried out, or with the server's reason why it cannot
// be. An order may take as long as it needs, but when the server
// leaves questions for its state unanswered for 10 s, as a stopped process does, Order fails and names its pid; the
// order may be carried out later. An end of ctx ends the wait, not the order.
// After a Delete the name is free for another server.
func (c *Client) Order(ctx context.Context, order string, count int) error {
	err := c.order(ctx, order, url.Values{"count": {strconv.Itoa(count)}})
	if err == nil && order == Delete {
		c.awaitEnd(ctx)
	}
	return err
}

// awaitEnd waits until the server answers no more, for endTimeout at most: it says that it has carried out the order to end
// a moment before it closes the control socket.
func (c *Client) awaitEnd(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	for ctx.Err() == nil {
		if _, err := c.Status(ctx); notRunning(err) {
			return
		}
		time.Sleep(endPollInterval)
	}
}

// Update is Order for an update. The change is sent as JSON.
func (c *Client) Update(ctx context.Context, change any) error {
	content, err := json.Marshal(change)
	if err != nil {
		return err
	}
	return c.order(ctx, Update, url.Values{"change": {string(content)}})
}

func (c *Client) order(ctx context.Context, order string, form url.Values) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { cancel(c.awaitSilence(ctx)) }()
	_, err := c.call(ctx, http.MethodPost, order, form)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// awaitSilence returns an error once the server has not answered for silenceTimeout, or ctx's at its end.
func (c *Client) awaitSilence(ctx context.Context) error {
	for answered := time.Now(); ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(statusTimeout / 2):
		}
		_, err := c.Status(ctx)
		if err == nil || notRunning(err) { // the order of a server that ended fails by itself
			answered = time.Now()
		} else if time.Since(answered) > silenceTimeout {
			return fmt.Errorf("the server does not answer (pid %d); is its process stopped? kill -CONT or kill -KILL it", masterPid(c.dir, c.name))
		}
	}
}

func (c *Client) call(ctx context.Context, method, path string, form url.Values) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://balanza/"+path, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := c.http.Do(r)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the made-up address
		}
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(string(bytes.TrimSpace(body)))
	}
	return body, err
}

// List returns the state of all servers whose control sockets are in dir, sorted by name. A server that does not answer
// within 2 s has the status unresponsive. A socket without a process behind it is left out, but not removed: a server of
// that name may be about to listen on it.
func List(ctx context.Context, dir string) ([]Status, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var mu sync.Mutex
	var all []Status
	var wg sync.WaitGroup
	for _, e := range entries {
		name, isSocket := strings.CutSuffix(e.Name(), socketSuffix)
		if !isSocket {
			continue
		}
		wg.Go(func() {
			st, err := NewClient(dir, name).Status(ctx)
			switch {
			case notRunning(err):
				return
			case errors.Is(err, context.DeadlineExceeded):
				err = fmt.Errorf("no answer within %v", statusTimeout)
			}
			if err != nil {
				st = Status{Name: name, Status: "unresponsive", Pid: masterPid(dir, name), Cause: err.Error()}
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, st)
		})
	}
	wg.Wait()
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return all, ctx.Err()
}

// notRunning tells whether a call failed because no process listens on the socket.
func notRunning(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist)
}

// masterPid is the pid that a server wrote into its lock file, 0 when there is none.
func masterPid(dir, name string) int {
	text, _ := os.ReadFile(filepath.Clean(lockPath(dir, name)))
	pid, _ := strconv.Atoi(string(text))
	return pid
}
