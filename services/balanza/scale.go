package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"balanza/services/workers"
	"balanza/services/workers/control"
)

// scale changes the number of workers of CLUSTER servers: NAME=N, or NAME N.
func (p *program) scale() *cobra.Command {
	c := p.forServers("scale NAME=N …", "change how many workers a CLUSTER server has", p.scaleServers)
	c.ValidArgsFunction = func(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		names, directive := p.completeNames(c, args, prefix)
		for i := range names {
			names[i] += "="
		}
		return names, directive | cobra.ShellCompDirectiveNoSpace
	}
	c.Example = "  balanza scale cluster=4"
	return c
}

// scaleServers carries out NAME=N, one after another. The first that fails ends it.
func (p *program) scaleServers(ctx context.Context, args []string) error {
	if len(args) == 2 && !strings.Contains(args[0], "=") {
		args = []string{args[0] + "=" + args[1]}
	}
	if len(args) == 0 {
		return usagef("scale takes NAME=N, like cluster=4")
	}
	for _, arg := range args {
		name, number, _ := strings.Cut(arg, "=")
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || n > workers.MaxWorkers {
			return usagef("scale %s: the number of workers is from 1 to %d", arg, workers.MaxWorkers)
		}
		servers, err := p.pick(ctx, []string{name})
		if err != nil {
			return err
		}
		if err := p.order(ctx, servers, control.Scale, n); err != nil {
			return err
		}
	}
	return nil
}
