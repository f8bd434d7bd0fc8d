package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"balanza/services/workers/control"
)

// resurrect starts in the background what was saved and does not run.
func (p *program) resurrect() *cobra.Command {
	foreground := false
	c := &cobra.Command{
		Use: "resurrect [--foreground]", Short: "start what was saved and does not run",
		RunE: func(*cobra.Command, []string) error {
			state, err := p.readSaved()
			switch {
			case err != nil:
				return err
			case foreground:
				return p.keepAll(state)
			}
			return p.relaunchAll(p.untilInterrupted(), state)
		},
	}
	c.Flags().BoolVar(&foreground, "foreground", false, "stay, start again what dies, and end it all with this process; for systemd")
	return c
}

// readSaved reads what save wrote.
func (p *program) readSaved() (state saved, err error) {
	content, err := os.ReadFile(p.savedPath())
	if errors.Is(err, fs.ErrNotExist) {
		return state, errorf("nothing is saved (balanza save)")
	}
	if err != nil {
		return state, err
	}
	if err := json.Unmarshal(content, &state); err != nil {
		return state, errorf("%s is damaged (%w) and was left as it is; the list before it is in %[1]s.bak", p.savedPath(), err)
	}
	return state, nil
}

// relaunchAll starts what does not run. An entry that fails does not keep the others from starting.
func (p *program) relaunchAll(ctx context.Context, state saved) error {
	var failed []error
	for _, l := range state.Launches {
		_, err := p.relaunch(ctx, l)
		if ctx.Err() != nil {
			return cmp.Or(err, context.Cause(ctx))
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// relaunch starts one saved command in its folder, where its .env is, and gives its servers the number of workers that
// they had. A command of which any server runs is left alone: its other servers would fight for the same ports. ended gets
// the end of its process; it is nil where none was started.
func (p *program) relaunch(ctx context.Context, l launch) (ended <-chan error, err error) {
	running, err := p.list(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range l.names() {
		if slices.ContainsFunc(running, func(st control.Status) bool { return st.Name == name }) {
			p.printf("%s runs already\n", name)
			return nil, nil
		}
	}
	environment := p.environmentOf(l)
	if err := p.checkStores(l, environment); err != nil {
		return nil, err
	}
	if unset := l.unset(environment); len(unset) > 0 {
		p.printf("%s: %s is not set here\n", l.title(), strings.Join(unset, ", "))
	}
	ended, err = p.backgroundAs(ctx, commandLine{l.Dir, environment, l.Command}, l.names())
	if err == nil {
		err = p.restoreOrders(ctx, l)
	}
	if err != nil {
		return ended, errorf("%s: %w", l.title(), err)
	}
	p.printf("%s: back\n", l.title())
	return ended, nil
}

// restoreOrders gives servers that were started the numbers of workers that they had, and stops those that were stopped.
func (p *program) restoreOrders(ctx context.Context, l launch) error {
	all, err := p.list(ctx)
	if err != nil {
		return err
	}
	for _, st := range all {
		if n, ok := l.Servers[st.Name]; ok && n != st.Instances {
			if err := p.order(ctx, []control.Status{st}, control.Scale, n); err != nil {
				return err
			}
		}
		if slices.Contains(l.Stopped, st.Name) {
			if err := p.order(ctx, []control.Status{st}, control.Stop, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// environmentOf is the environment with which a saved command is started: that of this process, with what was saved laid
// over it. Of Balanza's settings, which would change the server, this process's are left out unless it had them without
// their values being saved.
func (p *program) environmentOf(l launch) []string {
	environment := slices.DeleteFunc(slices.Clone(p.environment), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return isSetting(name) && !slices.Contains(l.Unsaved, name)
	})
	for _, name := range slices.Sorted(maps.Keys(l.Environment)) {
		environment = append(environment, name+"="+l.Environment[name])
	}
	return environment
}

// otherStoreError says why a server is not started: it would run on another store than it had.
type otherStoreError struct{ error }

// checkStores fails where a command would run on another store than it had when it was saved. It would find no accounts and
// messages there, and write new ones.
func (p *program) checkStores(l launch, environment []string) error {
	found := withDotEnv(variables(environment), l.Dir)
	for _, name := range slices.Sorted(maps.Keys(l.Stores)) {
		was, value := l.Stores[name], found[name]
		if name == dataVariable {
			value = cmp.Or(value, filepath.Join(p.settings.Home, "data"))
			if !filepath.IsAbs(value) {
				value = filepath.Join(l.Dir, value)
			}
			_, err := os.Stat(filepath.Join(was, databaseFile))
			switch {
			case found[mongoVariable] != "":
				return otherStoreError{errorf("%s is not started: it ran on %s, and %s is set here", l.title(), was, mongoVariable)}
			case value != was:
				return otherStoreError{errorf("%s is not started: it ran on %s, and %s is %s here", l.title(), was, name, value)}
			case err != nil:
				return otherStoreError{errorf("%s is not started: it ran on %s, and its database is not there: %w", l.title(), was, err)}
			}
			continue
		}
		if value == "" {
			return otherStoreError{errorf("%s is not started: it ran on %s, and %s is not set here", l.title(), cmp.Or(was, text("a database")), name)}
		}
		if is, _ := storeAddress(name, value); is != was {
			return otherStoreError{errorf("%s is not started: it ran on %s, and %s is %s here", l.title(), was, name, cmp.Or(is, text("another one")))}
		}
	}
	return nil
}

// unset are the variables that a command had, whose values were not saved, and which it would not have now.
func (l *launch) unset(environment []string) (names []string) {
	found := withDotEnv(variables(environment), l.Dir)
	return slices.DeleteFunc(slices.Clone(l.Unsaved), func(name string) bool { return found[name] != "" })
}
