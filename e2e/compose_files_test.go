package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// testNginxFiles changes a file of nginx in the clone, then breaks it: docker compose up makes nginx load the first change,
// and nginx goes on with it after the second. No request fails.
func testNginxFiles(t *testing.T, s *stack) {
	const marked = "X-Edited"
	edit := func(line string) (restore func()) {
		return s.edit(t, "nginx/monitor.conf", `\z`, line+"\n")
	}
	state := func() string {
		return s.docker(t, "inspect", "--format", "{{.Id}} {{.State.StartedAt}}", composeProject+"-nginx-1")
	}
	up := func() { s.compose(t, "up", "--detach") }
	_, first, err := s.versions()
	if err != nil {
		t.Fatal(err)
	}
	container := state()
	underLoad(t, "a changed file of nginx", func() {
		restore := edit("add_header " + marked + " yes always;")
		up()
		s.awaitNginx(t)
		answer, err := ask(http.MethodGet, composeHTTP+"/info", "")
		if err != nil || answer.Header.Get(marked) != "yes" {
			t.Errorf("after the change: %v, %v", answer.Header, err)
		}
		_, second, err := s.versions()
		if err != nil || second == first || second == "" {
			t.Errorf("the version was %q, and is %q, %v", first, second, err)
		}
		restore()

		restore = edit("no_directive on;")
		since := time.Now().UTC().Format(time.RFC3339Nano)
		up()
		refusals := func() (lines []string) {
			logs := s.compose(t, "logs", "--no-color", "--no-log-prefix", "--since", since, "nginx")
			for line := range strings.Lines(logs) {
				if strings.Contains(line, "not loaded") {
					lines = append(lines, line)
				}
			}
			return lines
		}
		eventually(t, "the refusal in the log", func() error { return expect(nil, len(refusals()) > 0, "no line") })
		time.Sleep(5 * time.Second) // start.sh compares the versions twice
		written, loaded, err := s.versions()
		if lines := refusals(); len(lines) != 1 || !strings.Contains(lines[0], `"no_directive" in /etc/nginx/monitor.conf`) ||
			!strings.Contains(lines[0], written) || loaded != second || err != nil {
			t.Errorf("version %s was written, %s runs, and before it was %s, %v; the log says %q", written, loaded, second, err, lines)
		}
		restore()
		up()
		s.awaitNginx(t)
	}, randomsPath, "/info", "/login")
	if now := state(); now != container {
		t.Errorf("nginx was %s and is %s", container, now)
	}
	if _, last, err := s.versions(); last != first || err != nil {
		t.Errorf("with the files as at first the version was %q, and is %q, %v", first, last, err)
	}
}

// issued is a certificate for the tests and its key, both in PEM format.
type issued struct {
	serial           *big.Int
	certificate, key []byte
}

// issue makes a certificate that is valid until a time from now.
func issue(t *testing.T, until time.Duration) issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(until),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return issued{
		template.SerialNumber,
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}),
	}
}

// letsencrypt is a folder as certbot fills it: links in live/site lead to the files of one renewal in archive/site.
type letsencrypt struct {
	*stack
	renewals int
}

// renew writes files and changes the links to them.
func (l *letsencrypt) renew(t *testing.T, chain, key []byte) {
	t.Helper()
	l.renewals++
	for name, content := range map[string][]byte{"fullchain": chain, "privkey": key} {
		file := fmt.Sprint(name, l.renewals, ".pem")
		l.write(t, filepath.Join("letsencrypt/archive/site", file), content)
		l.link(t, name, "../../archive/site/"+file)
	}
}

