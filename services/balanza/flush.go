package main

import (
	"context"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"balanza/services/logfile"
)

// flush empties log files, rotated ones included: those of the servers named, all without a name. Servers that run write
// on in the empty files.
func (p *program) flush() *cobra.Command {
	return p.forServers("flush [NAME|PORT|all …]", "empty the log files", func(ctx context.Context, names []string) error {
		if len(names) == 0 {
			names = []string{allServers}
		}
		files, err := p.logFiles(ctx, names)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if err := logfile.Empty(files[name]); err != nil {
				return err
			}
			p.printf("flush %s: done\n", name)
		}
		return nil
	})
}
