package attack

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// requestTimeout limits each request of an account.
const requestTimeout = 10 * time.Second

// Account is a user who attacks, with a session.
type Account struct {
	dial     Dial
	client   *http.Client
	password string
}

// LogIn logs the user of an email in.
func LogIn(ctx context.Context, d Dial, email, password string) (*Account, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	a := &Account{d, &http.Client{
		Timeout: requestTimeout,
		Jar:     jar,
		Transport: &http.Transport{
			DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return d(ctx) },
			MaxConnsPerHost: 64, MaxIdleConnsPerHost: 64,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, password}
	status, err := a.call(ctx, http.MethodPost, "/login", map[string]string{"email": email, "password": password})
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("log-in of %s: status %d", email, status)
	}
	return a, err
}

// Kinds are the attacks of an account by name. Each ends with its context.
func (a *Account) Kinds() map[string]func(context.Context) {
	return map[string]func(context.Context){
		"wrong log-ins": a.wrongLogins,
		"sign-ups":      a.signUps,
		"products":      a.products,
		"lists":         a.lists,
		"websockets":    a.websockets,
		"frames":        a.frames,
		"old joins":     a.oldJoins,
	}
}

// call makes a request with a JSON body, and returns the status.
func (a *Account) call(ctx context.Context, method, path string, body any) (int, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, bytes.NewReader(encoded))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	answer, err := a.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, err
}

// wrongLogins tries passwords of 200 accounts that do not exist, twenty a second.
func (a *Account) wrongLogins(ctx context.Context) {
	n := counter()
	each(ctx, 50*time.Millisecond, func() {
		_, _ = a.call(ctx, http.MethodPost, "/login",
			map[string]string{"email": fmt.Sprintf("nobody-%d@example.org", n()%200), "password": "wrong"})
	})
}

// signUps makes accounts, four a second.
func (a *Account) signUps(ctx context.Context) {
	n := counter()
	each(ctx, 250*time.Millisecond, func() {
		_, _ = a.call(ctx, http.MethodPost, "/signup", map[string]string{
			"email": fmt.Sprintf("many-%d-%d@example.org", time.Now().Unix(), n()), "password": a.password,
			"nombre": "Muchas", "apellido": "Cuentas", "edad": "30", "alias": "m",
		})
	})
}

// products makes products of the greatest length, two hundred a second.
func (a *Account) products(ctx context.Context) {
	n := counter()
	each(ctx, 5*time.Millisecond, func() {
		_, _ = a.call(ctx, http.MethodPost, "/api/productos", map[string]any{
			"nombre": strings.Repeat("n", 100), "precio": n(), "foto": "https://example.org/" + strings.Repeat("f", 2000),
		})
	})
}

// lists reads the products, forty times a second.
func (a *Account) lists(ctx context.Context) {
	each(ctx, 25*time.Millisecond, func() { _, _ = a.call(ctx, http.MethodGet, "/api/productos", nil) })
}

// open opens a websocket. query may say which entry of the log the page has.
func (a *Account) open(ctx context.Context, query string) (*websocket.Conn, error) {
	dialer := websocket.Dialer{
		HandshakeTimeout: requestTimeout, Jar: a.client.Jar,
		NetDialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return a.dial(ctx) },
	}
	conn, _, err := dialer.DialContext(ctx, "ws://localhost/ws"+query, http.Header{"Origin": {"http://localhost"}})
	return conn, err
}

// websockets opens websockets and keeps them, up to a hundred at a time.
func (a *Account) websockets(ctx context.Context) {
	each(ctx, 5*time.Millisecond, func() {
		conn, err := a.open(ctx, "")
		if err != nil {
			return
		}
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		defer conn.Close()
		for err == nil {
			_, _, err = conn.ReadMessage()
		}
	})
}

// frames sends messages as fast as it can on one websocket after the other.
func (a *Account) frames(ctx context.Context) {
	n := counter()
	each(ctx, 200*time.Millisecond, func() {
		conn, err := a.open(ctx, "")
		if err != nil {
			return
		}
		defer conn.Close()
		for err == nil && ctx.Err() == nil {
			_ = conn.SetWriteDeadline(time.Now().Add(requestTimeout))
			err = conn.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"text":"flood","clientId":"flood-%d"}`, n()))
		}
	})
}

// oldJoins joins as a page that has only the first entry, two hundred times a second.
func (a *Account) oldJoins(ctx context.Context) {
	each(ctx, 5*time.Millisecond, func() {
		if conn, err := a.open(ctx, "?after=1"); err == nil {
			conn.Close()
		}
	})
}

// counter returns a function that returns 1, 2, 3 …
func counter() func() int {
	var mu sync.Mutex
	n := 0
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		n++
		return n
	}
}
