package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"balanza/e2e/testenv"
)

// The passwords of TestRefusedByDatabase. No output may have a part of them.
const (
	firstPassword = "hush/one:@ 1"
	rightPassword = "hush/two:@ 2"
	secretPart    = "hush"
	refusalReason = "the database rejects the user or the password"
)

// runSecuredMongod runs a mongod whose user root has firstPassword, and returns its address.
func runSecuredMongod(t *testing.T) (m *mongod, address string) {
	t.Helper()
	m = newMongod(t)
	address = "127.0.0.1:" + testenv.FreePort(t)
	m.docker("run", "--detach", "--name", m.name, "--publish", address+":27017",
		"--env", "MONGO_INITDB_ROOT_USERNAME=root", "--env", "MONGO_INITDB_ROOT_PASSWORD="+firstPassword, mongoImage)
	eventually(t, "mongod", func() error { return m.admin(firstPassword, "db.runCommand({connectionStatus: 1})") })
	return m, address
}

// admin runs a script as root, through the container's name: the temporary server of the first start has only 127.0.0.1.
func (m *mongod) admin(password, script string) error {
	out, err := exec.Command("docker", "exec", m.name, "sh", "-c", `exec mongosh --quiet --host "$(hostname)" -u root -p "$0" --authenticationDatabase admin admin --eval "$1"`,
		password, script).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, tail(string(out), 300))
	}
	return nil
}

// refusedSite is a server whose database refuses it, with all that it has shown.
type refusedSite struct {
	*server
	shown bytes.Buffer
}

// get returns an answer's status and text.
func (s *refusedSite) get(path, accept string) (int, string, http.Header) {
	s.t.Helper()
	r, _ := http.NewRequest(http.MethodGet, s.url+path, nil)
	r.Header.Set("Accept", accept)
	r.Header.Set("Accept-Language", "en")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err.Error(), nil
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	s.shown.Write(body)
	return response.StatusCode, string(body), response.Header
}

// awaitReadiness waits until /readyz answers with a status and a text.
func (s *refusedSite) awaitReadiness(status int, text string) {
	s.t.Helper()
	eventually(s.t, fmt.Sprint("/readyz ", status), func() error {
		if got, body, _ := s.get("/readyz", "application/json"); got != status || !strings.Contains(body, text) {
			return fmt.Errorf("%d %s", got, body)
		}
		return nil
	})
}

// run runs a command and returns what it printed and its exit status.
func (s *refusedSite) run(args ...string) (string, int) {
	s.t.Helper()
	cmd := s.balanza(args...)
	out, err := cmd.CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		s.t.Fatal(err)
	}
	s.shown.Write(out)
	return string(out), cmd.ProcessState.ExitCode()
}

// mustFail runs a command that fails with one line that has a text.
func (s *refusedSite) mustFail(text string, args ...string) {
	s.t.Helper()
	out, status := s.run(args...)
	if status != 1 || !strings.Contains(out, text) || strings.Count(out, "\n") != 1 {
		s.t.Errorf("balanza %v: exit status %d, %q; want one line with %q", args, status, out, text)
	}
}

