package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"balanza/e2e/testenv"
)

// firefox is a Firefox of one test, with a profile of its own. It is driven by WebDriver BiDi, whose commands and events
// are JSON messages on a websocket.
type firefox struct {
	t    *testing.T
	conn *websocket.Conn

	mu sync.Mutex // one command at a time
	n  int        // number of the last command
}

// firefoxTab is a page of Firefox.
type firefoxTab struct {
	browser *firefox
	context string // BiDi's id of the tab
}

// startFirefox starts the browser. It ends with the test.
func startFirefox(t *testing.T) *firefox {
	t.Helper()
	path, err := exec.LookPath("firefox-esr")
	if err != nil {
		testenv.SkipOrFail(t, err)
	}
	profile := t.TempDir()
	// A proxy of the environment can't reach the server. And when a device is added to this machine or removed, by Docker or
	// by another test, Firefox would ping all its websockets, and find out by itself which ones are dead.
	settings := `user_pref("network.proxy.type", 0); user_pref("network.notify.changed", false);`
	if err := os.WriteFile(filepath.Join(profile, "user.js"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "--headless", "--no-remote", "--remote-debugging-port", "0", "--profile", profile)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its content processes belong to the group and end with it
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it has ended by itself if this fails
		_ = cmd.Wait()
	})

	var server struct {
		Host string `json:"ws_host"`
		Port int    `json:"ws_port"`
	}
	eventually(t, "Firefox", func() error {
		content, err := os.ReadFile(filepath.Join(profile, "WebDriverBiDiServer.json"))
		if err != nil {
			return err
		}
		return json.Unmarshal(content, &server)
	})
	conn, _, err := websocket.DefaultDialer.DialContext(t.Context(), fmt.Sprintf("ws://%s:%d/session", server.Host, server.Port), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	f := &firefox{t: t, conn: conn}
	f.must("session.new", object{"capabilities": object{}}, nil)
	f.must("session.subscribe", object{"events": []string{"log.entryAdded"}}, nil)
	return f
}

// object is a JSON object.
type object map[string]any

// call sends a command and decodes its result. An exception in a page's script that was reported meanwhile fails the test.
func (f *firefox) call(method string, params object, result any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	_ = f.conn.SetReadDeadline(time.Now().Add(time.Minute))
	if err := f.conn.WriteJSON(object{"id": f.n, "method": method, "params": params}); err != nil {
		return err
	}
	for {
		var m struct {
			ID             int
			Type           string
			Error, Message string
			Result         json.RawMessage
			Params         struct{ Type, Level, Text string } // of log.entryAdded
		}
		if err := f.conn.ReadJSON(&m); err != nil {
			return err
		}
		switch {
		case m.Type == "event":
			// Firefox also reports as an error that a websocket was not connected or broke, with its address.
			if m.Params.Type == "javascript" && m.Params.Level == "error" && !strings.Contains(m.Params.Text, "ws://") {
				f.t.Errorf("Firefox's console: %s", m.Params.Text)
			}
		case m.ID != f.n:
		case m.Type == "error":
			return fmt.Errorf("%s: %s: %s", method, m.Error, m.Message)
		case result == nil:
			return nil
		default:
			return json.Unmarshal(m.Result, result)
		}
	}
}

func (f *firefox) must(method string, params object, result any) {
	f.t.Helper()
	if err := f.call(method, params, result); err != nil {
		f.t.Fatal(err)
	}
}

// newTab opens a window with one tab. All tabs of a Firefox share their cookies. Timers of a tab behind another one would
// be slower than a user's.
func (f *firefox) newTab() *firefoxTab {
	f.t.Helper()
	p := &firefoxTab{browser: f}
	var created struct{ Context string }
	f.must("browsingContext.create", object{"type": "window"}, &created)
	p.context = created.Context
	return p
}

func (p *firefoxTab) open(url string) {
	p.browser.t.Helper()
	p.browser.must("browsingContext.navigate", object{"context": p.context, "url": url, "wait": "complete"}, nil)
}

// evaluateText returns the value of a script, which must be a text.
func (p *firefoxTab) evaluateText(script string) (string, error) {
	var answer struct {
		Type   string // success or exception
		Result struct {
			Type  string
			Value json.RawMessage
		}
		ExceptionDetails struct{ Text string }
	}
	err := p.browser.call("script.evaluate", object{
		"expression": script, "target": object{"context": p.context}, "awaitPromise": true}, &answer)
	switch {
	case err != nil:
		return "", err
	case answer.Type != "success":
		return "", errors.New(answer.ExceptionDetails.Text)
	}
	var text string
	err = json.Unmarshal(answer.Result.Value, &text)
	return text, err
}
