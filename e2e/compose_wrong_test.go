package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"balanza/e2e/testenv"
)

const (
	wrongProject = composeProject + "-wrong"
	wrongFork    = "http://127.0.0.1:28380"
	wrongNginx   = "http://127.0.0.1:28381"
)

// promise is a line of the page "When something is wrong": the words that one sees, of each of several places at least one.
type promise struct {
	state string // the first words
	words [][]string
}

// promises reads the table of docs/operations.md.
func promises(t *testing.T) (all []promise) {
	t.Helper()
	_, table, found := strings.Cut(string(readFile(t, "../docs/operations.md")), "| you see | it is | do |\n")
	if !found {
		t.Fatal("the table is not there")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	code := regexp.MustCompile("`[^`]+`")
	for row := range strings.Lines(table) {
		cells := strings.Split(row, "|")
		if len(cells) != 5 || strings.HasPrefix(row, "|--") {
			continue
		}
		var p promise
		for place := range strings.SplitSeq(cells[1], ";") {
			var words []string
			for _, span := range code.FindAllString(place, -1) {
				words = append(words, strings.Trim(span, "`"))
			}
			p.words = append(p.words, words)
		}
		p.state = p.words[0][0]
		all = append(all, p)
	}
	return all
}

// kept returns nil when a text has the words.
func (p promise) kept(text string) error {
	for _, words := range p.words {
		if !slices.ContainsFunc(words, func(w string) bool { return strings.Contains(text, w) }) {
			return fmt.Errorf("none of %q in\n%s", words, tail(text, 3000))
		}
	}
	return nil
}

// wrongStack is the stack of fork, mongo, certificates and nginx that the states spoil.
type wrongStack struct {
	*stack
	since time.Time // when the state began
}

// start starts fork and what it needs, with settings as in .env, and does not wait until it is healthy: it may never be.
func (s *wrongStack) start(settings ...string) error {
	usual := s.env
	defer func() { s.env = usual }()
	s.env = append(slices.Clone(usual), settings...)
	_, err := s.try("up", "--detach", "fork")
	return err
}

// up waits until fork, mongo and certificates are healthy, starting what does not run.
func (s *wrongStack) up(t *testing.T) {
	t.Helper()
	eventually(t, "a healthy stack", func() error { // a container that was unhealthy fails it until its next check
		_, err := s.try("up", "--detach", "--wait", "fork", "certificates")
		return err
	})
}

// seen returns what the stack's user can see since the state began: logs, results of health checks, the page of products.
func (s *wrongStack) seen() string {
	logs, _ := s.try("logs", "--no-color", "--since", s.since.UTC().Format(time.RFC3339Nano))
	ids, _ := s.try("ps", "--all", "--quiet")
	health, _ := s.command("docker", append([]string{"inspect", "--format",
		"{{if .State.Health}}{{range .State.Health.Log}}{{.Start.Unix}} {{json .Output}}\n{{end}}{{end}}"}, strings.Fields(ids)...)...).Output()
	var text strings.Builder
	for line := range strings.Lines(string(health)) {
		var began int64
		if _, err := fmt.Sscan(line, &began); err == nil && began >= s.since.Unix() {
			text.WriteString(line)
		}
	}
	page, err := ask(http.MethodGet, wrongFork+"/api/productos", "", "Accept: application/json", "Accept-Language: en")
	return logs + text.String() + page.body + fmt.Sprint(err)
}

// supply writes a certificate and a key into the folder of supplied ones.
func (s *wrongStack) supply(t *testing.T, certificate, key []byte) {
	t.Helper()
	s.write(t, "nginx/certificates/certificate.pem", certificate)
	s.write(t, "nginx/certificates/key.pem", key)
}

// The states, by the first words of their line: each brings about the state, returns what its user sees, which is asked until
// it has the words, and makes it as before.
var states = map[string]func(*testing.T, *wrongStack) (see func() string, mend func()){
	"address already in use": func(t *testing.T, s *wrongStack) (func() string, func()) {
		taken, err := net.Listen("tcp", "127.0.0.1:28382")
		if err != nil {
			t.Fatal(err)
		}
		failed := fmt.Sprint(s.start("FORK_PORT=28382"))
		return func() string { return failed }, func() { taken.Close(); s.up(t) }
	},
	"failed to read": func(t *testing.T, s *wrongStack) (func() string, func()) {
		s.write(t, ".env", []byte("HTTP_PORT 80\n"))
		failed := fmt.Sprint(s.start())
		return func() string { return failed }, func() { os.Remove(filepath.Join(s.dir, ".env")) }
	},
	"unknown option":      settings("MONGODB_URI=mongodb://balanza@mongo:27017/balanza?authSource=balanza&jurnal=true"),
	"BALANZA_DRAIN_DELAY": settings("DRAIN_DELAY=soon"),
	"the database rejects the user or the password": settings("MONGODB_URI=mongodb://balanza:wrong@mongo:27017/balanza?authSource=balanza"),
	"the database can't be reached":                 settings("MONGODB_URI=mongodb://balanza@nowhere:27017/balanza"),
	"passwords are gone from the volume": func(t *testing.T, s *wrongStack) (func() string, func()) {
		s.compose(t, "down", "--timeout", "5")
		s.docker(t, "volume", "rm", wrongProject+"_secrets")
		_ = s.start()
		return s.seen, func() { s.newPasswords(t, `start the stack with "docker compose up"`); s.up(t) }
	},
	"MongoDB accepts no password of the volume": func(t *testing.T, s *wrongStack) (func() string, func()) {
		s.compose(t, "run", "--rm", "--no-deps", "--no-TTY", "--env", "BALANZA_NEW_PASSWORDS=true", "init")
		return func() string { out, err := s.checkHealth(t); return fmt.Sprint(out, err) }, func() { s.newPasswords(t, "new-passwords: done") }
	},
	"root has set the password and the role of the user balanza": func(t *testing.T, s *wrongStack) (func() string, func()) {
		s.compose(t, "exec", "--no-TTY", "mongo", "mongosh", "--quiet", "--norc", "--host", "mongo", "--eval",
			"load('/etc/mongo/users.js'); logIn('root'); db.getSiblingDB('balanza').dropUser('balanza')")
		return func() string { out, err := s.checkHealth(t); return fmt.Sprint(out, err) }, func() {}
	},
	"is a link to": certificates(func(t *testing.T, s *wrongStack, good issued) {
		path := filepath.Join(s.dir, "nginx/certificates/certificate.pem")
		if err := errors.Join(os.Remove(path), os.Symlink("/etc/letsencrypt/live/none.pem", path)); err != nil {
			t.Fatal(err)
		}
	}),
	"holds no private key": certificates(func(t *testing.T, s *wrongStack, good issued) {
		if err := os.Remove(filepath.Join(s.dir, "nginx/certificates/key.pem")); err != nil {
			t.Fatal(err)
		}
	}),
	"can't be used together": certificates(func(t *testing.T, s *wrongStack, good issued) {
		s.supply(t, good.certificate, issue(t, time.Hour).key)
	}),
	"expired on": certificates(func(t *testing.T, s *wrongStack, _ issued) {
		expired := issue(t, -time.Hour)
		s.supply(t, expired.certificate, expired.key)
	}),
	"is not loaded, the one before goes on": func(t *testing.T, s *wrongStack) (func() string, func()) {
		s.compose(t, "up", "--detach", "--wait", "--no-deps", "nginx")
		restore := s.edit(t, "nginx/monitor.conf", `\z`, "no_directive on;\n")
		s.up(t)
		return s.seen, func() { restore(); s.up(t) }
	},
	"no heartbeat for": func(t *testing.T, s *wrongStack) (func() string, func()) {
		s.stopWorker(t, s.containers(t, "fork")[0], wrongFork)
		return s.seen, func() {}
	},
	"does not answer": func(t *testing.T, s *wrongStack) (func() string, func()) {
		s.docker(t, "kill", "--signal", "STOP", s.containers(t, "fork")[0])
		return s.seen, func() { s.compose(t, "restart", "--no-deps", "--timeout", "1", "fork"); s.up(t) }
	},
	"killed by the kernel: the memory limit of": func(t *testing.T, s *wrongStack) (func() string, func()) {
		fork := s.containers(t, "fork")[0]
		return func() string {
				var used float64
				if _, err := fmt.Sscanf(s.docker(t, "stats", "--no-stream", "--format", "{{.MemUsage}}", fork), "%fMiB", &used); err != nil {
					t.Error(err)
				}
				limit := fmt.Sprintf("%dm", int(used)+2)
				s.docker(t, "update", "--memory", limit, "--memory-swap", limit, fork)
				for range 60 { // bodies that it reads and keeps
					conn, err := net.Dial("tcp", strings.TrimPrefix(wrongFork, "http://"))
					if err != nil {
						break // it is restarting
					}
					defer conn.Close()
					_, _ = fmt.Fprintf(conn, "POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 65000\r\n\r\n%s", strings.Repeat("x", 64000))
				}
				time.Sleep(time.Second)
				return s.seen()
			}, func() {
				s.compose(t, "up", "--detach", "--no-deps", "--force-recreate", "--wait", "fork")
			}
	},
	"open 127.0.0.1 instead": func(t *testing.T, s *wrongStack) (func() string, func()) {
		return func() string {
			answer, err := ask(http.MethodGet, wrongNginx+"/info", "", "Accept-Language: en", "Cookie: all="+strings.Repeat("x", 9000))
			return fmt.Sprint(answer.body, err)
		}, func() {}
	},
	"Balanza does not answer to this name": func(t *testing.T, s *wrongStack) (func() string, func()) {
		return func() string {
			answer, err := ask(http.MethodGet, wrongNginx+"/info", "", "Host: elsewhere.example")
			return fmt.Sprint(answer.body, err)
		}, func() {}
	},
	// The last: the database is on a disk of its own, which has no room.
	"disk is full": func(t *testing.T, s *wrongStack) (func() string, func()) {
		s.compose(t, "down", "--volumes", "--timeout", "5")
		s.write(t, "small.yml", []byte("volumes: {mongo: {driver_opts: {type: tmpfs, device: tmpfs, o: 'size=64m,uid=999'}}}\n"))
		s.env = append(s.env, "COMPOSE_FILE=docker-compose.yml:small.yml")
		s.up(t)
		u := newUser(t, wrongFork, "disk")
		create := func() error { return u.createProduct(wrongFork, strings.Repeat("n", 60)) }
		_, _ = s.try("exec", "--no-TTY", "mongo", "dd", "if=/dev/zero", "of=/data/db/fill", "bs=4k") // ends when the disk is full
		created := 0
		see := func() string {
			if create() == nil {
				created++
			}
			return s.seen()
		}
		return see, func() {
			s.compose(t, "exec", "--no-TTY", "mongo", "rm", "/data/db/fill")
			eventually(t, "a product", create)
			answer, err := ask(http.MethodGet, wrongFork+"/api/productos", "")
			if got := strings.Count(answer.body, `"nombre"`); err != nil || got < created+1 {
				t.Errorf("%d products of %d that were acknowledged: %v", got, created+1, err)
			}
		}
	},
}

// settings is the state of a stack with these settings in .env.
func settings(env ...string) func(*testing.T, *wrongStack) (func() string, func()) {
	return func(t *testing.T, s *wrongStack) (func() string, func()) {
		_ = s.start(env...) // it may fail as the state has it
		return s.seen, func() { s.up(t) }
	}
}

// certificates is the state of a stack whose supplied pair was good and was then spoiled.
func certificates(spoil func(t *testing.T, s *wrongStack, good issued)) func(*testing.T, *wrongStack) (func() string, func()) {
	return func(t *testing.T, s *wrongStack) (func() string, func()) {
		good := issue(t, 60*24*time.Hour)
		s.supply(t, good.certificate, good.key)
		spoil(t, s, good)
		return s.seen, func() {
			_ = os.Remove(filepath.Join(s.dir, "nginx/certificates/certificate.pem")) // which may be a link
			s.supply(t, good.certificate, good.key)
			s.compose(t, "exec", "--no-TTY", "certificates", "balanza", "certificates", "--check", "/secrets")
		}
	}
}

// TestWhenSomethingIsWrong brings about every state of the page in docs/operations.md, and finds the words that it promises.
func TestWhenSomethingIsWrong(t *testing.T) {
	if !testenv.All() {
		t.Skip("minutes with Docker: set BALANZA_TEST_ALL=1")
	}
	parallelStack(t)
	s := &wrongStack{stack: newStack(t), since: time.Now()}
	s.env = append(s.env, "COMPOSE_PROJECT_NAME="+wrongProject, "FORK_PORT=28380", "HTTP_PORT=28381", "HTTPS_PORT=28383")
	s.removeAtEnd(t)
	s.compose(t, "build", "--quiet", "fork", "init", "certificates")
	s.up(t)
	tested := map[string]bool{}
	for _, p := range promises(t) {
		state, found := states[p.state]
		if !found || tested[p.state] {
			t.Errorf("no test brings about %q, or two lines begin with it", p.state)
			continue
		}
		tested[p.state] = true
		if !t.Run(p.state, func(t *testing.T) {
			s.since = time.Now()
			see, mend := state(t, s)
			eventually(t, "the words of the page", func() error { return p.kept(see()) })
			mend()
		}) {
			return // the next state needs a stack without a fault
		}
	}
	if len(tested) != len(states) {
		t.Errorf("the page has %d states of %d", len(tested), len(states))
	}
}
