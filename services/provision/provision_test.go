package provision

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"balanza/services/limits"
)

// read returns a file that Run made.
func read(t *testing.T, parts ...string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func mustRun(t *testing.T, dir string, settings Settings) {
	t.Helper()
	if err := Run(dir, nil, settings); err != nil {
		t.Fatal(err)
	}
}

var secretFiles = []string{"mongo-root-password", "mongo-password", "certificate.pem", "key.pem"}

func TestRunMakesEachSecretOnce(t *testing.T) {
	dir := t.TempDir()
	mustRun(t, dir, Settings{})
	before := map[string]string{}
	for _, name := range secretFiles {
		before[name] = read(t, dir, name)
	}
	if len(before["mongo-password"]) < 26 || before["mongo-password"] == before["mongo-root-password"] {
		t.Errorf("weak or equal passwords: %d characters", len(before["mongo-password"]))
	}
	mustRun(t, dir, Settings{})
	for _, name := range secretFiles {
		if read(t, dir, name) != before[name] {
			t.Errorf("%s was made again", name)
		}
	}
}

func TestRunCompletesAHalfMadeFolder(t *testing.T) {
	dir := t.TempDir()
	mustRun(t, dir, Settings{})
	root := read(t, dir, "mongo-root-password")
	for _, name := range []string{"mongo-password", "key.pem"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	mustRun(t, dir, Settings{})
	if read(t, dir, "mongo-root-password") != root {
		t.Error("the password that was there was made again")
	}
	if _, err := tls.LoadX509KeyPair(filepath.Join(dir, "certificate.pem"), filepath.Join(dir, "key.pem")); err != nil {
		t.Error("certificate and key don't belong together:", err)
	}
}

func TestEachFileBelongsToItsReaders(t *testing.T) {
	dir := t.TempDir()
	mustRun(t, dir, Settings{})
	for _, c := range []struct {
		name     string
		mode     fs.FileMode
		uid, gid uint32
	}{
		{"mongo-root-password", 0o400, mongoUser, mongoUser},
		{"mongo-password", 0o440, appUser, mongoUser},
		{"key.pem", 0o400, nginxUser, nginxUser},
		{"certificate.pem", 0o444, nginxUser, nginxUser},
		{"site.conf", 0o444, nginxUser, nginxUser},
		{"limits.conf", 0o444, nginxUser, nginxUser},
		{"version.conf", 0o444, nginxUser, nginxUser},
	} {
		info, err := os.Stat(filepath.Join(dir, c.name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != c.mode {
			t.Errorf("%s has mode %v, want %v", c.name, info.Mode().Perm(), c.mode)
		}
		owner := info.Sys().(*syscall.Stat_t)
		if os.Geteuid() == 0 && (owner.Uid != c.uid || owner.Gid != c.gid) {
			t.Errorf("%s belongs to %d:%d, want %d:%d", c.name, owner.Uid, owner.Gid, c.uid, c.gid)
		}
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRunRenewsItsOwnCertificateForANewName(t *testing.T) {
	dir := t.TempDir()
	mustRun(t, dir, Settings{})
	first := read(t, dir, "certificate.pem")
	mustRun(t, dir, Settings{ServerNames: "balanza.example, 192.168.1.20 fe80::1"})
	second := read(t, dir, "certificate.pem")
	if first == second {
		t.Fatal("the certificate lacks the new names")
	}
	block, _ := pem.Decode([]byte(second))
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "balanza.example", "192.168.1.20", "fe80::1"} {
		if err := certificate.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
}

func TestRunWritesTheSettingsAtEveryStart(t *testing.T) {
	dir := t.TempDir()
	mustRun(t, dir, Settings{ForceHTTPS: true, HTTPSPort: 8443, ServerNames: "a.example"})
	conf := read(t, dir, "site.conf")
	for _, want := range []string{
		"server_name localhost 127.0.0.1 [::1] a.example;",
		"return 301 https://$host:8443$request_uri;",
		`add_header Strict-Transport-Security "max-age=63072000" always;`,
	} {
		if !strings.Contains(conf, want) {
			t.Errorf("site.conf lacks %s:\n%s", want, conf)
		}
	}
	mustRun(t, dir, Settings{})
	if conf := read(t, dir, "site.conf"); strings.Contains(conf, "301") || strings.Contains(conf, "Strict") || strings.Contains(conf, "a.example") {
		t.Errorf("site.conf kept old settings:\n%s", conf)
	}
}

// nginx gets the same numbers as the edge and the servers.
func TestLimits(t *testing.T) {
	dir := t.TempDir()
	mustRun(t, dir, Settings{})
	defaults := read(t, dir, "limits.conf")
	l := limits.Limits{
		Body: 2001, Header: 3002, URL: 1003, ClientTimeout: 5500 * time.Millisecond, Connections: 104, Draws: 105, AccountForms: 106,
	}
	mustRun(t, dir, Settings{Limits: l})
	changed := read(t, dir, "limits.conf")
	for conf, want := range map[string][]string{
		defaults: {
			"client_max_body_size 65536;", "large_client_header_buffers 1 32768;", `"~^.{4097}" 1;`,
			"client_header_timeout 10000ms;", "client_body_timeout 30000ms;", "send_timeout 30000ms;",
			"limit_conn clients 256;", "limit_conn drawing 16;", "rate=30r/m;", "burst=20 nodelay;",
		},
		changed: {
			"client_max_body_size 2001;", "large_client_header_buffers 1 27578;", `"~^.{1004}" 1;`,
			"client_header_timeout 5500ms;", "client_body_timeout 5500ms;", "send_timeout 5500ms;",
			"limit_conn clients 104;", "limit_conn drawing 105;", "rate=106r/m;", "burst=20 nodelay;",
		},
	} {
		for _, line := range want {
			if !strings.Contains(conf, line) {
				t.Errorf("limits.conf lacks %s:\n%s", line, conf)
			}
		}
	}
	l.URL = maxRepeat
	if err := Run(dir, nil, Settings{Limits: l}); err == nil || !strings.Contains(err.Error(), "BALANZA_LIMIT_URL") {
		t.Errorf("an URL that nginx can't count: error %v", err)
	}
}

func TestAbove(t *testing.T) {
	for _, n := range []int{1, 8, 9, 10, 99, 100, 189, 1999, 8194, 9009} {
		pattern := regexp.MustCompile(strings.TrimPrefix(above(n), "~"))
		for i := range 20 * n {
			if got := pattern.MatchString(strconv.Itoa(i)); got != (i > n) {
				t.Fatalf("%s matches %d: %v", pattern, i, got)
			}
		}
	}
}

func TestRunRejectsInvalidNames(t *testing.T) {
	for _, names := range []string{"a;b", "x} server {", "-a", "http://a", "a/b", "a:80", "$host", "~.*"} {
		dir := t.TempDir()
		if err := Run(dir, nil, Settings{ServerNames: names}); err == nil {
			t.Errorf("%q was accepted:\n%s", names, read(t, dir, "site.conf"))
		}
	}
}