func (l *letsencrypt) link(t *testing.T, name, target string) {
	t.Helper()
	folder := filepath.Join(l.dir, "letsencrypt/live/site")
	if err := errors.Join(os.MkdirAll(folder, 0o700), os.Symlink(target, filepath.Join(folder, "new"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(folder, "new"), filepath.Join(folder, name+".pem")); err != nil {
		t.Fatal(err)
	}
}

// serves returns nil when nginx serves the certificate.
func serves(want issued) error {
	answer, err := ask(http.MethodGet, composeHTTPS+"/info", "")
	if err != nil {
		return err
	}
	got := answer.TLS.PeerCertificates[0].SerialNumber
	return expect(nil, answer.StatusCode == http.StatusOK && got.Cmp(want.serial) == 0, "%s, certificate %v, want %v", answer.Status, got, want.serial)
}

// testCertificates renews a certificate in certbot's folder, then spoils it in every way: nginx serves the renewed one soon
// without losing a request, and goes on with it, and each fault has its words.
func testCertificates(t *testing.T, s *stack) {
	before := s.env
	s.env = append(slices.Clone(before), "CERTIFICATES=./letsencrypt",
		"CERTIFICATE=live/site/fullchain.pem", "CERTIFICATE_KEY=live/site/privkey.pem")
	folder := &letsencrypt{stack: s}
	first, second := issue(t, 30*24*time.Hour), issue(t, 60*24*time.Hour)
	folder.renew(t, first.certificate, first.key)
	underLoad(t, "a supplied and a renewed certificate", func() {
		s.compose(t, "up", "--detach", "--wait")
		eventually(t, "the supplied certificate", func() error { return serves(first) })
		began := time.Now()
		folder.renew(t, slices.Concat(second.key, second.certificate), second.key)
		eventually(t, "the renewed certificate", func() error { return serves(second) })
		t.Logf("a renewed certificate is served after %v", time.Since(began).Round(100*time.Millisecond))
	}, randomsPath, "/info", "/login")
	if file := s.compose(t, "exec", "--no-TTY", "nginx", "cat", "/secrets/certificate.pem"); file != string(second.certificate) {
		t.Errorf("certificate.pem is not the certificate alone:\n%s", file)
	}

	check := func() string {
		_, err := s.try("exec", "--no-TTY", "certificates", "balanza", "certificates", "--check", "/secrets")
		return fmt.Sprint(err)
	}
	expired := issue(t, -24*time.Hour)
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})
	folder.renew(t, expired.certificate, expired.key)
	if words := check(); !strings.Contains(words, "live/site/fullchain.pem expired on") {
		t.Errorf("an expired certificate: %s", words)
	}
	folder.renew(t, second.certificate, first.key)
	if words := check(); !strings.Contains(words, "private key does not match") {
		t.Errorf("another certificate's key: %s", words)
	}
	folder.renew(t, second.certificate, encrypted)
	if words := check(); !strings.Contains(words, "passphrase") {
		t.Errorf("an encrypted key: %s", words)
	}

	const dangling = "live/site/fullchain.pem is a link to ../../archive/site/none.pem"
	folder.link(t, "fullchain", "../../archive/site/none.pem")
	since := time.Now().UTC().Format(time.RFC3339Nano)
	container := composeProject + "-certificates-1"
	eventually(t, "an unhealthy service certificates", func() error {
		health := s.docker(t, "inspect", "--format", "{{.State.Health.Status}} {{json .State.Health.Log}}", container)
		return expect(nil, strings.HasPrefix(health, "unhealthy") && strings.Contains(health, dangling), "%s", health)
	})
	if out, err := s.try("up", "--detach", "--wait"); err == nil || !strings.Contains(err.Error(), `service "init" didn't complete`) {
		t.Errorf("docker compose up with a dangling link: %v, %s", err, out)
	}
	if words := s.compose(t, "logs", "--no-log-prefix", "--since", since, "init"); !strings.Contains(words, dangling) {
		t.Errorf("init says %s", words)
	}
	eventually(t, "one line in the log", func() error {
		lines := strings.Count(s.compose(t, "logs", "--no-log-prefix", "--since", since, "certificates"), dangling)
		return expect(nil, lines == 1, "%d lines", lines)
	})
	if err := serves(second); err != nil {
		t.Errorf("the certificate from before: %v", err)
	}

	// The volume keeps a supplied certificate; the other tests need the self-signed one.
	s.env = before
	s.docker(t, "run", "--rm", "--volume", composeProject+"_secrets:/secrets", "--entrypoint", "rm", "nginx:1.30", "/secrets/certificate.pem")
	s.compose(t, "up", "--detach", "--wait")
	s.awaitNginx(t)
}
