package provision

import (
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
	"strings"
	"time"
)

// The pair that nginx reads, in the folder that Run fills.
const (
	certificateFile = "certificate.pem"
	keyFile         = "key.pem"
)

// What is known of the certificates made here.
const (
	certificateIssuer = "Balanza"            // marks the certificates made here, the only ones ever made again
	certificateLife   = 825 * 24 * time.Hour // the longest that Apple's systems trust
	certificateSpare  = 30 * 24 * time.Hour  // made again when less than this is left
)

// expiryWarning is how long before its end a certificate is in the log, once a day.
const expiryWarning = 14 * 24 * time.Hour

// Supplied says where the user's own pair is, if there is one. The names are relative to the folder, so that certbot's fits
// as it is, whose links lead from live/NAME to archive/NAME. A pair that is named must be there.
type Supplied struct {
	Folder      string `envconfig:"CERTIFICATES"`    // empty: there is none
	Certificate string `envconfig:"CERTIFICATE"`     // default certificate.pem; the whole chain
	Key         string `envconfig:"CERTIFICATE_KEY"` // default key.pem, or else the certificate's file
}

// pair is a certificate with its chain and its private key.
type pair struct {
	name             string // of the certificate's file, for messages
	certificate, key []byte // PEM, without anything else
	leaf             *x509.Certificate
}

// read returns the supplied pair, or nil when there is none. Half a pair, a link that leads nowhere, and files that nginx
// could not use are errors.
func (s Supplied) read() (*pair, error) {
	if s.Folder == "" {
		return nil, nil
	}
	named := s.Certificate != "" || s.Key != ""
	certificateName, keyName := cmp.Or(s.Certificate, certificateFile), cmp.Or(s.Key, keyFile)
	if !named && missing(s.Folder, certificateName) && missing(s.Folder, keyName) {
		return nil, nil
	}
	if s.Key == "" && missing(s.Folder, keyName) {
		keyName = certificateName
	}
	p, err := readPair(s.Folder, certificateName, keyName)
	if err != nil {
		return nil, fmt.Errorf("CERTIFICATES: %w", err)
	}
	return p, nil
}

// missing tells that a folder has no such name. A link that leads nowhere is not missing.
func missing(folder, name string) bool {
	_, err := os.Lstat(filepath.Join(folder, name))
	return errors.Is(err, fs.ErrNotExist)
}

// readPair reads a pair and checks that its halves belong together. Each file may also hold the other half, as some tools
// write both into one.
func readPair(folder, certificateName, keyName string) (*pair, error) {
	p := &pair{name: certificateName}
	content, err := readNamed(folder, certificateName)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			p.certificate = append(p.certificate, pem.EncodeToMemory(block)...)
		}
	}
	if p.certificate == nil {
		return nil, fmt.Errorf("%s holds no certificate in PEM format", certificateName)
	}
	if content, err = readNamed(folder, keyName); err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(content); block != nil && p.key == nil; block, rest = pem.Decode(rest) {
		switch {
		case !strings.HasSuffix(block.Type, "PRIVATE KEY"):
		case strings.HasPrefix(block.Type, "ENCRYPTED"), strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return nil, fmt.Errorf("the key in %s has a passphrase, which nginx can't ask for: remove it with openssl pkey", keyName)
		default:
			p.key = pem.EncodeToMemory(block)
		}
	}
	if p.key == nil {
		return nil, fmt.Errorf("%s holds no private key in PEM format", keyName)
	}
	both, err := tls.X509KeyPair(p.certificate, p.key)
	if err != nil {
		return nil, fmt.Errorf("%s and the key in %s can't be used together: %w", certificateName, keyName, err)
	}
	p.leaf = both.Leaf
	return p, nil
}

