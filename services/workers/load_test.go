package workers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// load is clients that ask one address again and again. They retry nothing, and send on a connection that is kept alive
// as soon as they have the answer, so that a connection closed without a word is a request lost.
type load struct {
	address  string
	mu       sync.Mutex
	answers  int
	byPid    map[int]int
	failures []failure
}

// failure is a request without an answer.
type failure struct {
	err          error
	local        string // address of the client's end; empty: there was no connection
	dialed, lost time.Time
}

// startLoad starts clients of each kind: keep-alive and fresh connections, GET and POST. stop ends it.
func startLoad(t *testing.T, address string, clients int) (l *load, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l = &load{address: address, byPid: map[int]int{}}
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			c := client{address: address, keep: i%2 == 0}
			defer c.close()
			for n := i / 2; ctx.Err() == nil; n++ {
				method := http.MethodGet
				if n%2 == 1 {
					method = http.MethodPost
				}
				pid, local, err := c.do(method)
				l.note(pid, local, c.dialed, err)
				time.Sleep(time.Millisecond) // the load is to be steady, not great
			}
		})
	}
	stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	t.Cleanup(stop)
	return l, stop
}

func (l *load) note(pid int, local string, dialed time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failures = append(l.failures, failure{err, local, dialed, time.Now()})
		return
	}
	l.answers++
	l.byPid[pid]++
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers
}

// more waits until n more requests were answered.
func (l *load) more(t *testing.T, n int) {
	t.Helper()
	before := l.count()
	eventually(t, "answers", func() error {
		if got := l.count() - before; got < n {
			return fmt.Errorf("%d, not %d", got, n)
		}
		return nil
	})
}

func (l *load) lostNothing(t *testing.T) {
	t.Helper()
	for i, f := range l.failures {
		if i == 5 {
			break
		}
		t.Errorf("request lost on a connection from %q: %v", f.local, f.err)
	}
	if len(l.failures) > 0 || l.answers == 0 {
		t.Errorf("%d requests lost, %d answered", len(l.failures), l.answers)
	}
}

// client has at most one connection.
type client struct {
	address string
	keep    bool
	conn    net.Conn
	dialed  time.Time
	in      *bufio.Reader
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// do sends one request, with 1 KB of body if it is a POST.
func (c *client) do(method string) (pid int, local string, err error) {
	if c.conn == nil {
		c.dialed = time.Now()
		if c.conn, err = net.DialTimeout("tcp", c.address, waitLimit); err != nil {
			return 0, "", err
		}
		c.in = bufio.NewReader(c.conn)
	}
	local = c.conn.LocalAddr().String()
	last := !c.keep
	defer func() {
		if last || err != nil {
			c.close()
		}
	}()
	_ = c.conn.SetDeadline(time.Now().Add(waitLimit))
	request := method + " / HTTP/1.1\r\nHost: test\r\n"
	if !c.keep {
		request += "Connection: close\r\n"
	}
	body := ""
	if method == http.MethodPost {
		body = strings.Repeat("x", 1000)
		request += "Content-Length: 1000\r\n"
	}
	if _, err = io.WriteString(c.conn, request+"\r\n"+body); err != nil {
		return 0, local, err
	}
	answer, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, local, err
	}
	if _, err = io.Copy(io.Discard, answer.Body); err != nil {
		return 0, local, err
	}
	if answer.StatusCode != http.StatusOK {
		return 0, local, errors.New(answer.Status)
	}
	last = last || answer.Close
	pid, err = strconv.Atoi(answer.Header.Get("X-Pid"))
	return pid, local, err
}

// refused says that there was nobody to connect to.
func (f failure) refused() bool { return f.local == "" || errors.Is(f.err, syscall.ECONNREFUSED) }
