package main

import (
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"balanza/services/watch"
	"balanza/services/workers"
)

// serve is `balanza` without a command: one server of the site, in the foreground. Masters start their workers with it
// too.
func (p *program) serve() *cobra.Command {
	c := &cobra.Command{
		Use:   "balanza [FLAGS]",
		Short: "serve the site",
		Long:  "Balanza serves the site, alone or as a cluster, and manages the processes that do.",
		Example: "  balanza up                         the whole site here: http://localhost:8000\n" +
			"  balanza --p 8080 --m FORK          one process\n" +
			"  balanza --p 8081 --m CLUSTER       a master and a worker for each CPU\n" +
			"  balanza ps                         what runs",
		Args:    unknownCommand,
		Version: versionText(),
	}
	c.SetVersionTemplate("balanza {{.Version}}\n")
	watching := p.settings.siteFlags(c.Flags())
	c.Flags().Bool("version", false, "print the version")
	c.RunE = func(*cobra.Command, []string) error {
		if err := p.settings.completeMode(c.Flags()); err != nil {
			return err
		}
		if err := watching.check(); err != nil {
			return err
		}
		return p.serveSite(watching)
	}
	return c
}

// serveSite serves as the settings say. A FORK server works in the master's own process, so it is one process, except where
// that process would have to replace itself: with a limit of memory or requests, and as process 1 of a container, since
// Docker restarts a container whose process ends, but not one whose process hangs.
func (p *program) serveSite(watching *watching) error {
	if err := p.settings.checkStore(); err != nil {
		return usageError{err}
	}
	program := func(log *slog.Logger) workers.Program { return (&site{p.settings, log}).run }
	return p.serveOne(p.settings, p.args, program, func(c *workers.Config) (w *watch.Watcher, err error) {
		if p.settings.Mode == forkMode && c.MaxMemory == 0 && c.MaxRequests == 0 && os.Getpid() != 1 {
			c.InProcess = program(c.Logger)
		}
		if watching.on {
			c.Metadata.Watching = true
			if w, c.Path, err = p.watchSelf(c.Name); err != nil {
				return nil, err
			}
			w.Ignore = watching.ignore
		}
		return w, nil
	})
}
