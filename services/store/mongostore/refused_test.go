package mongostore

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"balanza/services/store"
	"balanza/services/store/storetest"
)

const secret = "hush-hush"

// refusalOf opens a store, asks it for something and returns why it refused that; empty: it is away, or it answered.
func refusalOf(t *testing.T, uri string) string {
	t.Helper()
	s := storetest.Open(t, Open, uri)
	reason := ""
	for i := range 2 { // after the first failure the driver fails at once for a while
		_, err := s.Last(t.Context())
		if err != nil && (!errors.Is(err, store.ErrUnavailable) || strings.Contains(err.Error(), secret)) {
			t.Errorf("error %v", err)
		}
		again := ""
		if refused, ok := errors.AsType[*store.RefusedError](err); ok {
			again = refused.Reason
		}
		if i > 0 && again != reason {
			t.Errorf("call %d: %q after %q (%v)", i+1, again, reason, err)
		}
		reason = again
	}
	return reason
}

// What a server answers decides whether it refuses this client for good. A connection that breaks and a server that ends are
// an outage.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		command string
		code    int
		want    string
	}{
		{"saslStart", authenticationFailed, wrongPassword},
		{"saslStart", userNotFound, wrongPassword},
		{"saslStart", mechanismUnavailable, wrongPassword},
		{"saslStart", atlasError, wrongPassword},
		{"saslStart", 91, ""}, // ShutdownInProgress
		{"saslStart", 0, ""},
		{"createIndexes", unauthorized, noPermission},
		{"find", unauthorized, noPermission},
		{"find", atlasError, noPermission},
		{"find", 10107, ""}, // NotWritablePrimary
		{"find", 0, ""},
	} {
		t.Run(fmt.Sprintf("%s fails with %d", c.command, c.code), func(t *testing.T) {
			t.Parallel() // an outage takes a second for each call
			uri := "mongodb://"
			if c.command == "saslStart" {
				uri += "ana:" + secret + "@"
			}
			if got := refusalOf(t, uri+serveWire(t, listen(t), fails(c.command, c.code))); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	if got := refusalOf(t, "mongodb://"+serveWire(t, listen(t), works)); got != "" {
		t.Errorf("a server that works: %q", got)
	}
}

// A certificate that is not trusted, one that the server misses, and a server without TLS are refusals, which the driver
// tells within the description of the servers only.
func TestRefusedTLS(t *testing.T) {
	site := httptest.NewUnstartedServer(http.NotFoundHandler()) // for its certificate
	site.StartTLS()
	t.Cleanup(site.Close)
	config := &tls.Config{Certificates: site.TLS.Certificates}
	needsCertificate := config.Clone()
	needsCertificate.ClientAuth = tls.RequireAnyClientCert
	server := func(config *tls.Config) string { return serveWire(t, tls.NewListener(listen(t), config), works) }
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	own := server(config)
	dead := listen(t)
	dead.Close()
	for name, c := range map[string]struct{ hosts, options, want string }{
		"an unknown authority":            {own, "", wrongTLS},
		"no check":                        {own, "&tlsInsecure=true", ""},
		"a client's certificate is asked": {server(needsCertificate), "&tlsInsecure=true", wrongTLS},
		"no TLS":                          {plain.Listener.Addr().String(), "", wrongTLS},
		"a server that is down":           {dead.Addr().String(), "", ""},
		"one of two is down":              {own + "," + dead.Addr().String(), "&replicaSet=rs", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := refusalOf(t, fmt.Sprintf("mongodb://%s/?tls=true%s", c.hosts, c.options)); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// An error of a URI names the fault and quotes nothing that may be a password.
func TestCheckURI(t *testing.T) {
	for uri, want := range map[string]string{
		"localhost":                              "mongodb://",
		"http://ana:hush@h":                      "mongodb://",
		"mongodb://":                             "at least 1 host",
		"mongodb://ana:hu/sh@h":                  "unescaped slash in password",
		"mongodb://ana:hu:sh@h":                  "unescaped colon in password",
		"mongodb://ana:hu@sh@h":                  "unescaped @ sign",
		"mongodb://ana:hush%zz@h":                "invalid password",
		"mongodb://ana%zz:hush@h":                "invalid username",
		"mongodb://ana:hush":                     "invalid host",
		"mongodb://ana:hush:hush":                "invalid host",
		"mongodb://h:99999":                      "invalid host",
		"mongodb://ana:hush@h?x=y":               "must have a / before the query ?",
		"mongodb://ana:hush@h/?maxPoolSize=hush": `invalid value for "maxPoolSize"`,
		"mongodb://ana:hush@h/?connect=hush":     "invalid 'connect' value",
		"mongodb://ana:hush@h/?%zzhush=1":        "invalid option key",
		"mongodb://ana:hush@h/?hush":             "invalid option",
		"mongodb://ana:hush@h/?maxPolSize=hush":  `unknown option "maxpolsize"`,
		"mongodb://ana:hush@h/?srvMaxHosts=1":    "cannot specify srvMaxHosts on non-SRV URI",
		"mongodb+srv://ana:hush@h.example.org/?maxPolSize=hush&srvMaxHosts=1": `unknown option "maxpolsize"`,
		"mongodb+srv://ana:hush@h.example.org:27017":                          "one name, without a port",
		"mongodb+srv://ana:hush@a.example.org,b.example.org":                  "one name, without a port",
	} {
		err := Check(uri)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hu") {
			t.Errorf("%s: %v, want %s", uri, err, want)
		}
		if _, opened := open(uri); opened == nil || !strings.HasSuffix(opened.Error(), err.Error()) {
			t.Errorf("%s opened: %v", uri, opened)
		}
	}
	for _, uri := range []string{
		"mongodb://h", "mongodb://ana:hush@a:1,b:2/db?replicaSet=r&tls=true", "mongodb://ana:p%40ss@h/?maxPoolSize=3",
		"mongodb+srv://ana:hush@h.example.org/db?retryWrites=true&srvMaxHosts=2&SRVSERVICENAME=x&w=majority",
		"mongodb+srv://h.example.org/?srvMaxHosts=2",
	} {
		if err := Check(uri); err != nil {
			t.Errorf("%s: %v", uri, err)
		}
	}
}
