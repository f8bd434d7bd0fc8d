package workers

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"time"
)

const (
	// Ports of programs are from lowestPort on, below those that the kernel gives to outgoing connections: one of these could
	// have the port at the moment when the program wants it.
	lowestPort  = 15_000
	highestPort = 32_767
	portTries   = 200
	// portRest is for how long a port that a program had is not given to another: connections to it may still be open.
	portRest = time.Minute
)

var errNoPort = errors.New("no free port was found for the program")

// freePort chooses a port on which nothing listens, and that no program of this server has or had a moment ago.
func (s *Server) freePort() (int, error) {
	for port, until := range s.resting {
		if time.Now().After(until) {
			delete(s.resting, port)
		}
	}
	highest := min(highestPort, firstEphemeralPort()-1)
	for range portTries {
		port := lowestPort + rand.N(max(1, highest-lowestPort+1))
		if _, used := s.resting[port]; used || s.hasPort(port) {
			continue
		}
		ln, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		ln.Close()
		s.resting[port] = time.Now().Add(portRest)
		return port, nil
	}
	return 0, errNoPort
}

// hasPort tells whether a program of this server has the port, or is about to listen on it.
func (s *Server) hasPort(port int) bool {
	for p := range s.processes {
		if p.port == port {
			return true
		}
	}
	return false
}

// firstEphemeralPort is the first port that the kernel gives to outgoing connections: see ip_local_port_range in ip(7).
func firstEphemeralPort() int {
	first := highestPort + 1
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		_, _ = fmt.Sscan(string(text), &first)
	}
	if first <= lowestPort { // all of them are given: then any will do
		return highestPort + 1
	}
	return first
}
