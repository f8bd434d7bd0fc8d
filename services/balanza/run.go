package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"balanza/services/edge"
	"balanza/services/limits"
	"balanza/services/watch"
	"balanza/services/workers"
)

// runOptions are the flags of run besides the settings.
type runOptions struct {
	instanceOptions
	port     port
	bound    bool // a port was named
	cwd      string
	watching *watching
	fleet    string // see declare
}

// run keeps any program running, in as many instances as wanted. With --port it shares the port's requests among them. The
// program follows --, so that its flags are not taken for those of run; that it exists is checked before anything starts.
func (p *program) run() *cobra.Command {
	c := &cobra.Command{
		Use:   "run [--port PORT] [-i N] [FLAGS] -- PROGRAM …",
		Short: "keep any program running, and share a port among its instances",
		Example: "  balanza run -i 4 --port 9000 -- node server.js\n" +
			"  balanza run --port 9000 -- python3 -m http.server '$PORT'\n" +
			"  balanza run --name worker -- ./worker",
		Args: cobra.ArbitraryArgs,
	}
	s, f, o := &p.settings, c.Flags(), &runOptions{}
	f.VarP(&o.port, "port", "p", "`PORT` whose requests the instances share; each has a port of its own in $PORT; 0: a free one (also --p)")
	s.processFlags(f)
	count := f.Lookup("instances")
	count.Usage, count.DefValue = "`N` instances of the program, or max: one for each CPU (also --i)", "1"
	o.flags(c)
	f.StringVar(&o.cwd, "cwd", "", "`FOLDER` in which the program runs; looked up anew at every start of an instance")
	detach := f.BoolP("detach", "d", false, "go to the background; balanza delete ends it")
	o.watching = watchFlags(f, "replace the processes when a file in the folder of the program changes")
	f.StringVar(&o.fleet, fleetFlag, "", "")
	_ = f.MarkHidden(fleetFlag)
	c.RunE = func(_ *cobra.Command, command []string) error {
		if len(command) == 0 || c.ArgsLenAtDash() != 0 {
			return usagef("run takes its flags, then -- and the program with its arguments: balanza run -i 4 --port 9000 -- ./server")
		}
		if err := p.completeRun(o, f, command); err != nil {
			return err
		}
		if *detach && !inBackground() {
			ctx := p.untilInterrupted()
			if err := p.background(ctx, p.args, []string{s.Name}); err != nil {
				return err
			}
			return p.printOnline(ctx, s.Name)
		}
		return p.runProgram(*o, command)
	}
	return c
}

// completeRun checks the flags and sets those that were not given.
func (p *program) completeRun(o *runOptions, f *pflag.FlagSet, command []string) error {
	s := &p.settings
	s.Mode, s.MaxRequests, s.Port = clusterMode, 0, o.port // a program does not report its requests
	if !f.Changed("instances") {
		s.Instances = 1
	}
	if s.Name == "" {
		s.Name = programName(command[0])
	}
	if !f.Changed("stop-timeout") {
		o.stopTimeout = s.StopTimeout
	}
	if !f.Changed("ready-timeout") {
		o.readyTimeout = s.ReadyTimeout
	}
	s.StopTimeout, s.ReadyTimeout = o.stopTimeout, o.readyTimeout
	o.name, o.bound = s.Name, f.Changed("port")
	switch {
	case o.socket && !o.bound:
		return usagef("--socket needs --port: the port of the socket")
	case (o.readyPath != "" || o.healthPath != "") && (o.socket || !o.bound):
		return usagef("--ready-path and --health-path need --port, and instances with a port of their own")
	}
	var err error
	if o.cwd, err = absolute(o.cwd); err != nil {
		return err
	}
	if o.envFile != "" {
		if o.envFile, err = absolute(o.envFile); err != nil {
			return err
		}
	}
	if err := o.watching.check(); err != nil {
		return err
	}
	if _, err := o.config(command); err != nil {
		return err
	}
	return usageErrorOf(findProgram(o.cwd, command[0]))
}

// programName is the name of a server that has none but its program: characters that no name has become hyphens.
func programName(program string) string {
	name := strings.Map(func(r rune) rune {
		if workers.CheckName("a"+string(r)) != nil {
			return '-'
		}
		return r
	}, filepath.Base(program))
	return strings.TrimLeft(name, "-._")
}

// absolute makes a path absolute, relative to the working folder as the user named it: a symbolic link in it stays one, so
// that it can be moved to a new release. Empty is that folder.
func absolute(path string) (string, error) {
	if filepath.IsAbs(path) {
		return path, nil
	}
	dir, err := os.Getwd() // $PWD, where that is the folder
	return filepath.Join(dir, path), err
}

// findProgram fails when a program cannot be started in a folder.
func findProgram(dir, program string) error {
	if info, err := os.Stat(dir); err != nil {
		return err
	} else if !info.IsDir() {
		return errorf("%s is no folder", dir)
	}
	if filepath.Base(program) != program && !filepath.IsAbs(program) {
		program = filepath.Join(dir, program)
	}
	_, err := exec.LookPath(program)
	return err
}

// usageErrorOf makes an error one of usage; nil stays nil.
func usageErrorOf(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

// programLimits are those of the balancer before a program. The limits of the site are not the program's: it has its own.
func programLimits(ofSite limits.Limits) limits.Limits {
	l := ofSite
	l.Header, l.URL, l.Connections = 64<<10, 32<<10, 1<<20
	return l
}

// runProgram serves with any number of instances of a program. They start as this program, with the command instance.
func (p *program) runProgram(o runOptions, command []string) error {
	s := p.settings
	args := append(append([]string{instanceWord}, o.args()...), append([]string{"--"}, command...)...)
	balancer := edge.Config{
		Dynamic: true, Limits: programLimits(s.Limits), WaitTimeout: o.readyTimeout,
		DrainDelay: max(s.DrainDelay, edgeDrainDelay), DrainTimeout: o.stopTimeout,
	}
	return p.serveOne(s, args, nil, func(c *workers.Config) (*watch.Watcher, error) {
		c.Programs, c.Unbound, c.Independent = true, !o.bound, isBackgroundServer
		c.Dir, c.StopTimeout = o.cwd, o.stopTimeout
		c.Check = func() error { return findProgram(o.cwd, command[0]) }
		c.Metadata.Watching = o.watching.on
		if o.bound && !o.socket {
			balancer.Logger = c.Logger
			c.NewFront = func() workers.Front {
				front, _ := edge.New(balancer) // it fails only for addresses, names and tokens, and has none
				return front
			}
		}
		if err := p.declare(c, o.fleet); err != nil || !o.watching.on {
			return nil, err
		}
		return p.watchProgram(o.cwd, o.watching), nil
	})
}
