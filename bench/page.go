package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// received is a frame of the server and the time of its arrival.
type received struct {
	frame []byte
	at    time.Time
}

// page is an open chat page.
type page struct {
	conn   *websocket.Conn
	pid    int           // of the process at the other end
	frames chan received // closed when the connection has ended
}

// signUp registers a user and returns the cookie of its session in the form of the header Cookie.
func (s *server) signUp(ctx context.Context, name string) (cookie string, err error) {
	body, err := json.Marshal(map[string]any{
		"email": name + "@example.com", "password": "correct horse battery", "nombre": name, "apellido": "Prueba", "edad": 30,
		"alias": name,
	})
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/signup", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := noKeepAlive.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	for _, c := range res.Cookies() {
		if !strings.HasSuffix(c.Name, ".device") {
			return c.Name + "=" + c.Value, nil
		}
	}
	return "", fmt.Errorf("sign-up answers %s without a session", res.Status)
}

// dial opens a websocket with the headers of a page of the site, and returns it with the id of the process that accepted it.
func (s *server) dial(ctx context.Context, cookie string) (*websocket.Conn, int, error) {
	return s.dialPath(ctx, cookie, "/ws")
}

// dialPath is dial for another path than that of a chat page.
func (s *server) dialPath(ctx context.Context, cookie, path string) (*websocket.Conn, int, error) {
	// Small buffers: section sockets opens thousands in this process.
	d := websocket.Dialer{ReadBufferSize: 1024, WriteBufferSize: 512, HandshakeTimeout: 10 * time.Second}
	// The server rejects a websocket of another origin, and one without a session.
	header := http.Header{"Origin": {s.url}, "Cookie": {cookie}}
	conn, res, err := d.DialContext(ctx, strings.Replace(s.url, "http", "ws", 1)+path, header)
	if err != nil {
		if res != nil {
			err = fmt.Errorf("%w: %s", err, res.Status)
		}
		return nil, 0, err
	}
	pid, err := strconv.Atoi(res.Header.Get(balanzaPid))
	return conn, pid, err
}

// openPage opens a page and records the frames that it receives.
func (s *server) openPage(ctx context.Context, cookie string) (*page, error) {
	conn, pid, err := s.dial(ctx, cookie)
	if err != nil {
		return nil, err
	}
	// The channel has room for what arrives while the bench waits on another page.
	p := &page{conn, pid, make(chan received, 100)}
	go func() {
		defer close(p.frames)
		for {
			_, frame, err := conn.ReadMessage()
			if err != nil { // closed by this process or the server: waitFor reports it
				return
			}
			p.frames <- received{frame, time.Now()}
		}
	}()
	return p, nil
}

// openPagesApart opens two pages at different processes. No client can choose its process, so it repeats the second.
func (s *server) openPagesApart(ctx context.Context, cookie string) (a, b *page, err error) {
	if a, err = s.openPage(ctx, cookie); err != nil {
		return nil, nil, err
	}
	for range 100 { // enough: two workers accept about equally often
		if b, err = s.openPage(ctx, cookie); err != nil {
			return nil, nil, err
		}
		if b.pid != a.pid {
			return a, b, nil
		}
		_ = b.conn.Close()
	}
	return nil, nil, fmt.Errorf("all of 100 pages were accepted by process %d", a.pid)
}

// send posts a message. Its text is also its client id, so texts must differ.
func (p *page) send(text string) error {
	return p.conn.WriteJSON(map[string]string{"type": "message", "text": text, "clientId": text})
}

// waitFor drops frames up to the one with the message of that text, and returns its time of arrival.
func (p *page) waitFor(text string) (time.Time, error) {
	timeout := time.After(10 * time.Second)
	for {
		select {
		case f, open := <-p.frames:
			if !open {
				return time.Time{}, fmt.Errorf("the page at process %d lost its connection", p.pid)
			}
			if bytes.Contains(f.frame, []byte(`"type":"chat"`)) && bytes.Contains(f.frame, []byte(`"`+text+`"`)) {
				return f.at, nil
			}
		case <-timeout:
			return time.Time{}, fmt.Errorf("the page at process %d did not receive %q within 10 s", p.pid, text)
		}
	}
}
