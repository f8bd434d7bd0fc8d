package main

import (
	"context"
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"balanza/services/workers/control"
)

// down ends what up started. A master that does not answer can't say who started it, so it is left alone, with an error.
func (p *program) down() *cobra.Command {
	return p.interruptible("down", "end what up started", func(ctx context.Context, _ []string) error {
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
		return errors.Join(append(silent, p.order(ctx, all, control.Delete, 0))...)
	})
}
