package main

import (
	"context"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"balanza/services/watch"
	"balanza/services/workers"
)

// run clusters any program that takes its socket by systemd's protocol: descriptor 3, LISTEN_FDS=1 and LISTEN_PID. The
// program follows --, so that its flags are not taken for those of run; that it exists is checked before anything starts.
func (p *program) run() *cobra.Command {
	c := &cobra.Command{
		Use:     "run --port PORT [-i N] [FLAGS] -- PROGRAM …",
		Short:   "cluster any program that takes its socket by LISTEN_FDS",
		Example: "  balanza run -i 4 --name api --port 9000 -- ./server",
		Args:    cobra.ArbitraryArgs,
	}
	s, f := &p.settings, c.Flags()
	s.portFlag(f)
	s.processFlags(f)
	detach := f.BoolP("detach", "d", false, "go to the background; balanza delete ends it")
	watching := f.Bool("watch", false, "replace the processes when a file in this folder changes")
	c.RunE = func(_ *cobra.Command, command []string) error {
		if len(command) == 0 || c.ArgsLenAtDash() != 0 {
			return usagef("run takes its flags, then -- and the program with its arguments: balanza run -i 4 --port 9000 -- ./server")
		}
		if _, err := exec.LookPath(command[0]); err != nil {
			return usageError{err}
		}
		if s.Name == "" {
			s.Name = filepath.Base(command[0])
		}
		if *detach && !inBackground() {
			if err := p.background(p.untilInterrupted(), p.args, []string{s.Name}); err != nil {
				return err
			}
			p.printf("%s is online on port %d\n", s.Name, s.Port)
			return nil
		}
		return p.runExternal(command, *watching)
	}
	return c
}

// runExternal serves with any number of instances of a program, whatever mode the environment asks for. The workers start
// as this program, with the command activate.
func (p *program) runExternal(command []string, watching bool) error {
	s := p.settings
	s.Mode, s.MaxRequests = clusterMode, 0 // an external program does not report its requests
	return p.serveOne(s, append([]string{activateWord}, command...), nil, func(c *workers.Config) (*watch.Watcher, error) {
		c.External, c.Metadata.Watching = true, watching
		if !watching {
			return nil, nil
		}
		build := func(context.Context) error { return nil }
		return &watch.Watcher{Root: c.Metadata.Dir, Source: watch.AnySource, Build: build}, nil
	})
}
