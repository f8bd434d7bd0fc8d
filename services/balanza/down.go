package main

import (
	"context"
	"errors"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"balanza/services/serverfile"
	"balanza/services/workers/control"
)

// down ends what up started: the site's topology, or the servers of a file.
func (p *program) down() *cobra.Command {
	var file *string
	c := p.interruptible("down [-f balanza.yaml]", "end what up started", func(ctx context.Context, _ []string) error {
		if *file == "" {
			return p.downFleet(ctx, fleet, nil)
		}
		path, err := filepath.Abs(*file)
		if err != nil {
			return err
		}
		return p.downFile(ctx, path)
	})
	file = fileFlag(c.Flags())
	return c
}

// downFile ends the servers that were started from a file, each before those that it depends on. What the file does not
// name any more is ended first; where it can't be read, the order is not known.
func (p *program) downFile(ctx context.Context, path string) error {
	var order []string
	if file, err := serverfile.Read(path); err == nil {
		for _, s := range slices.Backward(file.Servers) {
			order = append(order, s.Name)
		}
	}
	return p.downFleet(ctx, path, order)
}

// downFleet ends the servers of a fleet: those in order after the others, in that order. A master that does not answer
// can't say who started it, so it is left alone, with an error.
func (p *program) downFleet(ctx context.Context, fleet string, order []string) error {
	all, err := p.list(ctx)
	if err != nil {
		return err
	}
	var silent []error
	all = slices.DeleteFunc(all, func(st control.Status) bool {
		if st.Status == "unresponsive" {
			silent = append(silent, errorf("%s does not answer (pid %d); perhaps up started it", st.Name, st.Pid))
		}
		return st.Fleet != fleet
	})
	if len(all)+len(silent) == 0 {
		p.printf("nothing is up\n")
		return nil
	}
	slices.SortStableFunc(all, func(a, b control.Status) int {
		return slices.Index(order, a.Name) - slices.Index(order, b.Name)
	})
	return errors.Join(append(silent, p.order(ctx, all, control.Delete, 0))...)
}
