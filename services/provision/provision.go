// Package provision makes the files that the container stack needs before it starts: passwords, a certificate, and the
// part of nginx's configuration that depends on the environment.
package provision

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"balanza/services/hosts"
	"balanza/services/limits"
)

// The users that the containers run as. Each file is readable only by those that need it.
const (
	appUser   = 65532 // Dockerfile
	mongoUser = 999   // the official mongo image
	nginxUser = 101   // the official nginx image
)

// What is known of the certificates made here.
const (
	certificateIssuer = "Balanza"            // marks the certificates made here, the only ones ever made again
	certificateLife   = 825 * 24 * time.Hour // the longest that Apple's systems trust
	certificateSpare  = 30 * 24 * time.Hour  // made again when less than this is left
)

// Settings are what the stack's environment says; the tags are for envconfig.
type Settings struct {
	ServerNames  string `envconfig:"SERVER_NAMES"`             // host names besides localhost, by spaces or commas
	ForceHTTPS   bool   `envconfig:"FORCE_HTTPS"`              // plain HTTP is redirected
	HTTPSPort    int    `envconfig:"HTTPS_PORT" default:"443"` // as browsers reach it
	Certificates string `envconfig:"CERTIFICATES"`             // folder that may hold certificate.pem and key.pem

	Limits limits.Limits `ignored:"true"` // of nginx; zero: the defaults
}

// Run makes in dir what is missing: two MongoDB passwords, nginx's certificate and key, site.conf and limits.conf. Passwords
// are made once and never again; a certificate that the user supplies replaces the one there, and one made here is made again when
// it lacks a name or is about to expire. Each file belongs to the containers' user that reads it, if root runs this.
func Run(dir string, settings Settings) error {
	known, err := hosts.Parse(settings.ServerNames)
	if err != nil {
		return fmt.Errorf("SERVER_NAMES: %w", err)
	}
	names := known.List()
	settings.Limits = cmp.Or(settings.Limits, limits.Default())
	if settings.Limits.URL >= maxRepeat {
		return fmt.Errorf("BALANZA_LIMIT_URL: %d is more than nginx can count, %d", settings.Limits.URL, maxRepeat-1)
	}
	if settings.HTTPSPort == 0 {
		settings.HTTPSPort = 443
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := keepPassword(filepath.Join(dir, "mongo-root-password"), 0o400, mongoUser, mongoUser); err != nil {
		return err
	}
	if err := keepPassword(filepath.Join(dir, "mongo-password"), 0o440, appUser, mongoUser); err != nil {
		return err
	}
	if err := keepCertificate(dir, settings.Certificates, names); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, "limits.conf"), limitsConf(settings.Limits), 0o444, nginxUser, nginxUser); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, "site.conf"), siteConf(names, settings), 0o444, nginxUser, nginxUser)
}

// siteConf is what nginx.conf includes in its server block: the names that nginx answers to, and with ForceHTTPS the
// redirect of plain HTTP and the header by which browsers remember it. Its port is the one that browsers use, which Compose may publish elsewhere than at 443.
func siteConf(names []string, settings Settings) []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, "# Made by \"balanza init\" at every start of the stack from SERVER_NAMES, FORCE_HTTPS and HTTPS_PORT.")
	fmt.Fprintf(&b, "server_name %s;\n", strings.Join(names, " "))
	if !settings.ForceHTTPS {
		return b.Bytes()
	}
	port := ""
	if settings.HTTPSPort != 443 {
		port = fmt.Sprintf(":%d", settings.HTTPSPort)
	}
	fmt.Fprintln(&b, `add_header Strict-Transport-Security "max-age=63072000" always;`)
	fmt.Fprintf(&b, "if ($scheme = http) { return 301 https://$host%s$request_uri; }\n", port)
	return b.Bytes()
}

// firstBuffer is what nginx reads the start of a header into, in bytes. Half-sent headers, of which there may be thousands,
// take no more. A longer header moves to one buffer of the whole size, so that no header within the limit is rejected; one
// that is over it by less than firstBuffer can fit, and is rejected by its size.
const firstBuffer = 1 << 10

// headerTimeout is the longest time for a whole header, as in the edge.
const headerTimeout = 10 * time.Second

// maxRepeat is the largest number of repetitions in a regular expression of nginx.
const maxRepeat = 65535

