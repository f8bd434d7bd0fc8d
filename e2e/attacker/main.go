// Command attacker does what one hostile client can do to a Balanza that it can reach, all at once: requests that are too
// large, unfinished or abandoned, floods of connections, of log-ins, of websocket frames, joins and products. It prints
// how often each attack was made.
//
//	attacker [-for 5m] [-only name,name] HOST:PORT
//
// It is for tests. All its loads are bounded: see the constants of each attack.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// attack is one kind of abuse. run makes it again and again until ctx ends, and counts what it did.
type attack struct {
	name string
	run  func(ctx context.Context, t *target, done *atomic.Int64)
}

var attacks = []attack{
	{"large bodies", largeBodies},
	{"large headers and URLs", largeHeads},
	{"half-sent headers", halfHeaders},
	{"slow uploads", slowUploads},
	{"idle connections", idleConnections},
	{"readers of nothing", deafReaders},
	{"abandoned draws", abandonedDraws},
	{"wrong log-ins", wrongLogins},
	{"sign-ups", signUps},
	{"products", productFlood},
	{"websockets", websocketFlood},
	{"frames", frameFlood},
	{"old joins", oldJoins},
	{"lists", lists},
}

func main() {
	duration := flag.Duration("for", time.Minute, "how long")
	only := flag.String("only", "", "names of attacks, by commas; empty: all")
	email := flag.String("email", "", "account for the attacks that need one")
	password := flag.String("password", "", "its password")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "attacker: one HOST:PORT is needed")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), *duration)
	defer cancel()
	t := &target{address: flag.Arg(0), email: *email, password: *password}
	var running sync.WaitGroup
	counts := make([]atomic.Int64, len(attacks))
	for i, a := range attacks {
		if *only == "" || slices.Contains(strings.Split(*only, ","), a.name) {
			running.Go(func() { a.run(ctx, t, &counts[i]) })
		}
	}
	running.Wait()
	for i, a := range attacks {
		fmt.Printf("%-24s %d\n", a.name, counts[i].Load())
	}
}
