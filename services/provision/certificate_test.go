package provision

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const day = 24 * time.Hour

// issue makes a pair as another tool would, valid between two times from now.
func issue(t *testing.T, from, until time.Duration) *pair {
	t.Helper()
	p, err := selfSigned([]string{"shop.example"})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(p.key)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"Another"}}, DNSNames: []string{"shop.example"},
		NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(until),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.(*ecdsa.PrivateKey).PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if p.leaf, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	p.certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return p
}

// supply writes a pair where Supplied looks by default.
func supply(t *testing.T, folder string, p *pair) {
	t.Helper()
	write(t, string(p.certificate), folder, certificateFile)
	write(t, string(p.key), folder, keyFile)
}

// checkInstalled checks that dir holds the pair and nothing else in its files.
func checkInstalled(t *testing.T, dir string, want *pair) {
	t.Helper()
	if read(t, dir, certificateFile) != string(want.certificate) || read(t, dir, keyFile) != string(want.key) {
		t.Errorf("the pair in the volume is not that of %v to %v", want.leaf.NotBefore, want.leaf.NotAfter)
	}
}

func TestRunInstallsASuppliedCertificate(t *testing.T) {
	dir, folder := t.TempDir(), t.TempDir()
	settings := Settings{Supplied: Supplied{Folder: folder}}
	mustRun(t, dir, settings)
	made := read(t, dir, certificateFile)
	p := issue(t, -day, 60*day)
	write(t, string(p.certificate), folder, certificateFile)
	if err := Run(dir, nil, settings); err == nil {
		t.Error("a certificate without its key was accepted")
	}
	if read(t, dir, certificateFile) != made {
		t.Error("half a pair replaced the certificate")
	}
	write(t, string(p.key), folder, keyFile)
	mustRun(t, dir, settings)
	checkInstalled(t, dir, p)
	// The volume keeps it when the folder is empty.
	mustRun(t, dir, Settings{Supplied: Supplied{Folder: t.TempDir()}, ServerNames: "other.example"})
	checkInstalled(t, dir, p)
}

// Whatever else is in the files, only certificates get into certificate.pem, and only the key into key.pem.
func TestASuppliedPairMayBeInOneFile(t *testing.T) {
	p := issue(t, -day, 60*day)
	both := "a comment\n" + string(p.key) + string(p.certificate)
	for what, files := range map[string]map[string]string{
		"one file":             {certificateFile: both},
		"a key in both":        {certificateFile: both, keyFile: string(p.key)},
		"a certificate in key": {certificateFile: string(p.certificate), keyFile: both},
	} {
		dir, folder := t.TempDir(), t.TempDir()
		for name, content := range files {
			write(t, content, folder, name)
		}
		if err := Run(dir, nil, Settings{Supplied: Supplied{Folder: folder}}); err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		checkInstalled(t, dir, p)
	}
}

// certbot's folder has links from live/NAME to archive/NAME, and changes them at a renewal.
func TestCertbotsFolder(t *testing.T) {
	dir, folder := t.TempDir(), t.TempDir()
	renewed := func(n string) *pair {
		p := issue(t, -day, 60*day)
		write(t, string(p.certificate), folder, "archive", "shop.example", "fullchain"+n+".pem")
		write(t, string(p.key), folder, "archive", "shop.example", "privkey"+n+".pem")
		if err := os.MkdirAll(filepath.Join(folder, "live", "shop.example"), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"fullchain", "privkey"} {
			link := filepath.Join(folder, "live", "shop.example", name+".pem")
			_ = os.Remove(link)
			if err := os.Symlink("../../archive/shop.example/"+name+n+".pem", link); err != nil {
				t.Fatal(err)
			}
		}
		return p
	}
	settings := Settings{Supplied: Supplied{
		Folder: folder, Certificate: "live/shop.example/fullchain.pem", Key: "live/shop.example/privkey.pem",
	}}
	first := renewed("1")
	mustRun(t, dir, settings)
	checkInstalled(t, dir, first)
	version := read(t, dir, versionFile)
	second := renewed("2")
	if found := renew(dir, settings, time.Now()); found != (report{}) {
		t.Error(found.text)
	}
	checkInstalled(t, dir, second)
	if read(t, dir, versionFile) == version {
		t.Error("the version has not changed with the certificate: nginx would not load it")
	}
	if err := CheckCertificate(dir, settings); err != nil {
		t.Error(err)
	}
}

