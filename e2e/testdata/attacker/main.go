// attacker makes one attack of package attack, all anonymous ones at once, or all of an account, from a container of the
// stack's network, until it is told to end. Then it prints how many connections it opened.
//
//	attacker KIND HOST:PORT
//	attacker TLS HOST:PORT PROTOCOL
//	attacker anonymous HOST:PORT
//	attacker account HOST:PORT EMAIL PASSWORD
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
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
	var opened atomic.Int64
	counted := func(ctx context.Context) (net.Conn, error) {
		c, err := dial(ctx)
		if err == nil {
			opened.Add(1)
		}
		return c, err
	}
	var running sync.WaitGroup
	switch kind := os.Args[1]; kind {
	case "anonymous":
		for _, run := range attack.Kinds {
			running.Go(func() { run(ctx, counted) })
		}
	case "account":
		account, err := attack.LogIn(ctx, counted, os.Args[3], os.Args[4])
		if err != nil {
			panic(err)
		}
		for _, run := range account.Kinds() {
			running.Go(func() { run(ctx) })
		}
	case "TLS":
		dial = dial.TLS(os.Args[3])
		attack.TLSKinds[os.Args[3]](ctx, counted)
	default:
		attack.Kinds[kind](ctx, counted)
	}
	running.Wait()
	fmt.Println(opened.Load())
}
