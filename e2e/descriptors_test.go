package e2e

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"balanza/e2e/testenv"
)

// Idle connections that use up the descriptors do not end a server: others are served, open websockets stay, and the log
// says it once.
func TestDescriptorsUsedUp(t *testing.T) {
	eachMode(t, func(t *testing.T, args ...string) {
		port := testenv.FreePort(t)
		log, err := os.Create(filepath.Join(t.TempDir(), "log"))
		if err != nil {
			t.Fatal(err)
		}
		s := &server{t: t, home: t.TempDir(), args: append([]string{"--host", "127.0.0.1", "--p", port}, args...),
			url: "http://127.0.0.1:" + port, log: log, descriptors: 64}
		t.Cleanup(func() {
			s.end(syscall.SIGTERM)
			if t.Failed() {
				content, _ := os.ReadFile(log.Name())
				t.Logf("log:\n%s", tail(string(content), 4000))
			}
		})
		s.start()
		before := s.onlyServer()
		u := newUser(t, s.url, "ana")
		var sockets []*websocket.Conn
		ended := make(chan error, 4)
		for range cap(ended) {
			socket, _, err := u.dial(t.Context(), s.url, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer socket.Close()
			sockets = append(sockets, socket)
			go func() {
				for {
					if _, _, err := socket.ReadMessage(); err != nil {
						ended <- err
						return
					}
				}
			}()
		}

		for i := range 200 {
			idle, err := net.DialTimeout("tcp", s.address(), 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer idle.Close()
			switch i % 3 {
			case 1: // one that has had an answer, if it gets one before it is closed
				_, _ = io.WriteString(idle, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
				go func() { _, _ = http.ReadResponse(bufio.NewReader(idle), nil) }()
			case 2: // one that never sends the rest
				_, _ = io.WriteString(idle, "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n")
			}
		}
		victim := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
		for i := range 100 {
			answer, err := victim.Get(s.url + "/info?format=json")
			if err != nil {
				t.Fatalf("request %d: %v", i, err)
			}
			answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				t.Errorf("request %d: %s", i, answer.Status)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if after := s.onlyServer(); after.Pid != before.Pid || after.Restarts != before.Restarts || after.Status != "online" {
			t.Errorf("%+v, then %+v", before, after)
		}
		select {
		case err := <-ended:
			t.Errorf("a websocket ended: %v", err)
		default:
		}
		for _, socket := range sockets {
			if err := socket.WriteMessage(websocket.TextMessage, []byte(`{"text":"still here","clientId":"1"}`)); err != nil {
				t.Error(err)
			}
		}
		content, err := os.ReadFile(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(content), "out of file descriptors"); n == 0 || n > len(before.Workers) {
			t.Errorf("the log says it %d times", n)
		}
	})
}
