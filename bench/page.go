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

// told is a frame of the server, and when it came.
type told struct {
	frame []byte
	at    time.Time
}

// page is an open chat page.
type page struct {
	conn *websocket.Conn
	pid  int       // of the process at the other end
	told chan told // closed when the connection has ended
}

// signUp makes a user and returns the cookie of its session, as a request carries it.
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
	res, err := fresh.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusCreated || len(res.Cookies()) != 1 {
		return "", fmt.Errorf("sign-up answers %s with %d cookies", res.Status, len(res.Cookies()))
	}
	c := res.Cookies()[0]
	return c.Name + "=" + c.Value, nil
}

// dial opens a websocket as a page of the site does, and tells which process took it.
func (s *server) dial(ctx context.Context, cookie string) (*websocket.Conn, int, error) {
	d := websocket.Dialer{ReadBufferSize: 1024, WriteBufferSize: 512, HandshakeTimeout: 10 * time.Second}
	header := http.Header{"Origin": {s.url}, "Cookie": {cookie}}
	conn, res, err := d.DialContext(ctx, strings.Replace(s.url, "http", "ws", 1)+"/ws", header)
	if err != nil {
		if res != nil {
			err = fmt.Errorf("%w: %s", err, res.Status)
		}
		return nil, 0, err
	}
	pid, err := strconv.Atoi(res.Header.Get(balanzaPid))
	return conn, pid, err
}

// openPage opens one and keeps what it is told.
func (s *server) openPage(ctx context.Context, cookie string) (*page, error) {
	conn, pid, err := s.dial(ctx, cookie)
	if err != nil {
		return nil, err
	}
	p := &page{conn, pid, make(chan told, 100)}
	go func() {
		defer close(p.told)
		for {
			_, frame, err := conn.ReadMessage()
			if err != nil {
				return
			}
			p.told <- told{frame, time.Now()}
		}
	}()
	return p, nil
}

// pagesApart opens two that are held by different processes.
func (s *server) pagesApart(ctx context.Context, cookie string) (a, b *page, err error) {
	if a, err = s.openPage(ctx, cookie); err != nil {
		return nil, nil, err
	}
	for range 100 {
		if b, err = s.openPage(ctx, cookie); err != nil {
			return nil, nil, err
		}
		if b.pid != a.pid {
			return a, b, nil
		}
		_ = b.conn.Close()
	}
	return nil, nil, fmt.Errorf("100 pages all came to process %d", a.pid)
}

func (p *page) say(text string) error {
	return p.conn.WriteJSON(map[string]string{"type": "message", "text": text, "clientId": text})
}

// sees waits for a message and returns when it came. What else comes is dropped.
func (p *page) sees(text string) (time.Time, error) {
	enough := time.After(10 * time.Second)
	for {
		select {
		case t, open := <-p.told:
			if !open {
				return time.Time{}, fmt.Errorf("the page at process %d lost its connection", p.pid)
			}
			if bytes.Contains(t.frame, []byte(`"type":"chat"`)) && bytes.Contains(t.frame, []byte(`"`+text+`"`)) {
				return t.at, nil
			}
		case <-enough:
			return time.Time{}, fmt.Errorf("the page at process %d did not see %q within 10 s", p.pid, text)
		}
	}
}
