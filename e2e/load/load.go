// Package load sends requests to a server for as long as a test needs them, and counts the responses and the failures.
package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// requestTimeout limits a dial, and a request with its response.
const requestTimeout = 20 * time.Second

// Config says what is sent. Requests are like "GET /info".
type Config struct {
	Address  string                     // host:port
	Clients  int                        // every second one keeps its connection alive
	Requests []string                   // each client sends them in turn
	Body     string                     // JSON, of each POST
	Interval time.Duration              // between a client's response and its next request
	Timeout  time.Duration              // of AwaitResponses
	Check    func(*http.Response) error // says whether a response whose body was read is a failure; nil: from status 500 on
}

// Load is a number of running clients. No client repeats a request that failed. A client with keep-alive sends its next
// request on the same connection, so a server that closes the connection without "Connection: close" causes a failure.
type Load struct {
	Config
	stop      func()
	mu        sync.Mutex
	responses int
	failures  []Failure
}

// Failure is a request without a response that Check accepts.
type Failure struct {
	Err          error
	LocalAddress string // of the client's connection; empty when there was none
	Dialed       time.Time
	Failed       time.Time
}

// NoConnection reports whether the client got no connection, which must not happen as long as a socket listens.
func (f Failure) NoConnection() bool {
	return f.LocalAddress == "" || errors.Is(f.Err, syscall.ECONNREFUSED)
}

// Start starts the clients. They end with Stop, at the latest with the test.
func Start(t *testing.T, c Config) *Load {
	t.Helper()
	if c.Check == nil {
		c.Check = checkStatus
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{Config: c}
	var running sync.WaitGroup
	for i := range c.Clients {
		running.Go(func() { l.run(ctx, i) })
	}
	l.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(l.stop)
	return l
}

// Stop ends the clients after their current requests.
func (l *Load) Stop() { l.stop() }

func checkStatus(response *http.Response) error {
	if response.StatusCode >= http.StatusInternalServerError {
		return errors.New(response.Status)
	}
	return nil
}

// run is one client. Clients start with different requests, so that each request is sent with keep-alive and without.
func (l *Load) run(ctx context.Context, i int) {
	c := client{address: l.Address, keepAlive: i%2 == 0, check: l.Check}
	defer c.close()
	for n := i / 2; ctx.Err() == nil; n++ {
		local, err := c.send(l.Requests[n%len(l.Requests)], l.Body)
		l.mu.Lock()
		if err == nil {
			l.responses++
		} else {
			l.failures = append(l.failures, Failure{err, local, c.dialed, time.Now()})
		}
		l.mu.Unlock()
		time.Sleep(l.Interval) // the load is to be steady, not as high as possible
	}
}

// Responses returns the number of responses so far.
func (l *Load) Responses() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.responses
}

// Failures returns the failures so far.
func (l *Load) Failures() []Failure {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failures
}

// AwaitResponses waits for n more responses.
func (l *Load) AwaitResponses(t *testing.T, n int) {
	t.Helper()
	first := l.Responses()
	for began := time.Now(); l.Responses() < first+n; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > l.Timeout {
			t.Fatalf("%d responses within %v, want %d; %d failures", l.Responses()-first, l.Timeout, n, len(l.Failures()))
		}
	}
}

// CheckFailures fails the test when there are more failures than allowed, when a client got no connection, or when there
// is no response.
func (l *Load) CheckFailures(t *testing.T, allowed int) {
	t.Helper()
	responses, failures := l.Responses(), l.Failures()
	noConnection := slices.ContainsFunc(failures, Failure.NoConnection)
	if len(failures) <= allowed && !noConnection && responses > 0 {
		return
	}
	t.Errorf("%d responses; %d failures, %d allowed; a client got no connection: %v", responses, len(failures), allowed, noConnection)
	for _, f := range failures[:min(len(failures), 5)] {
		t.Logf("request on the connection from %q failed: %v", f.LocalAddress, f.Err)
	}
}

// Send sends one request on a connection of its own. A status from 500 on is an error.
func Send(address, request string) error {
	c := client{address: address, check: checkStatus}
	_, err := c.send(request, "")
	return err
}

// client has at most one connection.
type client struct {
	address   string
	keepAlive bool
	check     func(*http.Response) error
	conn      net.Conn // nil: the next request dials
	in        *bufio.Reader
	dialed    time.Time
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// send sends one request, with the body if it is a POST. local is the connection's address on this side, empty without one.
func (c *client) send(request, body string) (local string, err error) {
	if c.conn == nil {
		c.dialed = time.Now()
		if c.conn, err = net.DialTimeout("tcp", c.address, requestTimeout); err != nil {
			return "", err
		}
		c.in = bufio.NewReader(c.conn)
	}
	local = c.conn.LocalAddr().String()
	last := !c.keepAlive
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", request, err)
		}
		if last || err != nil {
			c.close()
		}
	}()
	_ = c.conn.SetDeadline(time.Now().Add(requestTimeout))
	text := request + " HTTP/1.1\r\nHost: " + c.address + "\r\nAccept: application/json\r\n"
	if !c.keepAlive {
		text += "Connection: close\r\n"
	}
	if strings.HasPrefix(request, http.MethodPost) {
		text += fmt.Sprintf("Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	} else {
		text += "\r\n"
	}
	if _, err := io.WriteString(c.conn, text); err != nil {
		return local, err
	}
	response, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return local, err
	}
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return local, err
	}
	last = last || response.Close
	return local, c.check(response)
}
