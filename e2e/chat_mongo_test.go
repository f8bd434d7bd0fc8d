package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"balanza/e2e/testenv"
	"balanza/services/store"
	"balanza/services/store/mongostore"
)

const mongoImage = "mongo:8.0"

// mongod is a MongoDB server in a container of its own.
type mongod struct {
	t    *testing.T
	name string
	uri  string
}

// newMongod names a container of mongoImage, which is removed when the test ends. Without the image the test is skipped or fails.
func newMongod(t *testing.T) *mongod {
	t.Helper()
	if out, err := exec.Command("docker", "image", "inspect", mongoImage).CombinedOutput(); err != nil {
		testenv.SkipOrFail(t, fmt.Errorf("image %s: %w: %s", mongoImage, err, tail(string(out), 200)))
	}
	m := &mongod{t: t, name: fmt.Sprintf("balanza-e2e-%016x", rand.Uint64())}
	t.Cleanup(func() {
		_ = exec.Command("docker", "rm", "--force", "--volumes", m.name).Run() // it may not exist
	})
	return m
}

// runMongod starts a mongod and waits until it answers. The container is removed when the test ends.
func runMongod(t *testing.T) *mongod {
	t.Helper()
	m := newMongod(t)
	address := "127.0.0.1:" + testenv.FreePort(t) // a restart keeps a port that is chosen here
	m.uri = "mongodb://" + address + "/balanza"
	m.docker("run", "--detach", "--name", m.name, "--publish", address+":27017", mongoImage)
	m.awaitAnswer()
	return m
}

func (m *mongod) docker(args ...string) {
	m.t.Helper()
	if out, err := exec.Command("docker", args...).CombinedOutput(); err != nil {
		m.t.Fatalf("docker %s: %v: %s", args[0], err, tail(string(out), 400))
	}
}

// open opens a store on it.
func (m *mongod) open() store.Store {
	m.t.Helper()
	s, err := mongostore.Open(context.Background(), m.uri)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = s.Close() })
	return s
}

func (m *mongod) kill() {
	m.t.Helper()
	m.docker("kill", "--signal", "KILL", m.name)
}

// start starts it after kill and waits until it answers.
func (m *mongod) start() {
	m.t.Helper()
	m.docker("start", m.name)
	m.awaitAnswer()
}

func (m *mongod) awaitAnswer() {
	m.t.Helper()
	s := m.open()
	eventually(m.t, "mongod", func() error { return s.Ping(context.Background()) })
}

// home makes a BALANZA_HOME whose servers use this mongod.
func (m *mongod) home() string {
	m.t.Helper()
	return homeWith(m.t, "MONGODB_URI="+m.uri+"\n"+chatLimits)
}

func TestMongodKilledUnderChatLoad(t *testing.T) {
	m := runMongod(t)
	s := serve(t, m.home(), "--m", "CLUSTER", "-i", "2")
	c := conversation{users: 1, pagesPerUser: 8, messagesPerPage: 80, interval: shortInterval}
	c.run(t, []string{s.url}, func(context.Context) {
		for range 2 {
			time.Sleep(2 * time.Second)
			m.kill()
			time.Sleep(time.Second)
			m.start()
		}
	})
}

// request sends a request and returns the status and the time from the request's last byte to the response's first.
func (u *user) request(method, url, form string) (status int, took time.Duration, err error) {
	var wrote, got time.Time
	trace := &httptrace.ClientTrace{
		WroteRequest:         func(httptrace.WroteRequestInfo) { wrote = time.Now() },
		GotFirstResponseByte: func() { got = time.Now() },
	}
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), method, url, strings.NewReader(form))
	if err != nil {
		return 0, 0, err
	}
	r.Header.Set("Accept", "text/html")
	if form != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	response, err := u.http.Do(r)
	if err != nil {
		return 0, 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, got.Sub(wrote), err
}

func TestMongodPaused(t *testing.T) {
	const pause, maxResponseTime, maxRecoveryTime = 15 * time.Second, 3 * time.Second, 5 * time.Second
	m := runMongod(t)
	s := serve(t, m.home(), "--m", "CLUSTER", "-i", "2")
	u := newUser(t, s.url, "ana")
	p := openPage(t, u, 0, s.url)
	p.send("before")
	p.awaitShown(t, 1)
	routes := []struct {
		method, path, form string
		online, paused     int // status while MongoDB answers, and while it does not
	}{
		{"GET", "/", "", 200, 503},
		{"POST", "/login", "email=ana@example.com&password=" + strings.ReplaceAll(password, " ", "+"), 303, 503},
		{"GET", "/api/productos", "", 200, 503},
		{"GET", "/api/randoms?cant=1000", "", 200, 200},
		{"GET", "/info", "", 200, 200},
	}
	// A log-in ends the session of its request. Another user logs in, so that the page keeps its session.
	other := newUser(t, s.url, "beto")
	userOf := func(method string) *user {
		if method == "POST" {
			return other
		}
		return u
	}
	for _, r := range routes {
		if status, _, err := userOf(r.method).request(r.method, s.url+r.path, r.form); status != r.online {
			t.Fatalf("%s %s: %d, %v, want %d", r.method, r.path, status, err, r.online)
		}
	}

	m.docker("pause", m.name)
	end := time.Now().Add(pause)
	p.send("meanwhile")
	var requests sync.WaitGroup
	for _, r := range routes {
		requests.Go(func() {
			for n := 0; time.Now().Before(end.Add(-maxResponseTime)); n++ {
				status, took, err := userOf(r.method).request(r.method, s.url+r.path, r.form)
				if err != nil || status != r.paused || took > maxResponseTime {
					t.Errorf("%s %s while paused: %d after %v, %v; want %d within %v", r.method, r.path, status, took, err,
						r.paused, maxResponseTime)
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	requests.Wait()
	time.Sleep(time.Until(end))
	m.docker("unpause", m.name)
	unpaused := time.Now()
	for _, r := range routes {
		eventually(t, r.path, func() error {
			if status, _, err := userOf(r.method).request(r.method, s.url+r.path, r.form); status != r.online {
				return errors.Join(fmt.Errorf("status %d", status), err)
			}
			return nil
		})
	}
	if took := time.Since(unpaused); took > maxRecoveryTime {
		t.Errorf("all routes recovered after %v, want %v", took, maxRecoveryTime)
	}
	p.awaitShown(t, 2)
	checkPages(t, []*page{p}, 2)
}
