// Package limits holds the numbers that bound what one client or one account can take. The servers, the edge and nginx
// get them from here, so that they agree: an outer tier never lets through what an inner one rejects.
package limits

import (
	"fmt"
	"net/netip"
	"time"
)

// Limits are the numbers. Each has a setting, BALANZA_LIMIT_ and the field's name; .env.example and docs/operations.md list
// them. The tags are for envconfig.
type Limits struct {
	// Of one request.
	Body   int // bytes of the body
	Header int // bytes of the request line, the header fields and the empty line, as the client sends them
	URL    int // bytes of the path and the query

	// ClientTimeout ends a connection whose client has neither sent nor taken a byte for so long while one of both was due.
	ClientTimeout time.Duration `split_words:"true"`

	// Of one address: an IPv4 address, or an IPv6 network of 64 bits.
	Connections   int // open at a time, at nginx and at the edge
	Draws         int // requests for random numbers at a time
	AccountForms  int `split_words:"true"` // log-ins and sign-ups sent in a minute, at nginx and at the edge
	LoginFailures int `split_words:"true"` // in five minutes
	Signups       int // in an hour

	// Of one account.
	Logins         int // failed log-ins from one address in five minutes
	Products       int
	ProductChanges int `split_words:"true"` // in a minute
	Websockets     int // open at a time
	Messages       int // of the chat, in a minute

	Frames int // from one websocket, in a second
}

// AccountFormsBurst is how many log-ins and sign-ups of one address may come at once, besides those of AccountForms.
const AccountFormsBurst = 20

// Client returns what the limits of one address hold for: an IPv4 address, or an IPv6 network of 64 bits, in which a client
// can choose any address, by its first address.
func Client(address netip.Addr) netip.Addr {
	address = address.Unmap().WithZone("")
	if address.Is6() {
		network, _ := address.Prefix(64) // an IPv6 address has 64 bits
		return network.Addr()
	}
	return address
}

// Default returns the numbers that hold where no setting names others.
func Default() Limits {
	return Limits{
		Body:           64 << 10,
		Header:         8 << 10,
		URL:            4 << 10,
		ClientTimeout:  30 * time.Second,
		Connections:    256,
		Draws:          16,
		AccountForms:   30,
		LoginFailures:  100,
		Signups:        100,
		Logins:         10,
		Products:       1000,
		ProductChanges: 30,
		Websockets:     20,
		Messages:       60,
		Frames:         20,
	}
}

// Check fails when a number makes no sense: one below 1, a time below a second, or an URL that no header can hold.
func (l Limits) Check() error {
	for _, n := range []struct {
		name  string
		value int
		least int
	}{
		{"BODY", l.Body, 1 << 10}, {"HEADER", l.Header, 1 << 10}, {"URL", l.URL, 256},
		{"CONNECTIONS", l.Connections, 1}, {"DRAWS", l.Draws, 1}, {"ACCOUNT_FORMS", l.AccountForms, 1},
		{"LOGIN_FAILURES", l.LoginFailures, 1}, {"SIGNUPS", l.Signups, 1}, {"LOGINS", l.Logins, 1},
		{"PRODUCTS", l.Products, 1}, {"PRODUCT_CHANGES", l.ProductChanges, 1}, {"WEBSOCKETS", l.Websockets, 1},
		{"MESSAGES", l.Messages, 1}, {"FRAMES", l.Frames, 1},
	} {
		if n.value < n.least {
			return fmt.Errorf("BALANZA_LIMIT_%s: %d is less than %d", n.name, n.value, n.least)
		}
	}
	if l.ClientTimeout < time.Second {
		return fmt.Errorf("BALANZA_LIMIT_CLIENT_TIMEOUT: %v is less than 1s", l.ClientTimeout)
	}
	if l.URL > l.Header {
		return fmt.Errorf("BALANZA_LIMIT_URL: %d is more than BALANZA_LIMIT_HEADER, %d", l.URL, l.Header)
	}
	return nil
}
