package main

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"balanza/e2e/testenv"
)

// runWith runs balanza with further variables, which win.
func (h *home) runWith(environment []string, args ...string) (output string, status int) {
	h.t.Helper()
	cmd := h.command(args...)
	cmd.Env = append(cmd.Env, environment...)
	out, err := cmd.CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		h.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// A MONGODB_URI that can't be used, or has an option that the driver does not know, is one line and exit status 2 whatever
// serves, and nothing of it is printed that may be a password.
func TestBadMongoURI(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	port := testenv.FreePort(t)
	for uri, names := range map[string]string{
		"mongodb://ana:hush@h/?maxPolSize=3":               `MONGODB_URI: unknown option "maxpolsize"`,
		"mongodb+srv://ana:hush@a.example.org/?retry=hush": `MONGODB_URI: unknown option "retry"`,
		"mongodb://ana:hu/sh@h/x":                          "MONGODB_URI: unescaped slash in password",
		"mongodb://ana:hush":                               "MONGODB_URI: invalid host",
		"ana:hush@h":                                       "MONGODB_URI: it does not begin with",
	} {
		for _, args := range [][]string{
			{"--p", port, "--m", "FORK"}, {"--p", port, "--m", "CLUSTER"}, {"start", "--p", port}, {"up"}, {"up", "-d"},
		} {
			out, status := h.runWith([]string{"MONGODB_URI=" + uri}, args...)
			if status != exitUsage || strings.Count(out, "\n") != 1 || !strings.Contains(out, names) || strings.Contains(out, "hu") {
				t.Errorf("%v: exit status %d, %q; want one line with %q", args, status, out, names)
			}
		}
	}
}

// A setting whose value is of the wrong kind is quoted, unless its name says that it is a secret.
func TestSecretSettingIsNotQuoted(t *testing.T) {
	t.Setenv("BALANZA_PORT", "hush")
	t.Setenv("BALANZA_TOKEN", "hush")
	if err := fromEnvironment(prefix, &struct{ Port int }{}); err == nil || !strings.Contains(err.Error(), `BALANZA_PORT: "hush"`) {
		t.Error(err)
	}
	if err := fromEnvironment(prefix, &struct{ Token int }{}); err == nil || err.Error() != "BALANZA_TOKEN: the value can't be used" {
		t.Error(err)
	}
}

// A server whose database has a name that can't be looked up serves what needs no database, and its log says so.
func TestServesWithoutNameServer(t *testing.T) {
	t.Parallel()
	for _, away := range []string{"silent", "no such name"} {
		t.Run(away, func(t *testing.T) {
			dns := testenv.ServeDNS(t)
			dns.SetSilent(away == "silent")
			h := newHome(t)
			port := testenv.FreePort(t)
			out, status := h.runWith([]string{
				"MONGODB_URI=mongodb+srv://ana:hush-hush@db.example.test/x", nameServerVariable + "=" + dns.Address,
			}, "start", "--name", "site", "--p", port, "--m", "CLUSTER", "-i", "2")
			if status != 0 {
				t.Fatalf("exit status %d, %s", status, out)
			}
			for path, want := range map[string]int{
				"/readyz": 200, "/api/randoms?cant=10": 200, "/info": 200, "/api/productos": 503,
			} {
				response, err := http.Get("http://127.0.0.1:" + port + path)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(response.Body)
				response.Body.Close()
				if response.StatusCode != want || bytes.Contains(body, []byte("hush")) {
					t.Errorf("%s: %s, %s", path, response.Status, body)
				}
			}
			log, err := os.ReadFile(filepath.Join(h.dir, "logs", "site.log"))
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(log, []byte("the database can't be reached")); n != 2 || bytes.Contains(log, []byte("hush")) {
				t.Errorf("%d warnings of two workers in the log:\n%s", n, log)
			}
			h.must("reload", "site") // an outage fails no reload
		})
	}
}
