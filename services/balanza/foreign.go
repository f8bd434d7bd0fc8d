package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"balanza/services/workers"
)

// runProgram clusters any program that takes its socket by systemd's protocol: descriptor 3, LISTEN_FDS=1 and LISTEN_PID.
func (p *program) runProgram(args []string) error {
	var command []string
	if i := slices.Index(args, "--"); i >= 0 {
		args, command = args[:i], args[i+1:]
	}
	f := flags("run")
	serveFlags(f, &p.settings)
	background := f.Bool("d", false, "go to the background")
	watch := f.Bool("watch", false, "replace the processes when a file in this folder changes")
	rest, err := p.parse(f, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 || len(command) == 0 {
		return usagef("run takes its flags, then -- and the program with its arguments: balanza run -i 4 --port 9000 -- ./server")
	}
	if p.settings.Name == "" {
		p.settings.Name = filepath.Base(command[0])
	}
	if *background && !inBackground() {
		whole := slices.Concat([]string{"run"}, args, []string{"--"}, command)
		if err := p.background(whole, []string{p.settings.Name}); err != nil {
			return err
		}
		fmt.Fprintf(p.out, "%s is online on port %d\n", p.settings.Name, p.settings.Port)
		return nil
	}
	if _, err := exec.LookPath(command[0]); err != nil {
		return usageError{err}
	}
	workers.ReapOrphans(p.logger())
	p.settings.Mode = clusterMode
	out := p.openOutput(p.settings.Name, "")
	defer out.Close()
	spec, err := p.spec(p.settings, append([]string{activateWord}, command...), out)
	if err != nil {
		return err
	}
	spec.External = true
	spec.Metadata.Command = append([]string{spec.Path}, os.Args[1:]...)
	spec.Metadata.Watching = *watch
	return p.run(spec, func(s *workers.Server) *watcher {
		if !*watch {
			return nil
		}
		return &watcher{
			root: spec.Metadata.Dir, source: anySource, poll: time.Duration(p.settings.WatchPoll), log: out.logger,
			build: func() error { return nil }, reload: func() error { return s.Reload(context.Background()) },
		}
	})
}

// activateWord is the command between a master and a program that is not ours.
const activateWord = "activate"

// activate becomes the program named: LISTEN_PID must be the number of the process that gets the socket, which nobody
// knows before there is one.
func (p *program) activate(args []string) error {
	if len(args) == 0 {
		return usagef("activate takes a program")
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	if err := os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid())); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", path, workers.Exec(path, args, os.Environ()))
}
