//go:build !linux

package workers

import (
	"net"
	"os"
)

// turns is Linux's; elsewhere the workers share the socket as its kernel has it.
type turns struct{}

func newTurns() (*os.File, *turns, error) { return nil, nil, nil }
func openTurns(*os.File) (*turns, error)  { return nil, nil }
func (t *turns) leave(int)                {}
func (t *turns) close()                   {}

func (t *turns) shareOf(plain *net.TCPListener, _ int) (net.Listener, error) { return plain, nil }
