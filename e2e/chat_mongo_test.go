package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

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

// runMongod starts one and waits until it answers. It is gone when the test ends.
func runMongod(t *testing.T) *mongod {
	t.Helper()
	if out, err := exec.Command("docker", "image", "inspect", mongoImage).CombinedOutput(); err != nil {
		missing(t, fmt.Errorf("image %s: %w: %s", mongoImage, err, tail(string(out), 200)))
	}
	free, err := net.Listen("tcp", "127.0.0.1:0") // a port that stays the same when it is started again
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	m := &mongod{t, "balanza-e2e-" + fmt.Sprintf("%016x", rand.Uint64()), "mongodb://" + address + "/balanza"}
	t.Cleanup(func() {
		_ = exec.Command("docker", "rm", "--force", "--volumes", m.name).Run() // it may not have come to be
	})
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

// open gives the store that is on it.
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

// start starts it again and waits until it answers.
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

// home is a BALANZA_HOME whose servers use it.
func (m *mongod) home() string {
	m.t.Helper()
	return homeWith(m.t, "MONGODB_URI="+m.uri)
}

func TestMongodIsKilledUnderChatWrites(t *testing.T) {
	const says, each = 80, 8
	m := runMongod(t)
	s := serve(t, m.home(), "--m", "CLUSTER", "-i", "2")
	u := newUser(t, s.url, "ana")
	var pages []*page
	for range each {
		pages = append(pages, openPage(t, u, 0, s.url))
	}
	pages[0].say("first")
	for _, p := range pages {
		p.awaitShown(t, 1)
	}
	var talk sync.WaitGroup
	for i, p := range pages {
		talk.Go(func() {
			for j := range says {
				p.say(fmt.Sprintf("page %d message %d", i, j))
				time.Sleep(quick/2 + rand.N(quick))
			}
		})
	}
	for range 2 {
		time.Sleep(2 * time.Second)
		m.kill()
		time.Sleep(time.Second)
		m.start()
	}
	talk.Wait()
	for _, p := range pages {
		p.awaitShown(t, each*says+1)
	}
	// What a killed server forgot, never an acknowledged message, gave its number to another one, which the pages were told too.
	late := openPage(t, u, pages[0].order[0], s.url)
	late.awaitShown(t, each*says)
	late.order = append(pages[0].order[:1:1], late.order...)
	late.shown[late.order[0]] = pages[0].shown[late.order[0]]
	oneChat(t, append(pages, late), each*says+1)
}

// request asks a server and gives the status and the time from the question's end to the answer's first byte.
func (u *user) request(method, url, form string) (status int, took time.Duration, err error) {
	var asked, answered time.Time
	trace := &httptrace.ClientTrace{
		WroteRequest:         func(httptrace.WroteRequestInfo) { asked = time.Now() },
		GotFirstResponseByte: func() { answered = time.Now() },
	}
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), method, url, strings.NewReader(form))
	if err != nil {
		return 0, 0, err
	}
	r.Header.Set("Accept", "text/html")
	if form != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	answer, err := u.http.Do(r)
	if err != nil {
		return 0, 0, err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, answered.Sub(asked), err
}

func TestMongodIsPaused(t *testing.T) {
	const paused, answerWithin, recoverWithin = 15 * time.Second, 3 * time.Second, 5 * time.Second
	m := runMongod(t)
	s := serve(t, m.home(), "--m", "CLUSTER", "-i", "2")
	u := newUser(t, s.url, "ana")
	p := openPage(t, u, 0, s.url)
	p.say("before")
	p.awaitShown(t, 1)
	routes := []struct {
		method, path, form string
		well, without      int // status with MongoDB and without
	}{
		{"GET", "/", "", 200, 503},
		{"POST", "/login", "email=ana@example.com&password=" + strings.ReplaceAll(password, " ", "+"), 303, 503},
		{"GET", "/api/productos", "", 200, 503},
		{"GET", "/api/randoms?cant=1000", "", 200, 200},
		{"GET", "/info", "", 200, 200},
	}
	// A log-in ends the session that it came with: it is somebody else's, for the page is to stay.
	stranger := newUser(t, s.url, "beto")
	who := func(method string) *user {
		if method == "POST" {
			return stranger
		}
		return u
	}
	for _, r := range routes {
		if status, _, err := who(r.method).request(r.method, s.url+r.path, r.form); status != r.well {
			t.Fatalf("%s %s: %d, %v, want %d", r.method, r.path, status, err, r.well)
		}
	}

	m.docker("pause", m.name)
	end := time.Now().Add(paused)
	p.say("meanwhile")
	var asking sync.WaitGroup
	for _, r := range routes {
		asking.Go(func() {
			for n := 0; time.Now().Before(end.Add(-answerWithin)); n++ {
				status, took, err := who(r.method).request(r.method, s.url+r.path, r.form)
				if err != nil || status != r.without || took > answerWithin {
					t.Errorf("%s %s while paused: %d after %v, %v; want %d within %v", r.method, r.path, status, took, err,
						r.without, answerWithin)
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	asking.Wait()
	time.Sleep(time.Until(end))
	m.docker("unpause", m.name)
	back := time.Now()
	for _, r := range routes {
		eventually(t, r.path, func() error {
			if status, _, err := who(r.method).request(r.method, s.url+r.path, r.form); status != r.well {
				return errors.Join(fmt.Errorf("status %d", status), err)
			}
			return nil
		})
	}
	if took := time.Since(back); took > recoverWithin {
		t.Errorf("all was well again after %v, want %v", took, recoverWithin)
	}
	p.awaitShown(t, 2)
	oneChat(t, []*page{p}, 2)
}
