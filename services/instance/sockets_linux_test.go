package instance

import (
	"net"
	"os"
	"slices"
	"testing"
)

// The kernel tells the sockets that listen, of both families and by whoever, and not those that are connected.
func TestListeningSockets(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		port := ln.Addr().(*net.TCPAddr).Port
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		own := socketsOf([]int{os.Getpid()})
		listens := func(port int) bool {
			return slices.ContainsFunc(listeningSockets(), func(s listeningSocket) bool { return s.port == port && own[s.inode] })
		}
		if !listens(port) {
			t.Errorf("%s: port %d is not told", address, port)
		}
		if clientPort := client.LocalAddr().(*net.TCPAddr).Port; listens(clientPort) {
			t.Errorf("%s: the port of a client, %d, is told", address, clientPort)
		}
		client.Close()
		ln.Close()
		if listens(port) {
			t.Errorf("%s: port %d is told after its end", address, port)
		}
	}
}
