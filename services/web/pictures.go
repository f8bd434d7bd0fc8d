package web

import (
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strings"

	"github.com/gofiber/fiber/v2"
)

// maxURL is the longest address of a picture, in bytes: every message carries its author's, and must fit into a frame of
// the chat.
const maxURL = 2048

// picture returns a field that is an https address of another site. Everybody who sees the picture asks that site for it,
// with the cookies that the browser has for it: a picture of this site, or of the viewer's own network, would let whoever
// chose it make the viewers' requests.
func (f *form) picture(name string) string {
	text := f.text(name, 0, maxURL)
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.User != nil || !isPublic(u.Hostname()) || sameHost(u.Host, f.host) {
		f.fail(name, "error.url", name)
	}
	if len(text) > maxURL {
		f.fail(name, "error.length", name, 0, maxURL)
	}
	return text
}

// sameHost reports whether two hosts are the same on any of their ports: cookies do not depend on the port.
func sameHost(a, b string) bool {
	name := func(host string) string {
		if withoutPort, _, err := net.SplitHostPort(host); err == nil {
			host = withoutPort
		}
		return strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	}
	return strings.EqualFold(name(a), name(b))
}

// hexadecimal matches the last part of a name that browsers read as an address, such as 0x7f000001.
var hexadecimal = regexp.MustCompile(`(^|\.)0[xX][0-9a-fA-F]*\.?$`)

// notPublic are the networks that package netip does not tell apart: this host, carriers' networks, benchmarks, reserved
// ones, and IPv4 addresses within IPv6 (RFC 6890).
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("::/96"), netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("2002::/16"),
}

// isPublic reports whether a host is a name of the DNS, as ASCII, or an address outside private networks. Other spellings
// of an address, and names in other letters, which browsers turn into one of these, are not.
func isPublic(host string) bool {
	if address, err := netip.ParseAddr(host); err == nil {
		address = address.Unmap()
		for _, network := range notPublic {
			if network.Contains(address) {
				return false
			}
		}
		return address.IsGlobalUnicast() && !address.IsPrivate() && address.Zone() == ""
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	return hostName.MatchString(host) && !hexadecimal.MatchString(host) && name != "localhost" && !strings.HasSuffix(name, ".localhost")
}

// errEmbedded is for requests that a page makes without its script or its reader wanting it.
var errEmbedded = &httpError{status: fiber.StatusForbidden, code: codeUnauthorised, text: "error.embedded"}

// checkEmbedded rejects requests for pictures, frames and the like, and those of other sites' scripts: they would make
// whoever looks at a page pay for it. Browsers say what they want a document for (Fetch Metadata), or else, on plain HTTP,
// only that they accept pictures. Following a link to here is allowed.
func checkEmbedded(c *fiber.Ctx) error {
	site := c.Get("Sec-Fetch-Site")
	switch c.Get("Sec-Fetch-Dest") {
	case "document":
		return nil
	case "":
		if strings.HasPrefix(c.Get(fiber.HeaderAccept), "image/") {
			return errEmbedded
		}
	case "empty": // a script
	default:
		return errEmbedded
	}
	if site != "" && site != "same-origin" && site != "none" {
		return errEmbedded
	}
	return nil
}