// readNamed reads a file of a folder. Its errors begin with the file's name, without the folder: that is a path in a
// container, which the reader of the message does not know.
func readNamed(folder, name string) ([]byte, error) {
	path := filepath.Join(folder, name)
	content, err := os.ReadFile(path)
	if target, linkErr := os.Readlink(path); linkErr == nil && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is a link to %s, which is not within the folder", name, target)
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, fmt.Errorf("%s: %w", name, e.Err)
	}
	return content, err
}

// invalid is nil, or says that the certificate has expired or is not valid yet.
func (p *pair) invalid(now time.Time) error {
	switch {
	case now.After(p.leaf.NotAfter):
		return fmt.Errorf("certificate: %s expired on %s", p.name, p.leaf.NotAfter.Format(time.DateOnly))
	case now.Before(p.leaf.NotBefore):
		return fmt.Errorf("certificate: %s is not valid before %s", p.name, p.leaf.NotBefore.Format(time.DateTime+" MST"))
	}
	return nil
}

// report is what the log says of the certificate: that it is invalid, or for a supplied one that it is about to expire. The
// days that are left make it another report every day.
func (p *pair) report(now time.Time) report {
	left := p.leaf.NotAfter.Sub(now)
	if err := p.invalid(now); err != nil {
		return report{slog.LevelError, err.Error()}
	} else if left < expiryWarning && !p.madeHere() {
		return report{slog.LevelWarn, fmt.Sprintf("certificate: %s expires on %s, days left: %d",
			p.name, p.leaf.NotAfter.Format(time.DateOnly), left/(24*time.Hour))}
	}
	return report{}
}

// madeHere tells a certificate of selfSigned from one that was supplied.
func (p *pair) madeHere() bool { return slices.Contains(p.leaf.Issuer.Organization, certificateIssuer) }

// stays tells whether the pair, which is in the volume, can stay there when none is supplied. One that was not made here
// always can: it was supplied once, and its folder may be empty now because the volume has it.
func (p *pair) stays(names []string, now time.Time) bool {
	if !p.madeHere() {
		return true
	}
	for _, name := range names {
		if p.leaf.VerifyHostname(strings.Replace(name, "*", "any", 1)) != nil {
			return false
		}
	}
	return p.leaf.NotAfter.Sub(now) > certificateSpare
}

// names are the names of the certificate.
func (p *pair) names() []string {
	names := slices.Clone(p.leaf.DNSNames)
	for _, ip := range p.leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// keepCertificate puts a pair into dir: the supplied one, else the one there while it can stay, else a self-signed one for
// names. A supplied pair that is not valid now replaces none that is. It returns the pair that was supplied or else is
// there.
func keepCertificate(dir string, supplied Supplied, names []string, now time.Time) (*pair, error) {
	given, err := supplied.read()
	if err != nil {
		return nil, err
	}
	present, presentErr := readPair(dir, certificateFile, keyFile)
	switch {
	case given == nil && presentErr == nil && present.stays(names, now):
		return present, nil
	case given == nil:
		if names == nil && presentErr == nil {
			names = present.names()
		} else if names == nil {
			return nil, presentErr
		}
		if given, err = selfSigned(names); err != nil {
			return nil, err
		}
		slog.Info("made a self-signed certificate", "names", names)
	case given.invalid(now) != nil && presentErr == nil && present.invalid(now) == nil:
		return given, nil
	case presentErr != nil || string(given.certificate) != string(present.certificate):
		slog.Info("installed the supplied certificate", "file", given.name, "until", given.leaf.NotAfter)
	}
	if err := writeFile(filepath.Join(dir, keyFile), given.key, 0o400, nginxUser, nginxUser); err != nil {
		return nil, err
	}
	return given, writeFile(filepath.Join(dir, certificateFile), given.certificate, 0o444, nginxUser, nginxUser)
}

// selfSigned makes a certificate for names and its key. ECDSA P-256 is what every browser takes and the cheapest for the
// server.
func selfSigned(names []string) (*pair, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
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
		return nil, err
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &pair{
		name:        certificateFile,
		certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}),
		leaf:        leaf,
	}, nil
}
