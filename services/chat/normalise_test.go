package chat

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"balanza/services/store"
)

// full is a message as the page sees it, with its author inside.
type full struct {
	ID     int64        `json:"id"`
	Author store.Author `json:"author"`
	Text   string       `json:"text"`
	Time   time.Time    `json:"fecha"`
}

func conversation() (entries []store.Entry, messages []full) {
	at := time.Date(2026, 11, 22, 21, 5, 0, 120e6, time.UTC)
	messages = []full{
		{9, ana, "hola, ¿qué tal?", at},
		{10, beto, "</script><script>alert(1)</script>\u2028", at.Add(time.Second)},
		{12, ana, "🙂 \"quoted\" \\ \n", at.Add(1500 * time.Millisecond)},
		{101, ana, "__proto__", at.Add(time.Minute)},
	}
	for _, m := range messages {
		entries = append(entries, store.Entry{N: m.ID, Kind: store.MessagePosted,
			Message: &store.Message{Author: m.Author, Text: m.Text, Time: m.Time}})
	}
	return entries, messages
}

// generic is v's JSON as maps and slices, whose comparison does not mind the order of keys.
func generic(t *testing.T, v any) any {
	t.Helper()
	b, ok := v.(json.RawMessage)
	if !ok {
		var err error
		if b, err = json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	var g any
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return g
}

func TestNormalise(t *testing.T) {
	older := ana
	older.Alias = "before"
	at := time.Date(2026, 11, 22, 21, 5, 0, 0, time.FixedZone("", -3*3600))
	for _, c := range []struct {
		name    string
		entries []store.Entry
		want    string
	}{
		{"nothing said", nil, `{"result":"mensajes","entities":{"chats":{"mensajes":{"id":"mensajes","mensajes":[]}}}}`},
		{"another kind", []store.Entry{{N: 1, Kind: store.LoggedOut, Subject: "s"}},
			`{"result":"mensajes","entities":{"chats":{"mensajes":{"id":"mensajes","mensajes":[]}}}}`},
		{"the last profile stands", []store.Entry{
			{N: 2, Kind: store.MessagePosted, Message: &store.Message{Author: older, Text: "a", Time: at}},
			{N: 4, Kind: store.MessagePosted, Message: &store.Message{Author: ana, Text: "b", Time: at}},
		}, `{"result":"mensajes","entities":{
			"authors":{"ana@example.com":{"id":"ana@example.com","nombre":"Ana","apellido":"Díaz","edad":31,"alias":"anita",
				"avatar":"https://example.com/a.png"}},
			"messages":{
				"2":{"id":2,"author":"ana@example.com","text":"a","fecha":"2026-11-23T00:05:00Z"},
				"4":{"id":4,"author":"ana@example.com","text":"b","fecha":"2026-11-23T00:05:00Z"}},
			"chats":{"mensajes":{"id":"mensajes","mensajes":[2,4]}}}}`},
	} {
		if got, want := generic(t, Normalise(c.entries)), generic(t, json.RawMessage(c.want)); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", c.name, got, want)
		}
	}
}

// The real normalizr denormalises what Normalise gives into the messages, and normalises the messages into the same.
func TestAgainstNormalizr(t *testing.T) {
	dir := installNormalizr(t)
	entries, messages := conversation()
	for name, n := range map[string]int{"nothing said": 0, "one message": 1, "a conversation": len(messages)} {
		said := append([]full{}, messages[:n]...)
		payload := Normalise(entries[:n])
		input, err := json.Marshal(map[string]any{"payload": payload, "messages": said})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "node", "normalizr.js")
		cmd.Dir, cmd.Stdin = dir, bytes.NewReader(input)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: node: %v", name, err)
		}
		var theirs struct{ Denormalised, Normalised json.RawMessage }
		if err := json.Unmarshal(out, &theirs); err != nil {
			t.Fatal(err)
		}
		want := generic(t, map[string]any{"id": "mensajes", "mensajes": said})
		if got := generic(t, theirs.Denormalised); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: normalizr denormalises to %v, want %v", name, got, want)
		}
		if got, want := generic(t, payload), generic(t, theirs.Normalised); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: Normalise gives %v, normalizr %v", name, got, want)
		}
	}
}

// installNormalizr returns a folder with testdata's script and the package it needs. Without node, npm or the network the test
// is skipped, unless BALANZA_TEST_ALL=1.
func installNormalizr(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("node"); err != nil {
		skip(t, err)
	}
	cmd := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline",
		"--fetch-retries=0")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Logf("npm ci: %s", out)
		skip(t, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "normalizr")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func skip(t *testing.T, why error) {
	t.Helper()
	if os.Getenv("BALANZA_TEST_ALL") == "1" {
		t.Fatalf("normalizr is needed: %v", why)
	}
	t.Skipf("no normalizr here: %v", why)
}
