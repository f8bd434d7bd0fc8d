//go:build !linux

package share

import (
	"net"
	"os"
	"time"
)

// page is Linux's. Elsewhere the kernel alone decides which process accepts a connection.
type page struct{}

func newPage() (*os.File, *page, error)                                    { return nil, nil, nil }
func openPage(*os.File) (*page, error)                                     { return nil, nil }
func (p *page) leave(int)                                                  {}
func (p *page) clear(int)                                                  {}
func (p *page) close()                                                     {}
func (p *page) listener(tcp *net.TCPListener, _ int) (net.Listener, error) { return tcp, nil }

// countersOf returns counters of this process alone.
func (p *page) countersOf(int) (all, own *counters, seed []byte) {
	return new(counters), new(counters), nil
}

// balancer compares the rows of a page.
type balancer struct{}

func newBalancer(*page, int) *balancer           { return nil }
func (b *balancer) answered(int, time.Time) bool { return false }
func (b *balancer) draw(int64) (ended func())    { return func() {} }
