// Package provision makes the files that the container stack needs before it starts: passwords, a certificate, and the
// part of nginx's configuration that depends on the environment.
package provision

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"balanza/services/hosts"
	"balanza/services/limits"
)

// The users that the containers run as. Each file is readable only by those that need it.
const (
	appUser   = 65532 // Dockerfile
	mongoUser = 999   // the official mongo image
	nginxUser = 101   // the official nginx image
)

// Settings are what the stack's environment says; the tags are for envconfig.
type Settings struct {
	ServerNames  string `envconfig:"SERVER_NAMES"`             // host names besides localhost, by spaces or commas
	ForceHTTPS   bool   `envconfig:"FORCE_HTTPS"`              // plain HTTP is redirected
	HTTPSPort    int    `envconfig:"HTTPS_PORT" default:"443"` // as browsers reach it
	MongoData    string `envconfig:"MONGO_DATA"`               // folder of MongoDB's data; empty: no database is looked for
	NewPasswords bool   `envconfig:"NEW_PASSWORDS"`            // passwords that are there are replaced (services/new-passwords.sh)
	Supplied

	Nginx  string        `envconfig:"NGINX"` // folder of nginx's configuration, a part of its version
	Limits limits.Limits `ignored:"true"`    // of nginx; zero: the defaults
}

// Run makes in dir what is missing: two MongoDB passwords, nginx's certificate and key, site.conf, limits.conf and
// version.conf; and it copies folders. Passwords are made once and never again; a certificate that the user supplies replaces
// the one there, and one made here is made again when it lacks a name or is about to expire. Each file belongs to the
// containers' user that reads it, if root runs this. A supplied pair that no server could use is an error; one that is not
// valid at this time is in the log.
func Run(dir string, copies []Copy, settings Settings) error {
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
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	for _, c := range copies {
		if err := c.run(); err != nil {
			return err
		}
	}
	if err := keepPasswords(dir, settings); err != nil {
		return err
	}
	now := time.Now()
	certificate, err := keepCertificate(dir, settings.Supplied, names, now)
	if err != nil {
		return err
	}
	if found := certificate.report(now); found != (report{}) {
		found.log()
	}
	if err := writeFile(filepath.Join(dir, "limits.conf"), limitsConf(settings.Limits), 0o444, nginxUser, nginxUser); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, "site.conf"), siteConf(names, settings), 0o444, nginxUser, nginxUser); err != nil {
		return err
	}
	return writeVersion(dir, settings.Nginx)
}

// lock waits until no other process writes in dir: init and the service certificates may run at the same time.
func lock(dir string) (unlock func(), err error) {
	folder, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(err, folder.Close())
	}
	return func() { _ = folder.Close() }, nil
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

// firstBuffer is what nginx reads the start of a header into, in bytes. A longer header moves to one buffer of the limit and
// rejectedHeader, the bytes over the limit that nginx reads in order to answer 431: it ends an HTTP/2 connection without an
// answer when a header does not fit. The kernel gives the buffer memory as it is filled.
const (
	firstBuffer    = 1 << 10
	rejectedHeader = 24 << 10
)

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
`, l.Body, min(firstBuffer, l.Header), l.Header+rejectedHeader, above(l.Header), l.URL+1,
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

// writeFile replaces path in one step, so that no reader meets half a file and a start cut short leaves no half-written
// secret. A file that has this content already stays. Owners are given only by root: anyone else runs this for themselves.
func writeFile(path string, content []byte, mode fs.FileMode, uid, gid int) error {
	if info, err := os.Stat(path); err == nil && info.Mode() == mode {
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
			return nil
		}
	}
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
