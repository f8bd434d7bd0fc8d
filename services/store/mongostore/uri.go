package mongostore

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/x/mongo/driver/connstring"
)

// srvScheme is that of a URI whose servers and options are in the DNS.
const srvScheme = connstring.SchemeMongoDBSRV + "://"

// Check fails when a URI can't be used: it is malformed, or has an option that the driver does not know. The error contains
// nothing of the URI but names of options. Check does not ask the DNS.
func Check(uri string) error {
	_, err := parse(uri)
	return err
}

// parse reads a URI without asking the DNS, so a mongodb+srv URI has its name in place of its servers.
func parse(uri string) (*connstring.ConnString, error) {
	plain := uri
	name, isSRV := strings.CutPrefix(uri, srvScheme)
	if isSRV {
		plain = connstring.SchemeMongoDB + "://" + withoutSRVOptions(name)
	} else if !strings.HasPrefix(uri, connstring.SchemeMongoDB+"://") {
		return nil, errors.New("it does not begin with mongodb:// or mongodb+srv://")
	}
	parsed, err := connstring.ParseAndValidate(plain)
	if err != nil {
		return nil, errors.New(withoutValues(err))
	}
	if isSRV && (len(parsed.Hosts) != 1 || strings.Contains(parsed.Hosts[0], ":")) {
		return nil, fmt.Errorf("%s takes one name, without a port", srvScheme)
	}
	if unknown := slices.Sorted(maps.Keys(parsed.UnknownOptions)); len(unknown) > 0 {
		return nil, fmt.Errorf("unknown option %q", unknown[0])
	}
	return parsed, nil
}

// srvOption matches the options that only a mongodb+srv URI may have.
var srvOption = regexp.MustCompile(`(?i)([?&;])(?:srvMaxHosts|srvServiceName)=[^&;]*`)

func withoutSRVOptions(uri string) string { return srvOption.ReplaceAllString(uri, "$1") }

// saidOfURI matches the part of the driver's error that quotes nothing but the name of an option. What it quotes further on
// may be a password, also where no user is expected: mongodb://user:password without a host.
var saidOfURI = regexp.MustCompile(`^(?:error (?:parsing|validating) uri: )?(invalid value for "\w+"|[^":]+)`)

// withoutValues is the driver's error of a URI, without values of it.
func withoutValues(err error) string {
	said := saidOfURI.FindStringSubmatch(err.Error())
	if said == nil {
		return "it can't be read"
	}
	return strings.TrimSpace(said[1])
}