// limitsConf is what nginx's protect.conf includes: every directive with a number of l. nginx takes most of them from no
// variable.
func limitsConf(l limits.Limits) []byte {
	return fmt.Appendf(nil, `# Made by "balanza init" at every start of the stack from BALANZA_LIMIT_….
client_max_body_size %[1]d;
client_header_buffer_size %[2]d;
large_client_header_buffers 1 %[3]d;
map $request_length $header_too_large {
    default 0;
    "%[4]s" 1;
}
map $request_uri $url_too_long {
    default 0;
    "~^.{%[5]d}" 1;
}

client_header_timeout %[6]dms;
client_body_timeout %[7]dms;
send_timeout %[7]dms;

limit_conn clients %[8]d;
limit_conn drawing %[9]d;
limit_req_zone $attempting_client zone=attempts:1m rate=%[10]dr/m;
limit_req zone=attempts burst=%[11]d nodelay;
`, l.Body, min(firstBuffer, l.Header), l.Header, above(l.Header), l.URL+1,
		min(headerTimeout, l.ClientTimeout).Milliseconds(), l.ClientTimeout.Milliseconds(),
		l.Connections, l.Draws, l.AccountForms, limits.AccountFormsBurst)
}

// above is a regular expression, as nginx's map takes it, for the decimal numbers above n: those with more digits, and
// those that begin as n does and then have a larger digit.
func above(n int) string {
	digits := strconv.Itoa(n)
	alternatives := []string{fmt.Sprintf(`\d{%d,}`, len(digits)+1)}
	for i, d := range digits {
		if d < '9' {
			alternatives = append(alternatives, fmt.Sprintf(`%s[%c-9]\d{%d}`, digits[:i], d+1, len(digits)-i-1))
		}
	}
	return "~^(" + strings.Join(alternatives, "|") + ")$"
}

// keepPassword makes a password of 130 random bits unless the file is there: the database, which is made with the first,
// would not know a second one.
func keepPassword(path string, mode fs.FileMode, uid, gid int) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	slog.Info("init: made a password", "file", path)
	return writeFile(path, []byte(rand.Text()), mode, uid, gid)
}

// keepCertificate puts certificate.pem and key.pem into dir: the user's if supplied has them, else the ones there while
// they serve, else a self-signed pair for names.
func keepCertificate(dir, supplied string, names []string) error {
	certificate, key, err := suppliedPair(supplied)
	if err != nil {
		return fmt.Errorf("CERTIFICATES: %w", err)
	}
	certificatePath, keyPath := filepath.Join(dir, "certificate.pem"), filepath.Join(dir, "key.pem")
	if certificate == nil {
		if pairServes(certificatePath, keyPath, names) {
			return nil
		}
		if certificate, key, err = selfSigned(names); err != nil {
			return err
		}
		slog.Info("init: made a self-signed certificate", "file", certificatePath, "names", names)
	}
	if err := writeFile(keyPath, key, 0o400, nginxUser, nginxUser); err != nil {
		return err
	}
	return writeFile(certificatePath, certificate, 0o444, nginxUser, nginxUser)
}

// suppliedPair reads the user's own pair. None at all is no error; half of one, or halves that don't match, is.
func suppliedPair(folder string) (certificate, key []byte, err error) {
	if folder == "" {
		return nil, nil, nil
	}
	certificate, certificateErr := os.ReadFile(filepath.Join(folder, "certificate.pem"))
	key, keyErr := os.ReadFile(filepath.Join(folder, "key.pem"))
	if errors.Is(certificateErr, fs.ErrNotExist) && errors.Is(keyErr, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err := errors.Join(certificateErr, keyErr); err != nil {
		return nil, nil, err
	}
	_, err = tls.X509KeyPair(certificate, key)
	return certificate, key, err
}

// pairServes tells whether the pair there can stay. A certificate that was not made here always can: it was supplied once,
// and its folder may be empty now because the volume has it.
func pairServes(certificatePath, keyPath string, names []string) bool {
	pair, err := tls.LoadX509KeyPair(certificatePath, keyPath)
	if err != nil {
		return false
	}
	if !slices.Contains(pair.Leaf.Issuer.Organization, certificateIssuer) {
		return true
	}
	for _, name := range names {
		if pair.Leaf.VerifyHostname(strings.Replace(name, "*", "any", 1)) != nil {
			return false
		}
	}
	return time.Until(pair.Leaf.NotAfter) > certificateSpare
}

// selfSigned makes a certificate for names and its key, both as PEM. ECDSA P-256 is what every browser takes and the
// cheapest for the server.
func selfSigned(names []string) (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{certificateIssuer}, CommonName: names[0]},
		NotBefore:             now.Add(-time.Hour), // clocks of a phone and its host differ
		NotAfter:              now.Add(certificateLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(strings.Trim(name, "[]")); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})
	return certificate, key, nil
}

// writeFile replaces path in one step, so that a start cut short leaves no half-written secret. Owners are given only
// by root: anyone else runs this for themselves.
func writeFile(path string, content []byte, mode fs.FileMode, uid, gid int) error {
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(mode))
	if err != nil {
		return err
	}
	defer func() { _ = f.Cleanup() }() // does nothing after a success
	if os.Geteuid() == 0 {
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}
