package mongostore

import (
	"crypto/tls"
	"errors"
	"net"
	"regexp"
	"strings"

	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/x/mongo/driver"
	"go.mongodb.org/mongo-driver/x/mongo/driver/auth"
	"go.mongodb.org/mongo-driver/x/mongo/driver/topology"

	"balanza/services/store"
)

// The codes of MongoDB's errors that no further try can change.
const (
	userNotFound         = 11
	unauthorized         = 13
	authenticationFailed = 18
	mechanismUnavailable = 334
	atlasError           = 8000 // Atlas has it for a wrong password and for a missing permission
)

// The reasons of a RefusedError.
const (
	wrongPassword = "the database rejects the user or the password"
	noPermission  = "the database does not let this user read and write"
	wrongTLS      = "a TLS connection to the database fails for its certificate or the TLS options"
	wrongRecords  = "the database's URI, or what the DNS has for its name, can't be used"
)

// clearedPool matches the error of a connection pool that the driver keeps closed for up to a heartbeatInterval after a log-in
// has failed. It quotes the cause and does not wrap it.
var clearedPool = regexp.MustCompile(`(?s)pool for .* was cleared because .*auth error: .*` +
	`\((?:AuthenticationFailed|UserNotFound|MechanismUnavailable|AtlasError)\)`)

// refused makes a RefusedError of an error of the driver that stands for a refusal; any other stays as it is.
func refused(err error) error {
	if reason := refusal(err); reason != "" {
		return &store.RefusedError{Reason: reason, Err: err}
	}
	return err
}

// refusal returns why a server rejects this client, empty where err may be over at the next try.
func refusal(err error) string {
	if failed, ok := errors.AsType[topology.ServerSelectionError](err); ok {
		return refusalOfAll(failed)
	}
	code := 0
	if e, ok := errors.AsType[driver.Error](err); ok { // of a handshake
		code = int(e.Code)
	}
	if e, ok := errors.AsType[mongo.ServerError](err); ok {
		for _, c := range []int{unauthorized, authenticationFailed, atlasError} {
			if e.HasErrorCode(c) {
				code = c
			}
		}
	}
	_, handshake := errors.AsType[*auth.Error](err)
	switch {
	case code == authenticationFailed, code == userNotFound, code == mechanismUnavailable, code == atlasError && handshake:
		return wrongPassword
	case code == unauthorized, code == atlasError:
		return noPermission
	case failedTLS(err):
		return wrongTLS
	case clearedPool.MatchString(err.Error()):
		return wrongPassword
	}
	return ""
}

// refusalOfAll returns the reason for which all servers of a deployment reject this client: the driver keeps the errors of
// their handshakes in the description of the deployment. As long as one of them fails for another cause, it may become the
// primary.
func refusalOfAll(failed topology.ServerSelectionError) (reason string) {
	for i, server := range failed.Desc.Servers {
		r := ""
		if server.LastError != nil {
			r = refusal(server.LastError)
		}
		if r == "" || i > 0 && r != reason {
			return ""
		}
		reason = r
	}
	return reason
}

// failedTLS tells whether a TLS handshake fails for what the two sides are: this one does not trust the certificate, the server
// speaks no TLS, or it rejects this client by an alert (RFC 8446, 6.2), as it does without a certificate that it asks for.
func failedTLS(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	alert, ok := errors.AsType[*net.OpError](err) // crypto/tls has no type for the alerts of the other side
	return ok && alert.Op == "remote error" && !strings.HasSuffix(alert.Error(), "internal error")
}