// What no server could use is named at the start, and while the stack runs, and replaces nothing.
func TestUnusablePairs(t *testing.T) {
	good, other := issue(t, -day, 60*day), issue(t, -day, 60*day)
	link := func(target, name string) func(*testing.T, string) {
		return func(t *testing.T, folder string) {
			if err := os.Symlink(target, filepath.Join(folder, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	files := func(certificate, key string) func(*testing.T, string) {
		return func(t *testing.T, folder string) {
			write(t, certificate, folder, certificateFile)
			write(t, key, folder, keyFile)
		}
	}
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})
	old := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: []byte("x")})
	for what, c := range map[string]struct {
		fill     func(*testing.T, string)
		supplied Supplied
		want     []string
	}{
		"a dangling link":      {fill: link("/etc/letsencrypt/live/x/fullchain.pem", certificateFile), want: []string{"certificate.pem is a link to /etc/letsencrypt/live"}},
		"a dangling key":       {fill: link("nowhere", keyFile), want: []string{"certificate.pem: no such file"}},
		"a named one missing":  {fill: func(*testing.T, string) {}, supplied: Supplied{Certificate: "live/x/fullchain.pem"}, want: []string{"live/x/fullchain.pem: no such file"}},
		"a folder":             {fill: func(t *testing.T, folder string) { write(t, "", folder, certificateFile, "x") }, want: []string{"certificate.pem: is a directory"}},
		"another's key":        {fill: files(string(good.certificate), string(other.key)), want: []string{"certificate.pem", "key.pem", "does not match"}},
		"no key":               {fill: files(string(good.certificate), "nothing"), want: []string{"key.pem holds no private key"}},
		"no certificate":       {fill: files(string(good.key), string(good.key)), want: []string{"certificate.pem holds no certificate"}},
		"an encrypted key":     {fill: files(string(good.certificate), string(encrypted)), want: []string{"key.pem", "passphrase"}},
		"an old encrypted key": {fill: files(string(good.certificate), string(old)), want: []string{"key.pem", "passphrase"}},
	} {
		t.Run(what, func(t *testing.T) {
			dir, folder := t.TempDir(), t.TempDir()
			c.supplied.Folder = folder
			mustRun(t, dir, Settings{})
			before := read(t, dir, certificateFile) + read(t, dir, keyFile)
			c.fill(t, folder)
			settings := Settings{Supplied: c.supplied}
			renewed := renew(dir, settings, time.Now())
			if renewed.level != slog.LevelError {
				t.Errorf("while it runs: level %v", renewed.level)
			}
			errs := map[string]string{"while it runs": renewed.text}
			for where, err := range map[string]error{"init": Run(dir, nil, settings), "init, at first": Run(t.TempDir(), nil, settings), "the check": CheckCertificate(dir, settings)} {
				if err == nil {
					t.Errorf("%s: no error", where)
					continue
				}
				errs[where] = err.Error()
			}
			for where, text := range errs {
				for _, want := range append(c.want, "CERTIFICATES: ") {
					if !strings.Contains(text, want) || strings.Contains(text, "\n") || strings.Contains(text, folder) {
						t.Errorf("%s: %q, want one line with %q", where, text, want)
					}
				}
			}
			if read(t, dir, certificateFile)+read(t, dir, keyFile) != before {
				t.Error("it replaced the pair in the volume")
			}
		})
	}
}

