package main

import (
	"cmp"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"balanza/services/hosts"
)

// loopback is the address of this machine that only its own programs reach.
const loopback = "127.0.0.1"

// allInterfaces tells whether a server that listens on host does so on all interfaces.
func allInterfaces(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "" || err == nil && address.IsUnspecified()
}

// reachableHost is where a client on this machine reaches a server that listens on host: on the loopback interface where it
// listens on all.
func reachableHost(host string) string {
	switch {
	case !allInterfaces(host):
		return host
	case strings.Contains(host, ":"):
		return "::1"
	}
	return loopback
}

// hostPort is the address at which a client on this machine reaches a server that listens on host.
func hostPort(host string, port int) string {
	return net.JoinHostPort(reachableHost(host), strconv.Itoa(port))
}

// siteURL is hostPort as a URL without a path.
func siteURL(host string, port int) string {
	return (&url.URL{Scheme: "http", Host: hostPort(host, port)}).String()
}

// shownURL is siteURL for people: a server that nobody gave a host is at localhost.
func shownURL(host string, port int) string { return siteURL(cmp.Or(host, "localhost"), port) }

// directClient asks servers of this machine, without the proxy that the environment may name.
var directClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// withHost adds the host on which a server listens to the names that it answers to.
func withHost(names, host string) string {
	if _, err := hosts.Parse(host); err != nil || allInterfaces(host) {
		return names
	}
	return names + " " + host
}
