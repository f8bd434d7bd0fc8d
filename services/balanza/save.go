package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"balanza/services/workers/control"
)

// saved is the file that save writes and resurrect reads.
type saved struct {
	Launches []launch `json:"launches"`
}

// launch is a command line that runs, with what decides how it runs besides: its folder by the path that the user named,
// its environment without secrets, and what orders have changed since it was started.
type launch struct {
	Dir     string         `json:"dir"`
	Command []string       `json:"command"` // without the program's path: the one that resurrects runs it
	Servers map[string]int `json:"servers"` // name → workers
	Stopped []string       `json:"stopped,omitempty"`
	control.Origin
}

// names are those of the servers.
func (l *launch) names() []string { return slices.Sorted(maps.Keys(l.Servers)) }

// title is the names for a message.
func (l *launch) title() string { return strings.Join(l.names(), ", ") }

// savedPath is the list, in the home and not in its folder run, which a reboot may empty.
func (p *program) savedPath() string { return filepath.Join(p.settings.Home, "saved.json") }

// save writes down what runs.
func (p *program) save() *cobra.Command {
	var force bool
	c := p.interruptible("save [--force]", "write down what runs, for resurrect", func(ctx context.Context, _ []string) error {
		all, err := p.list(ctx)
		if err != nil {
			return err
		}
		if len(all) == 0 && !force {
			return errorf("nothing runs, so nothing was saved; what was saved before stays (save --force empties the list)")
		}
		return p.saveServers(all)
	})
	c.Flags().BoolVar(&force, "force", false, "write an empty list too")
	return c
}

// saveServers writes the list, one entry for each master: the servers of up share one. A server that does not answer does
// not tell its command, and a list without it would lose it at the next boot; so nothing is written then. The list before
// stays beside the new one.
func (p *program) saveServers(all []control.Status) error {
	state := saved{Launches: []launch{}}
	byMaster := map[int]int{} // index of its entry
	for _, st := range all {
		if st.Status == "unresponsive" || len(st.Command) == 0 {
			return errorf("%s does not answer; nothing was saved", st.Name)
		}
		i, ok := byMaster[st.Pid]
		if !ok {
			i = len(state.Launches)
			byMaster[st.Pid] = i
			state.Launches = append(state.Launches, launch{Dir: st.Dir, Command: st.Command[1:], Servers: map[string]int{}})
		}
		l := &state.Launches[i]
		l.Servers[st.Name] = st.Instances
		if st.Status == "stopped" {
			l.Stopped = append(l.Stopped, st.Name)
		}
		if st.Origin != nil {
			l.add(*st.Origin)
		}
	}
	content, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return err
	}
	path := p.savedPath()
	if err := os.Remove(path + ".bak"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(path, path+".bak"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(p.settings.Home, 0o700); err != nil {
		return err
	}
	if err := renameio.WriteFile(path, append(content, '\n'), 0o600, renameio.WithTempDir(p.settings.Home)); err != nil {
		return err
	}
	for _, l := range state.Launches {
		if len(l.Unsaved) > 0 {
			p.printf("%s: %s is not saved; set it where resurrect runs\n", l.title(), strings.Join(l.Unsaved, ", "))
		}
	}
	p.printf("saved %d servers: balanza resurrect brings them back\n", len(all))
	return nil
}

// add adds what one more server of the same process had: all have one environment, and may have different stores.
func (l *launch) add(o control.Origin) {
	l.Environment = o.Environment
	l.Unsaved = slices.Compact(slices.Sorted(slices.Values(append(l.Unsaved, o.Unsaved...))))
	if l.Stores == nil {
		l.Stores = map[string]string{}
	}
	maps.Copy(l.Stores, o.Stores)
}
