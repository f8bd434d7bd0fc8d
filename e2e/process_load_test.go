package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// load is clients that ask again and again and retry nothing: half of them on fresh connections, half on one that is
// kept alive and used again as soon as the answer is there, so that a connection closed without a word is a request lost.
type load struct {
	mu       sync.Mutex
	answers  int
	lost     []error // requests without an answer of the application
	shortage int     // of them those that were refused a connection
}

// startLoad asks the paths of an address, like "GET /info", in turn. stop ends it.
func startLoad(t *testing.T, address string, clients int, requests ...string) (l *load, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l = &load{}
	var running sync.WaitGroup
	for i := range clients {
		running.Go(func() {
			c := strictClient{address: address, keep: i%2 == 0}
			defer c.hangUp()
			for n := i; ctx.Err() == nil; n++ {
				l.note(c.do(requests[n%len(requests)]))
				time.Sleep(5 * time.Millisecond) // the load is to be steady, not great
			}
		})
	}
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(stop)
	return l, stop
}

func (l *load) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var dial *net.OpError
	switch {
	case err == nil:
		l.answers++
	case errors.As(err, &dial) && dial.Op == "dial":
		l.shortage++
		fallthrough
	default:
		l.lost = append(l.lost, err)
	}
}

func (l *load) count() (answers, lost int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers, len(l.lost)
}

// more waits until n more requests were answered.
func (l *load) more(t *testing.T, n int) {
	t.Helper()
	before, _ := l.count()
	eventually(t, fmt.Sprintf("%d more answers", n), func() error {
		if now, lost := l.count(); now < before+n {
			return fmt.Errorf("%d, and %d requests lost", now-before, lost)
		}
		return nil
	})
}

// check fails the test when more requests were lost than may be, or any was refused a connection.
func (l *load) check(t *testing.T, mayLose int) {
	t.Helper()
	answers, lost := l.count()
	if lost > mayLose || l.shortage > 0 || answers == 0 {
		t.Errorf("%d answered, %d lost, %d may be; %d refused", answers, lost, mayLose, l.shortage)
		for _, err := range l.lost[:min(lost, 5)] {
			t.Log(err)
		}
	}
}

// strictClient has at most one connection.
type strictClient struct {
	address string
	keep    bool
	conn    net.Conn
	in      *bufio.Reader
}

func (c *strictClient) hangUp() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// do sends one request, like "GET /info"; with a body if it is a POST. Any answer below 500 is one.
func (c *strictClient) do(request string) (err error) {
	if c.conn == nil {
		if c.conn, err = net.DialTimeout("tcp", c.address, 20*time.Second); err != nil {
			return err
		}
		c.in = bufio.NewReader(c.conn)
	}
	last := !c.keep
	defer func() {
		if last || err != nil {
			c.hangUp()
		}
	}()
	_ = c.conn.SetDeadline(time.Now().Add(20 * time.Second))
	text := request + " HTTP/1.1\r\nHost: " + c.address + "\r\nAccept: application/json\r\n"
	if !c.keep {
		text += "Connection: close\r\n"
	}
	if strings.HasPrefix(request, http.MethodPost) {
		text += "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
	} else {
		text += "\r\n"
	}
	if _, err := io.WriteString(c.conn, text); err != nil {
		return fmt.Errorf("%s: %w", request, err)
	}
	answer, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", request, err)
	}
	last = last || answer.Close
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", request, err)
	}
	if answer.StatusCode >= http.StatusInternalServerError {
		return fmt.Errorf("%s: %s: %s", request, answer.Status, body)
	}
	return nil
}
