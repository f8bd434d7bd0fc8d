package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"balanza/e2e/testenv"
)

const (
	mongoProject = composeProject + "-mongo"
	mongoSite    = "http://127.0.0.1:28180" // fork's own port
)

// TestComposeMongo takes the application's user, the passwords and the volume of the passwords away from a stack of fork
// and mongo alone. Each time the database gets them back, and an account, its session and a product are as before.
func TestComposeMongo(t *testing.T) {
	if !testenv.All() {
		t.Skip("half a minute with Docker: set BALANZA_TEST_ALL=1")
	}
	parallelStack(t)
	s := newStack(t)
	s.env = append(s.env, "COMPOSE_PROJECT_NAME="+mongoProject, "FORK_PORT=28180")
	s.removeAtEnd(t)
	up := func() error {
		_, err := s.try("up", "--detach", "--build", "--wait", "fork")
		return err
	}
	if err := up(); err != nil {
		t.Fatal(err)
	}
	ana := newUser(t, mongoSite, "ana")
	if err := ana.createProduct(mongoSite, "regla"); err != nil {
		t.Fatal("a product: ", err)
	}
	mongosh := func(script string) (string, error) {
		return s.try("exec", "--no-TTY", "mongo", "mongosh", "--quiet", "--norc", "--host", "mongo",
			"--eval", "load('/etc/mongo/users.js'); "+script)
	}
	secrets := map[string]bool{} // every password that there was
	// checkServed checks that the database accepts both users and has what it had.
	checkServed := func(t *testing.T) {
		t.Helper()
		out, err := mongosh("print(logIn('balanza') && logIn('root'), password('balanza'), password('root'))")
		words := strings.Fields(out)
		if err != nil || len(words) != 3 || words[0] != "true" {
			t.Fatalf("the users can't log in: %v", err)
		}
		for _, password := range words[1:] {
			secrets[password] = true
		}
		for path, want := range map[string]string{"/api/productos": `"regla"`, "/account": ana.author.ID} {
			answer, err := ana.http.Get(mongoSite + path)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			if err != nil || answer.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
				t.Errorf("%s: %s, %v, want %s in it:\n%s", path, answer.Status, err, want, tail(string(body), 500))
			}
		}
	}
	checkServed(t)

	t.Run("user dropped", func(t *testing.T) {
		out, err := mongosh("logIn('root'); db.getSiblingDB('balanza').dropUser('balanza'); print(logIn('balanza'))")
		if err != nil || strings.TrimSpace(out) != "false" {
			t.Fatalf("the application's user can still log in: %s %v", out, err)
		}
		if out, err := s.checkHealth(t); err != nil || !strings.Contains(out, "the user balanza") {
			t.Errorf("health check: %v, %q", err, out)
		}
		checkServed(t)
		if out, err := s.checkHealth(t); err != nil || out != "" {
			t.Errorf("a second health check: %v, %q", err, out)
		}
	})

	// As new-passwords.sh leaves it when it is interrupted.
	t.Run("passwords that the database does not know", func(t *testing.T) {
		s.compose(t, "run", "--rm", "--no-deps", "--no-TTY", "--env", "BALANZA_NEW_PASSWORDS=true", "init")
		if out, err := s.checkHealth(t); err == nil || !strings.Contains(out, "sh services/new-passwords.sh") {
			t.Errorf("health check: %v, %q", err, out)
		}
		s.newPasswords(t, "new-passwords: done")
		checkServed(t)
	})

	t.Run("passwords removed", func(t *testing.T) {
		used := s.everywhere(t) // before the logs go
		s.compose(t, "down", "--timeout", "10")
		s.docker(t, "volume", "rm", mongoProject+"_secrets")
		if up() == nil {
			t.Fatal("the stack started on a database whose passwords are gone")
		}
		if logs := s.compose(t, "logs", "--no-color", "init"); !strings.Contains(logs, "sh services/new-passwords.sh") {
			t.Errorf("log of init:\n%s", logs)
		}
		s.newPasswords(t, `start the stack with "docker compose up"`)
		if err := up(); err != nil {
			t.Fatal(err)
		}
		checkServed(t)
		used += s.everywhere(t)
		if len(secrets) != 6 {
			t.Errorf("%d passwords of three pairs differ", len(secrets))
		}
		for password := range secrets {
			if strings.Contains(used, password) {
				t.Error("a password is in a log, a configuration or the result of a health check")
			}
		}
	})
}

// newPasswords runs the script, from another folder. The last words of its output must be those.
func (s *stack) newPasswords(t *testing.T, last string) {
	t.Helper()
	script := s.command("sh", filepath.Join(s.dir, "services", "new-passwords.sh"))
	script.Dir = t.TempDir()
	out, err := script.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), last+"\n") {
		t.Fatalf("new-passwords.sh: %v, want %q at the end:\n%s", err, last, tail(string(out), 4000))
	}
}

// checkHealth runs the health check of mongo as Docker does, and returns what it prints.
func (s *stack) checkHealth(t *testing.T) (string, error) {
	t.Helper()
	container := s.containers(t, "mongo")[0]
	var check []string
	if err := json.Unmarshal([]byte(s.docker(t, "inspect", "--format", "{{json .Config.Healthcheck.Test}}", container)), &check); err != nil {
		t.Fatal(err)
	}
	out, err := s.command("docker", slices.Concat([]string{"exec", container}, check[1:])...).CombinedOutput()
	if err != nil {
		err = errors.Join(err, fmt.Errorf("%s", out))
	}
	return string(out), err
}

// everywhere returns what Docker knows and keeps of the stack's containers.
func (s *stack) everywhere(t *testing.T) string {
	t.Helper()
	containers := strings.Fields(s.compose(t, "ps", "--all", "--quiet"))
	return s.compose(t, "config") + s.compose(t, "top") + s.compose(t, "logs", "--no-color") +
		s.docker(t, append([]string{"inspect"}, containers...)...)
}
