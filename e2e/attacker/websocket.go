package main

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// open opens a websocket with the account's session, or returns nil. query may say what the page has.
func (t *target) open(ctx context.Context, query string) *websocket.Conn {
	cookie := t.session(ctx)
	if cookie == nil {
		return nil
	}
	header := http.Header{"Cookie": {cookie.String()}, "Origin": {"http://localhost"}, "Host": {"localhost"}}
	dialer := websocket.Dialer{HandshakeTimeout: timeout}
	conn, _, err := dialer.DialContext(ctx, "ws://"+t.address+"/ws"+query, header)
	if err != nil {
		return nil
	}
	return conn
}

// websocketFlood opens websockets of one account as fast as the server lets it.
func websocketFlood(ctx context.Context, t *target, done *atomic.Int64) {
	repeat(ctx, 100, 500*time.Millisecond, done, func(int) {
		conn := t.open(ctx, "")
		if conn == nil {
			return
		}
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		defer conn.Close()
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
		}
	})
}

// frameFlood sends frames until the server closes the websocket.
func frameFlood(ctx context.Context, t *target, done *atomic.Int64) {
	repeat(ctx, 2, 200*time.Millisecond, done, func(int) {
		conn := t.open(ctx, "")
		if conn == nil {
			return
		}
		defer conn.Close()
		for n := 0; ctx.Err() == nil; n++ {
			frame := fmt.Appendf(nil, `{"text":"flood %d","clientId":"f-%d-%d"}`, n, time.Now().UnixNano(), n)
			_ = conn.SetWriteDeadline(time.Now().Add(timeout))
			if conn.WriteMessage(websocket.TextMessage, frame) != nil {
				return
			}
		}
	})
}

// oldJoins joins again and again as a page that has only the first entry.
func oldJoins(ctx context.Context, t *target, done *atomic.Int64) {
	repeat(ctx, 30, 10*time.Millisecond, done, func(int) {
		if conn := t.open(ctx, "?after=1"); conn != nil {
			conn.Close()
		}
	})
}
