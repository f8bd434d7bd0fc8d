package edge

import (
	"cmp"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"strconv"
	"strings"
)

// Fields of the balancer.
const (
	// requestID names a request in the logs of all tiers and in the answer. The outermost tier makes it.
	requestID = "X-Request-Id"
	// edgeToken proves to the servers that a request comes from the balancer.
	edgeToken = "X-Balanza-Edge-Token"
)

// hopByHop tells whether a field is for the other end of one connection (RFC 9110, 7.6.1), or one that its like was used for.
// Names are in canonical form.
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// notForwarded tells whether a client's field is not sent to an upstream as it is: those of its connection, and those that
// appendRequest writes.
func notForwarded(name string) bool {
	switch name {
	case "Host", "Content-Length", "Expect", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
		requestID, edgeToken:
		return true
	}
	return hopByHop(name)
}

// appendRequest appends the client's request as an upstream gets it. What it does not copy comes from the balancer: the
// upstream trusts the forwarding fields. r is one that net/http has read: no name or value in it has a line break.
func (b *Balancer) appendRequest(to []byte, r *http.Request, uri string, body requestBody, repeatable, upgrade bool) []byte {
	field := func(name, value string) {
		to = append(to, name...)
		to = append(to, ": "...)
		to = append(to, value...)
		to = append(to, "\r\n"...)
	}
	to = append(to, r.Method...)
	to = append(to, ' ')
	to = append(to, uri...)
	to = append(to, " HTTP/1.1\r\n"...)
	field("Host", r.Host)
	named := r.Header["Connection"] // the fields named there are hop-by-hop too
	for name, values := range r.Header {
		if notForwarded(name) || len(named) > 0 && hasToken(named, name) {
			continue
		}
		for _, value := range values {
			field(name, value)
		}
	}
	if hasToken(r.Header["Te"], "trailers") {
		field("Te", "trailers")
	}
	switch {
	case upgrade:
		field("Connection", "Upgrade")
		field("Upgrade", "websocket")
	case !repeatable: // its connection is used once
		field("Connection", "close")
	}
	switch method := r.Method; {
	case body.rest != nil && r.ContentLength < 0:
		field("Transfer-Encoding", "chunked")
	case body.rest != nil || len(body.start) > 0 || method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch:
		to = append(to, "Content-Length: "...)
		to = strconv.AppendInt(to, max(r.ContentLength, int64(len(body.start))), 10)
		to = append(to, "\r\n"...)
	}
	client, _, _ := net.SplitHostPort(r.RemoteAddr) // net/http writes it
	if b.config.Dynamic && netip.MustParseAddr(client).IsLoopback() {
		appendForwarded(field, r, client)
	} else {
		field("X-Forwarded-For", client)
		field("X-Forwarded-Host", r.Host)
		field("X-Forwarded-Proto", "http")
	}
	field(requestID, r.Header.Get(requestID))
	if b.config.Token != "" {
		field(edgeToken, b.config.Token)
	}
	to = append(to, "\r\n"...)
	if body.rest != nil {
		return body.rest.appendStart(to, body.start)
	}
	return append(to, body.start...)
}

// appendForwarded writes the forwarding fields of a request from a process of this machine, which may be a proxy in front: a
// program keeps the client's address, host and protocol that the proxy has named.
func appendForwarded(field func(name, value string), r *http.Request, client string) {
	if before := strings.Join(r.Header["X-Forwarded-For"], ", "); before != "" {
		client = before + ", " + client
	}
	field("X-Forwarded-For", client)
	field("X-Forwarded-Host", cmp.Or(r.Header.Get("X-Forwarded-Host"), r.Host))
	field("X-Forwarded-Proto", cmp.Or(r.Header.Get("X-Forwarded-Proto"), "http"))
}

// copyAnswerHeader copies the fields of an upstream's answer that are for the client.
func copyAnswerHeader(to, from http.Header) {
	named := from["Connection"]
	for name, values := range from {
		if !hopByHop(name) && (len(named) == 0 || !hasToken(named, name)) {
			to[name] = values
		}
	}
}

// hasToken tells whether one of the values of a field, which are lists, has an element, whatever its case.
func hasToken(values []string, token string) bool {
	for _, value := range values {
		for element := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(textproto.TrimString(element), token) {
				return true
			}
		}
	}
	return false
}

// isWebsocket tells whether a header asks for a websocket, or agrees to one.
func isWebsocket(h http.Header) bool {
	return strings.EqualFold(h.Get("Upgrade"), "websocket") && hasToken(h["Connection"], "Upgrade")
}
