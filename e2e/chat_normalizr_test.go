package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"reflect"
	"testing"
	"time"

	"balanza/services/store"
)

// said is a message as a page sees it, with its author inside.
type said struct {
	ID     int64        `json:"id"`
	Author store.Author `json:"author"`
	Text   string       `json:"text"`
	Time   time.Time    `json:"fecha"`
}

// What the server tells a page, the real normalizr denormalises into what was said, and normalises what was said into it.
func TestServersPayloadAgainstNormalizr(t *testing.T) {
	dir := installNormalizr(t)
	s := serve(t, t.TempDir(), "--m", "CLUSTER", "-i", "2")
	ana, beto := newUser(t, s.url, "ana"), newUser(t, s.url, "beto")
	here, there := openPage(t, ana, 0, s.url), openPage(t, beto, 0, s.url)
	var messages []said
	for i, text := range []string{"hola, ¿qué tal?", "</script><script>alert(1)</script>", "🙂 \"quoted\" \\ \n two lines", "__proto__"} {
		speaker := here
		if i%2 == 1 {
			speaker = there
		}
		speaker.say(text)
		here.awaitShown(t, i+1)
		there.awaitShown(t, i+1)
		messages = append(messages, said{ID: speaker.acked[text], Author: speaker.user.author, Text: text})
	}

	var payload json.RawMessage
	eventually(t, "all messages in one frame", func() (err error) {
		payload, err = firstFrame(t, ana, s.url)
		if err == nil && bytes.Count(payload, []byte(`"fecha"`)) < len(messages) {
			err = errors.New("the process has not heard of all yet")
		}
		return err
	})
	for i, m := range messages {
		when := here.shown[m.ID].Time
		if age := time.Since(when); age < 0 || age > time.Minute {
			t.Errorf("message %d was said at %v", m.ID, when)
		}
		messages[i].Time = when
	}
	input, err := json.Marshal(map[string]any{"payload": payload, "messages": messages})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "normalizr.js")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(input)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node: %v", err)
	}
	var theirs struct{ Denormalised, Normalised json.RawMessage }
	if err := json.Unmarshal(out, &theirs); err != nil {
		t.Fatal(err)
	}
	conversation, err := json.Marshal(map[string]any{"id": "mensajes", "mensajes": messages})
	if err != nil {
		t.Fatal(err)
	}
	sameJSON(t, "denormalised payload", theirs.Denormalised, conversation)
	sameJSON(t, "payload", payload, theirs.Normalised)
}

// firstFrame is the payload that a page gets that has nothing.
func firstFrame(t *testing.T, u *user, site string) (json.RawMessage, error) {
	conn, _, err := u.dial(t.Context(), site, 0)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var frame struct{ Normalised json.RawMessage }
	err = conn.ReadJSON(&frame)
	return frame.Normalised, err
}

// sameJSON fails unless both texts mean the same.
func sameJSON(t *testing.T, what string, got, want []byte) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal(got, &g); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if err := json.Unmarshal(want, &w); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
}

// installNormalizr returns a folder with the chat's script and the package that it needs.
func installNormalizr(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../services/chat/testdata")); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("node"); err != nil {
		missing(t, err)
	}
	cmd := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline",
		"--fetch-retries=0")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Logf("npm ci: %s", tail(string(out), 400))
		missing(t, err)
	}
	return dir
}
