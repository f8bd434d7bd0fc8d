package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"balanza/services/watch"
	"balanza/services/workers"
	"balanza/services/workers/control"
)

// watching is what the flags --watch and --watch-ignore say.
type watching struct {
	on     bool
	ignore patterns
}

// watchFlags are --watch, whose help is usage, and --watch-ignore.
func watchFlags(f *pflag.FlagSet, usage string) *watching {
	var w watching
	f.BoolVar(&w.on, "watch", false, usage)
	f.Var(&w.ignore, "watch-ignore", "with --watch: ignore files of this `PATTERN` of gitignore too; !PATTERN watches them all the same (repeatable)")
	return &w
}

// check rejects a --watch-ignore that would have no effect.
func (w *watching) check() error {
	if len(w.ignore) > 0 && !w.on {
		return usagef("--watch-ignore goes with --watch")
	}
	return nil
}

// patterns are lines of a .gitignore file, one for each time that the flag is given.
type patterns []string

// Type is pflag's name of the type.
func (p *patterns) Type() string { return "pattern" }

// String is for the help, which has no default to show.
func (p *patterns) String() string { return strings.Join(*p, " ") }

// Set adds a pattern.
func (p *patterns) Set(v string) error {
	if watch.CheckPattern(v) != nil {
		return errorf("a pattern is a line of a .gitignore file, like dist/ or *.csv")
	}
	*p = append(*p, v)
	return nil
}

// Append, Replace and GetSlice are pflag.SliceValue: a flag that may be given more than once.

// Append adds a pattern.
func (p *patterns) Append(v string) error { return p.Set(v) }

// Replace sets all patterns.
func (p *patterns) Replace(all []string) error {
	*p = nil
	for _, v := range all {
		if err := p.Set(v); err != nil {
			return err
		}
	}
	return nil
}

// GetSlice is all patterns.
func (p *patterns) GetSlice() []string { return *p }

// watchProgram watches the folder of an external program.
func (p *program) watchProgram(dir string, w *watching) *watch.Watcher {
	return &watch.Watcher{Root: dir, Defaults: watch.AnySource, Ignore: w.ignore, Exclude: p.settings.Home}
}

// watchSelf is watch.Self, until a signal ends its first build. name is a folder for the binary, a different one for each
// process that watches.
func (p *program) watchSelf(name string) (w *watch.Watcher, binary string, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	w, binary, err = watch.Self(ctx, filepath.Join(p.settings.Home, "watch", name))
	if ctx.Err() != nil {
		err = errors.New(text("interrupted")) // and not the error of the compiler, which got the signal too
	}
	if err != nil {
		return nil, "", fmt.Errorf("--watch: %w", err)
	}
	w.Exclude = p.settings.Home
	return w, binary, nil
}

// lastStart is when the youngest worker of the servers was started.
func lastStart(servers []*workers.Server) (last time.Time) {
	for _, s := range servers {
		for _, worker := range s.Status().Workers {
			if worker.Since.After(last) {
				last = worker.Since
			}
		}
	}
	return last
}

// reloadChanged starts changed code in all servers. One that was stopped starts with it when it is started again; one that
// ended with an error may have been repaired by the change.
func reloadChanged(ctx context.Context, servers []*workers.Server) error {
	var failed []error
	for _, s := range servers {
		switch s.Status().Status {
		case "stopped":
		case "errored":
			failed = append(failed, s.Order(ctx, control.Start, 0))
		default:
			failed = append(failed, s.Reload(ctx))
		}
	}
	return errors.Join(failed...)
}
