// attacker makes one attack of package attack, from a container of the stack's network, until it is told to end. Then it
// prints how many connections it opened.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"balanza/e2e/attack"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	address, err := net.ResolveTCPAddr("tcp", os.Args[2]) // once: the attack is none on Docker's DNS
	if err != nil {
		panic(err)
	}
	dial := attack.To(address.String(), "")
	if len(os.Args) > 3 {
		dial = dial.TLS()
	}
	var opened atomic.Int64
	attack.Kinds[os.Args[1]](ctx, func(ctx context.Context) (net.Conn, error) {
		c, err := dial(ctx)
		if err == nil {
			opened.Add(1)
		}
		return c, err
	})
	fmt.Println(opened.Load())
}
