package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"balanza/services/workers/control"
)

// start starts stopped servers by name, or, with a server's flags, a new one in the background. The flags may stand after
// --, where pm2 has them: see doubleHyphens.
func (p *program) start() *cobra.Command {
	var c *cobra.Command
	var watching *watching
	c = p.forServers("start NAME|PORT|all … | start [FLAGS]", "start a stopped server, or a new one in the background",
		func(ctx context.Context, args []string) error {
			if len(args) > 0 {
				return p.startStopped(ctx, args, c.Flags().NFlag())
			}
			if err := p.settings.completeMode(c.Flags()); err != nil {
				return err
			}
			if err := watching.check(); err != nil {
				return err
			}
			return p.startNew(ctx, c.Flags())
		})
	c.Example = "  balanza start --p 8090 --m CLUSTER --name api      a new server\n" +
		"  balanza start --name api -- --p 8090 --m CLUSTER   the same\n" +
		"  balanza start api                                  one that was stopped"
	watching = p.settings.siteFlags(c.Flags())
	return c
}

// startTimeout is how long a stopped server may take until one of its workers serves. It ends by itself when its workers
// keep dying; this is for one that neither serves nor dies.
const startTimeout = time.Minute

// startStopped starts servers that are on the list already. They run with the flags that they were started with first, so
// flags have no meaning here.
func (p *program) startStopped(ctx context.Context, args []string, flags int) error {
	if flags > 0 {
		return usagef("start takes the name of a stopped server, or the flags of a new one, not both")
	}
	servers, err := p.pick(ctx, args)
	if err != nil {
		return err
	}
	if err := p.order(ctx, servers, control.Start, 0); err != nil {
		return err
	}
	var names []string
	for _, st := range servers {
		names = append(names, st.Name)
	}
	return p.awaitStarted(ctx, names...)
}

// awaitStarted is awaitOnline for stopped servers that have got the order to start, for startTimeout at most.
func (p *program) awaitStarted(ctx context.Context, names ...string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errorf("not online after %v", startTimeout))
	defer cancel()
	return p.awaitOnline(ctx, names, nil)
}

// startNew starts a server in the background.
func (p *program) startNew(ctx context.Context, flags *pflag.FlagSet) error {
	name := p.settings.name()
	if err := checkName(name); err != nil {
		return err
	}
	var args []string
	flags.Visit(func(f *pflag.Flag) {
		values := []string{f.Value.String()}
		if repeated, ok := f.Value.(pflag.SliceValue); ok {
			values = repeated.GetSlice()
		}
		for _, v := range values {
			args = append(args, "--"+f.Name+"="+v)
		}
	})
	if err := p.background(ctx, args, []string{name}); err != nil {
		return err
	}
	return p.printOnline(ctx, name)
}