// A database that rejects the password is an error from the start of a server on: in the log, in /readyz, for visitors, for
// start, up and reload. The server works by itself when the database lets it in, and nothing shows a password.
func TestRefusedByDatabase(t *testing.T) {
	eachMode(t, func(t *testing.T, args ...string) {
		m, address := runSecuredMongod(t)
		home := homeWith(t, "MONGODB_URI=mongodb://root@"+address+"/balanza?authSource=admin\nMONGODB_PASSWORD_FILE=password")
		setPassword := func(password string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(home, "password"), []byte(password+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		setPassword(rightPassword) // which the database does not know yet
		port := testenv.FreePort(t)
		logFile, err := os.Create(filepath.Join(home, "log"))
		if err != nil {
			t.Fatal(err)
		}
		s := &refusedSite{server: &server{t: t, home: home, url: "http://127.0.0.1:" + port, log: logFile}}

		s.mustFail(refusalReason, append([]string{"start", "--host", "127.0.0.1", "--p", port}, args...)...)
		s.mustFail(refusalReason, "up", "-d", "--shift", fmt.Sprint(freeShift(t)))
		if all := s.ps(); len(all) > 0 {
			t.Errorf("left by commands that failed: %+v", all)
		}

		s.cmd = s.balanza(append([]string{"--host", "127.0.0.1", "--p", port}, args...)...)
		s.cmd.Stdout, s.cmd.Stderr = logFile, logFile
		if err := s.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.end(syscall.SIGTERM) })
		log := func() string {
			content, err := os.ReadFile(logFile.Name())
			if err != nil {
				t.Fatal(err)
			}
			return string(content)
		}
		s.awaitReadiness(http.StatusServiceUnavailable, refusalReason)
		for path, want := range map[string]int{
			"/healthz": 200, "/info": 200, "/api/randoms?cant=1000": 200, "/login": 200, "/api/productos": 500,
		} {
			for _, accept := range []string{"application/json", "text/html"} {
				status, body, header := s.get(path, accept)
				if status != want || want == 500 && (!strings.Contains(body, "misconfigured") || header.Get("Retry-After") != "") {
					t.Errorf("%s: %d, want %d: %s", path, status, want, tail(body, 300))
				}
			}
		}
		s.mustFail(refusalReason, "healthcheck", "--host", "127.0.0.1", "--p", port)
		for _, command := range []string{"ps", "describe"} {
			if out, _ := s.run(command, "site"); !strings.Contains(out, refusalReason) {
				t.Errorf("%s: %s", command, out)
			}
		}
		time.Sleep(5 * time.Second) // two further checks of each process
		lines := strings.Count(log(), "the database refuses this server")
		if want := len(s.ps()["site"].Workers); lines != want {
			t.Errorf("%d lines of the refusal in the log of %d processes:\n%s", lines, want, log())
		}

		if err := m.admin(firstPassword, "db.changeUserPassword('root', '"+rightPassword+"')"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "all processes work", func() error {
			if out, _ := s.run("ps", "site"); strings.Contains(out, refusalReason) {
				return errors.New(out)
			}
			return nil
		})
		s.awaitReadiness(http.StatusOK, "ready")
		works := func(moment string) {
			t.Helper()
			if status, body, _ := s.get("/api/productos", "application/json"); status != http.StatusOK {
				t.Errorf("%s: %d %s", moment, status, body)
			}
		}
		works("with the right password")

		before := s.onlyServer()
		setPassword(firstPassword)
		s.mustFail(refusalReason, "reload", "site")
		works("after a reload that failed")
		if after := s.onlyServer(); after.Restarts != 0 || after.Workers[0].Pid != before.Workers[0].Pid {
			t.Errorf("the reload that failed changed %+v to %+v", before, after)
		}
		if len(before.Workers) > 1 { // a process that replaces a dead one serves what it can
			sendSignal(t, before.Workers[0].Pid, syscall.SIGKILL)
			s.awaitRestarts("site", 1)
			eventually(t, "ps shows the refusal", func() error {
				if out, _ := s.run("ps", "site"); !strings.Contains(out, refusalReason) {
					return errors.New(out)
				}
				return nil
			})
		}
		setPassword(rightPassword)
		s.mustRun("reload", "site")
		works("after the reload")
		if out, _ := s.run("ps", "site"); strings.Contains(out, refusalReason) {
			t.Errorf("ps after the reload: %s", out)
		}
		logs, _ := filepath.Glob(filepath.Join(home, "logs", "*"))
		for _, name := range append(logs, logFile.Name()) {
			content, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			s.shown.Write(content)
		}
		if shown := s.shown.String(); strings.Contains(shown, secretPart) {
			t.Errorf("a password is shown:\n%s", shown)
		}
	})
}

// A process that the kernel kills at its container's limit of memory says so.
func TestKilledForMemory(t *testing.T) {
	parallelStack(t)
	m := newMongod(t) // any image with a shell
	binary := filepath.Join(t.TempDir(), "balanza")
	build := exec.Command("go", "build", "-o", binary, "balanza/services/balanza")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m.docker("run", "--detach", "--name", m.name, "--memory", "100m", "--memory-swap", "100m", "--volume", binary+":/balanza:ro",
		"--entrypoint", "/balanza", mongoImage, "run", "--name", "eater", "--", "bash", "-c", "sleep 5; a=xxxxxxxx; while :; do a=$a$a; done")
	const cause = "killed by the kernel: the memory limit of 100 MiB is reached"
	for _, command := range [][]string{{"exec", m.name, "/balanza", "ps"}, {"exec", m.name, "/balanza", "describe", "eater"}, {"logs", m.name}} {
		eventually(t, strings.Join(command, " "), func() error {
			if out, err := exec.Command("docker", command...).CombinedOutput(); err != nil || !strings.Contains(string(out), cause) {
				return fmt.Errorf("%v: %s", err, out)
			}
			return nil
		})
	}
}
