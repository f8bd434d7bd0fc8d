// Package normalizr compares Balanza's normalised conversations with the npm package normalizr, whose format they have.
package normalizr

import (
	"bytes"
	"embed"
	"encoding/json"
	"os/exec"
	"reflect"
	"testing"
	"time"

	"balanza/e2e/testenv"
	"balanza/services/store"
)

// Message is a denormalised message: its author is inside.
type Message struct {
	ID     int64        `json:"id"`
	Author store.Author `json:"author"`
	Text   string       `json:"text"`
	Time   time.Time    `json:"fecha"`
}

//go:embed normalizr.js package.json package-lock.json
var files embed.FS

// Normalizr is an installed copy of the npm package.
type Normalizr struct {
	dir string
}

// Install installs the npm package, in the version of package-lock.json, into a folder that ends with the test. Without
// Node, npm or a registry the test is skipped, or fails, as testenv.SkipOrFail does.
func Install(t *testing.T) Normalizr {
	t.Helper()
	return Normalizr{testenv.InstallNPM(t, files)}
}

// Compare fails the test unless normalizr denormalises the payload into the messages and normalises the messages into the
// payload.
func (n Normalizr) Compare(t *testing.T, payload any, messages []Message) {
	t.Helper()
	input, err := json.Marshal(map[string]any{"payload": payload, "messages": messages})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "normalizr.js")
	cmd.Dir, cmd.Stdin = n.dir, bytes.NewReader(input)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node: %v", err)
	}
	var want struct{ Denormalised, Normalised json.RawMessage }
	if err := json.Unmarshal(out, &want); err != nil {
		t.Fatal(err)
	}
	EqualJSON(t, "denormalised payload", want.Denormalised, map[string]any{"id": "mensajes", "mensajes": messages})
	EqualJSON(t, "payload", payload, want.Normalised)
}

// EqualJSON fails the test unless both values have the same JSON, whatever the order of its keys.
func EqualJSON(t *testing.T, name string, got, want any) {
	t.Helper()
	if g, w := decoded(t, got), decoded(t, want); !reflect.DeepEqual(g, w) {
		t.Errorf("%s: %v, want %v", name, g, w)
	}
}

// decoded returns the JSON of v as maps and slices.
func decoded(t *testing.T, v any) (value any) {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	return value
}