// A pair that is not valid now is named, and installed only where there is no better one.
func TestPairsOfAnotherTime(t *testing.T) {
	for want, p := range map[string]*pair{
		"certificate.pem expired on":          issue(t, -60*day, -day),
		"certificate.pem is not valid before": issue(t, day, 60*day),
	} {
		dir, folder := t.TempDir(), t.TempDir()
		settings := Settings{Supplied: Supplied{Folder: folder}}
		supply(t, folder, p)
		mustRun(t, dir, settings) // a first start
		checkInstalled(t, dir, p)
		check := func() {
			t.Helper()
			found, err := renew(dir, settings, time.Now()), CheckCertificate(dir, settings)
			if found.level != slog.LevelError || !strings.Contains(found.text, want) {
				t.Errorf("the log says %v %q, want %q", found.level, found.text, want)
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("the check says %v, want %q", err, want)
			}
		}
		check()
		good := issue(t, -day, 60*day)
		supply(t, folder, good)
		if found := renew(dir, settings, time.Now()); found != (report{}) {
			t.Error(found.text)
		}
		supply(t, folder, p)
		check()
		mustRun(t, dir, settings)
		checkInstalled(t, dir, good)
	}
}

func TestACertificateThatExpiresSoonIsAWarning(t *testing.T) {
	dir, folder := t.TempDir(), t.TempDir()
	settings := Settings{Supplied: Supplied{Folder: folder}}
	supply(t, folder, issue(t, -day, 15*day))
	mustRun(t, dir, settings)
	now := time.Now()
	if found := renew(dir, settings, now); found != (report{}) {
		t.Errorf("15 days before: %q", found.text)
	}
	second, third := renew(dir, settings, now.Add(2*day)), renew(dir, settings, now.Add(3*day))
	if second.level != slog.LevelWarn || !strings.Contains(second.text, "certificate.pem expires on") || second == third {
		t.Errorf("13 and 12 days before: %v %q, %q", second.level, second.text, third.text)
	}
	if err := CheckCertificate(dir, settings); err != nil {
		t.Errorf("the check fails before the certificate expires: %v", err)
	}
}

// A self-signed certificate is made again while the stack runs, for the same names.
func TestRenewMakesItsOwnAgain(t *testing.T) {
	dir := t.TempDir()
	mustRun(t, dir, Settings{ServerNames: "balanza.example fe80::1 *.example.org"})
	first, err := readPair(dir, certificateFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	later := first.leaf.NotAfter.Add(-certificateSpare - time.Hour)
	renew(dir, Settings{}, later)
	checkInstalled(t, dir, first)
	if found := renew(dir, Settings{}, later.Add(2*time.Hour)); found != (report{}) {
		t.Error(found.text)
	}
	second, err := readPair(dir, certificateFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if second.leaf.Equal(first.leaf) || strings.Join(second.names(), " ") != strings.Join(first.names(), " ") {
		t.Errorf("renewed %v for %v, want another for %v", second.leaf.NotAfter, second.names(), first.names())
	}
}

// What is wrong is one line for as long as it lasts, and what is wrong for a moment, as in the middle of a renewal, is none.
func TestRenewLogsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		defer slog.SetDefault(slog.Default())
		slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
		dir, folder := t.TempDir(), t.TempDir()
		settings := Settings{Supplied: Supplied{Folder: folder}}
		first, second := issue(t, -day, 60*day), issue(t, -day, 60*day)
		supply(t, folder, first)
		mustRun(t, dir, settings)
		log.Reset()

		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			Renew(ctx, dir, settings)
			close(ended)
		}()
		after := func(d time.Duration, want ...string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			lines := slices.Collect(strings.Lines(log.String()))
			ok := len(lines) == len(want)
			for i := range want {
				ok = ok && strings.Contains(lines[i], want[i])
			}
			if !ok {
				t.Errorf("the log has %q, want lines with %q", lines, want)
			}
			log.Reset()
		}
		after(renewInterval / 2)
		write(t, string(second.certificate), folder, certificateFile) // the first half of a renewal
		after(renewInterval)
		write(t, string(second.key), folder, keyFile)
		after(5*renewInterval, "level=INFO msg=\"installed the supplied certificate\"")
		checkInstalled(t, dir, second)
		write(t, string(first.key), folder, keyFile)
		after(20*renewInterval, "level=ERROR")
		write(t, string(second.key), folder, keyFile)
		after(20*renewInterval, "level=INFO msg=\"certificate: valid again\"")
		checkInstalled(t, dir, second)
		cancel()
		<-ended
	})
}
