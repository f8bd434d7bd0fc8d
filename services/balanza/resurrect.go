package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"balanza/services/workers/control"
)

// resurrect starts in the background what was saved and does not run.
func (p *program) resurrect() *cobra.Command {
	return p.interruptible("resurrect", "start what was saved and does not run", func(ctx context.Context, _ []string) error {
		content, err := os.ReadFile(p.savedPath())
		if errors.Is(err, fs.ErrNotExist) {
			return errorf("nothing is saved (balanza save)")
		}
		if err != nil {
			return err
		}
		var state saved
		if err := json.Unmarshal(content, &state); err != nil {
			return errorf("%s is damaged (%w) and was left as it is; the list before it is in %[1]s.bak", p.savedPath(), err)
		}
		return p.relaunchAll(ctx, state)
	})
}

// relaunchAll starts what does not run. An entry that fails does not keep the others from starting.
func (p *program) relaunchAll(ctx context.Context, state saved) error {
	running, err := p.list(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, l := range state.Launches {
		failed = append(failed, p.relaunch(ctx, l, running))
	}
	return errors.Join(failed...)
}

// relaunch starts one saved command in its folder, where its .env is, and gives its servers the number of workers that
// they had. A command of which any server runs is left alone: its other servers would fight for the same ports.
func (p *program) relaunch(ctx context.Context, l launch, running []control.Status) error {
	var names []string
	for name := range l.Servers {
		if slices.ContainsFunc(running, func(st control.Status) bool { return st.Name == name }) {
			p.printf("%s runs already\n", name)
			return nil
		}
		names = append(names, name)
	}
	slices.Sort(names)
	if err := os.Chdir(l.Dir); err != nil {
		return err
	}
	if err := p.background(ctx, l.Command, names); err != nil {
		return err
	}
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
	}
	p.printf("%s: back\n", strings.Join(names, ", "))
	return nil
}
