package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"balanza/services/workers/control"
)

// saved is the file that save writes and resurrect reads.
type saved struct {
	Launches []launch `json:"launches"`
}

// launch is a command line that runs, and the number of workers of its servers, which scale may have changed since.
type launch struct {
	Dir     string         `json:"dir"`
	Command []string       `json:"command"` // without the program's path: the one that resurrects runs it
	Servers map[string]int `json:"servers"` // name → workers
}

// savedPath is the list, in the home and not in its folder run, which a reboot may empty.
func (p *program) savedPath() string { return filepath.Join(p.settings.Home, "saved.json") }

// save writes down what runs. The environment is not written, since it may hold secrets: resurrect reads .env of the
// command's folder again.
func (p *program) save() *cobra.Command {
	return p.interruptible("save", "write down what runs, for resurrect", func(ctx context.Context, _ []string) error {
		all, err := p.list(ctx)
		if err != nil {
			return err
		}
		return p.saveServers(all)
	})
}

// saveServers writes the list, one entry for each master: the servers of up share one. A server that does not answer does
// not tell its command, and a list without it would lose it at the next boot; so nothing is written then. The list before
// stays beside the new one.
func (p *program) saveServers(all []control.Status) error {
	var state saved
	byMaster := map[int]*launch{}
	for _, st := range all {
		if st.Status == "unresponsive" || len(st.Command) == 0 {
			return errorf("%s does not answer; nothing was saved", st.Name)
		}
		if byMaster[st.Pid] == nil {
			state.Launches = append(state.Launches, launch{Dir: st.Dir, Command: st.Command[1:], Servers: map[string]int{}})
			byMaster[st.Pid] = &state.Launches[len(state.Launches)-1]
		}
		byMaster[st.Pid].Servers[st.Name] = st.Instances
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
	if err := renameio.WriteFile(path, append(content, '\n'), 0o600, renameio.WithTempDir(p.settings.Home)); err != nil {
		return err
	}
	p.printf("saved %d servers: balanza resurrect brings them back\n", len(all))
	return nil
}
