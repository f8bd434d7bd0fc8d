package web

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// The panel is for users: others are sent to the log-in, or get 401 where they ask for JSON.
func TestPanelNeedsLogin(t *testing.T) {
	p := start(t)
	a := p.send(t, call{path: "/panel"}).want(t, http.StatusSeeOther)
	if location := a.Header.Get("Location"); location != "/login" {
		t.Errorf("redirected to %q", location)
	}
	p.send(t, call{path: "/panel", header: map[string]string{"Accept": "application/json"}}).want(t, http.StatusUnauthorized)
}

// The commands of the panel begin with what a user types to start the same program.
func TestProgramName(t *testing.T) {
	folder := t.TempDir()
	installed := filepath.Join(folder, "balanza")
	if err := os.WriteFile(installed, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", folder)
	for _, c := range []struct{ executable, folder, want string }{
		{"/tmp/go-build123/b001/exe/balanza", "/home/ana/balanza", "go run ./services/balanza"},
		{"/home/ana/balanza/balanza", "/home/ana/balanza", "./balanza"},
		{"/home/ana/balanza/balanza (deleted)", "/home/ana/balanza", "./balanza"},
		{"/opt/balanza", "/home/ana/balanza", "/opt/balanza"},
		{installed, "/home/ana/balanza", "balanza"},
		{installed, folder, "balanza"},
	} {
		if got := programName(c.executable, c.folder); got != c.want {
			t.Errorf("%s in %s: %q, want %q", c.executable, c.folder, got, c.want)
		}
	}
}
