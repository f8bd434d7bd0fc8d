package e2e

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"balanza/e2e/testenv"
)

// TestComposeClones runs two clones side by side, the second with the ports of README, and logs in to both with the cookies of
// one browser. up and down --volumes in one of them leave the containers, the data and the log-ins of the other as they are.
func TestComposeClones(t *testing.T) {
	if !testenv.All() {
		t.Skip("a minute with Docker: set BALANZA_TEST_ALL=1")
	}
	parallelStack(t)
	first, second := newClone(t, "Balanza-e2e One"), newClone(t, "balanza-e2e_two")
	usePortsOfReadme(t, second)
	for _, s := range []*stack{first, second} {
		s.removeAtEnd(t)
	}
	const one, two = "http://localhost:21080", "http://localhost:18000"

	first.up(t)
	u := newUser(t, one, "ana") // a cookie jar ignores ports, as browsers do
	before := first.state(t)
	second.up(t)
	u.signUp(t, two)
	u.wantHome(t, one, two)
	if after := first.state(t); after != before {
		t.Errorf("up in the second clone changed the first one:\n%s\nbefore:\n%s", after, before)
	}

	before = second.state(t)
	first.remove(t)
	if left := first.state(t); left != "" {
		t.Errorf("containers left of the first clone: %s", left)
	}
	second.up(t)
	if after := second.state(t); after != before {
		t.Errorf("down in the first clone changed the second one:\n%s\nbefore:\n%s", after, before)
	}
	u.wantHome(t, two)
}

// TestUpTwoCopies is the same with balanza up: the second copy has a home of its own and another name of the cookie.
func TestUpTwoCopies(t *testing.T) {
	t.Parallel()
	first, second := up(t), up(t, "BALANZA_COOKIE=balanza-2")
	site := func(f *fleet) string {
		return strings.Replace("http://"+f.address("edge"), "127.0.0.1", "localhost", 1)
	}
	u := newUser(t, site(first), "ana")
	u.signUp(t, site(second))
	u.wantHome(t, site(first), site(second))
	if out, err := first.balanza("down").CombinedOutput(); err != nil {
		t.Fatalf("balanza down: %v: %s", err, out)
	}
	u.wantHome(t, site(second))
}

// newClone is newStack in a folder of that name, which names the project.
func newClone(t *testing.T, folder string) *stack {
	t.Helper()
	s := newStack(t)
	s.env = slices.DeleteFunc(s.env, func(v string) bool { return strings.HasPrefix(v, "COMPOSE_PROJECT_NAME=") })
	dir := filepath.Join(filepath.Dir(s.dir), folder)
	if err := os.Rename(s.dir, dir); err != nil {
		t.Fatal(err)
	}
	s.dir = dir
	return s
}

// usePortsOfReadme makes the .env of a second clone as README has it. It names every port of .env.example.
func usePortsOfReadme(t *testing.T, s *stack) {
	t.Helper()
	ports := regexp.MustCompile(`(?m)^HTTP_PORT=.*\n(?:[A-Z_]+=.*\n)+`).Find(readFile(t, "../README.md"))
	for _, port := range regexp.MustCompile(`(?m)^#([A-Z_]+_PORTS?=)`).FindAllSubmatch(readFile(t, "../.env.example"), -1) {
		if !bytes.HasPrefix(port[1], []byte("BALANZA_")) && !bytes.Contains(ports, port[1]) {
			t.Errorf("README has no %s for a second clone", port[1])
		}
	}
	if err := os.WriteFile(filepath.Join(s.dir, ".env"), ports, 0o600); err != nil {
		t.Fatal(err)
	}
	s.env = slices.DeleteFunc(s.env, func(v string) bool { return strings.Contains(v, "_PORT") })
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// up is docker compose up, without the replicas.
func (s *stack) up(t *testing.T) {
	t.Helper()
	if out, err := s.command("docker", "compose", "up", "--detach", "--wait").CombinedOutput(); err != nil {
		t.Fatalf("docker compose up in %s: %v\n%s", s.dir, err, tail(string(out), 3000))
	}
}

// state has a line for each container that runs: its name, its id and the time of its start.
func (s *stack) state(t *testing.T) string {
	t.Helper()
	ids := strings.Fields(s.compose(t, "ps", "--quiet"))
	if len(ids) == 0 {
		return ""
	}
	return s.docker(t, append([]string{"inspect", "--format", "{{.Name}} {{.Id}} {{.State.StartedAt}}"}, ids...)...)
}

// loggedIn returns nil when a site shows the user its page for those who are logged in. It redirects others.
func (u *user) loggedIn(site string) error {
	status, _, err := u.request(http.MethodGet, site+"/", "")
	return expect(err, status == http.StatusOK, "%s: %d, want the page of a user who is logged in", site, status)
}

// wantHome fails the test unless the user is logged in at the sites.
func (u *user) wantHome(t *testing.T, sites ...string) {
	t.Helper()
	for _, site := range sites {
		if err := u.loggedIn(site); err != nil {
			t.Error(err)
		}
	}
}
