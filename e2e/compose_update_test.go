package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// update runs the documented command, and reloads nginx every two seconds meanwhile.
func (s *stack) update(t *testing.T) (output string, failed error) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var out []byte
		out, failed = s.command("sh", "services/update.sh").CombinedOutput()
		output = string(out)
	}()
	for {
		select {
		case <-ended:
			return output, failed
		case <-time.After(2 * time.Second):
			s.reloadNginx(t)
		}
	}
}

// The faults that "sh services/update.sh" meets, and the words by which it says so.
var brokenUpdates = []struct{ name, file, pattern, replacement, says string }{
	{"nginx file", "nginx/locations.conf", "gzip on;", "gzip perhaps;", "nginx refuses its new configuration; nothing was changed"},
	{"source", "services/balanza/main.go", `func main\(\)`, "func main(nothing)", "build"},
	{"image", "Dockerfile", "HEALTHCHECK ", "HEALTHCHECK --interval=1s --timeout=1s --retries=1 CMD [\"/nothing\"]\n#",
		"cluster: the new image does not get healthy; the old one goes on serving"},
}

// testUpdate updates the running stack: no request fails, and the exit status and the words are true.
func testUpdate(t *testing.T, s *stack) {
	paths := []string{randomsPath, "/info", "/login"}
	before := s.services(t)
	for _, broken := range brokenUpdates {
		underLoad(t, "a broken "+broken.name, func() {
			defer s.edit(t, broken.file, broken.pattern, broken.replacement)()
			if out, err := s.update(t); err == nil || !strings.Contains(out, broken.says) {
				t.Errorf("a broken %s: %v, without %q in\n%s", broken.name, err, broken.says, tail(out, 2000))
			}
		}, paths...)
	}
	if after := s.services(t); !maps.Equal(after, before) {
		t.Errorf("containers before the broken updates %v, after them %v", before, after)
	}

	// A stopped replica, which is not to come back, a changed file of nginx and a changed template of init.
	s.docker(t, "stop", s.containers(t, "replica")[0])
	s.edit(t, "nginx/monitor.conf", `"scheme":`, `"changed":`)
	s.edit(t, "services/provision/provision.go", "server_name %s;", "server_name changed.test %s;")
	s.testUpdated(t, "second", 3, paths)
	// The servers don't know the name and answer 421; without it nginx does.
	answer, err := ask(http.MethodGet, composeHTTP+"/info", "", "Host: changed.test")
	if err := expect(err, answer.server() != "", "nginx has the old site.conf: %v", answer.Header); err != nil {
		t.Error(err)
	}
	if log := s.compose(t, "logs", "--no-log-prefix", "--tail", "1", "nginx"); !strings.Contains(log, `"changed":`) {
		t.Errorf("nginx has the old monitor.conf: %s", log)
	}

	s.env = append(s.env, "REPLICA_PORTS=28082-28087")
	s.compose(t, "up", "--detach", "--wait", "--scale", "replica=6")
	s.testUpdated(t, "third", 6, paths)
}

// testUpdated updates the stack to a version, and checks that all its servers run that and are as many as before.
func (s *stack) testUpdated(t *testing.T, version string, replicas int, paths []string) {
	t.Helper()
	s.env = append(s.env, "VERSION="+version)
	before := s.services(t)
	underLoad(t, fmt.Sprintf("updating %d replicas", replicas), func() {
		if out, err := s.update(t); err != nil || !strings.HasSuffix(out, "update: done\n") {
			t.Fatalf("update: %v\n%s", err, tail(out, 3000))
		}
	}, paths...)
	after := s.services(t)
	servers := map[string]int{}
	for id, service := range after {
		if !slices.Contains([]string{"fork", "cluster", "replica"}, service) {
			continue
		}
		servers[service]++
		if _, old := before[id]; old {
			t.Errorf("%s %s was not replaced", service, id)
		}
		if out := s.docker(t, "exec", id, "balanza", "version"); !strings.Contains(out, version) {
			t.Errorf("%s %s runs %s", service, id, out)
		}
	}
	if want := map[string]int{"fork": 1, "cluster": 1, "replica": replicas}; !maps.Equal(servers, want) {
		t.Errorf("after the update %v run, want %v", servers, want)
	}
	eventually(t, "an exactly even split", func() error { return s.checkEven(t, 60, replicas, 0) })
}
