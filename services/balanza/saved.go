package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"balanza/services/workers/control"
)

// saved is what `save` keeps for `resurrect`: the commands that run now, and how many workers their servers have.
type saved struct {
	Launches []launch `json:"launches"`
}

type launch struct {
	Dir     string         `json:"dir"`
	Command []string       `json:"command"` // without the program's path: the one that resurrects runs it
	Servers map[string]int `json:"servers"` // name → workers
}

func (p *program) savedPath() string { return filepath.Join(p.settings.Home, "saved.json") }

// save writes down what runs. The environment is not written, since it may hold secrets: .env of the command's folder is
// read again by the resurrected.
func (p *program) save([]string) error {
	all, err := p.list()
	if err != nil {
		return err
	}
	var state saved
	byMaster := map[int]*launch{}
	for _, st := range all {
		if st.Status == "unresponsive" || len(st.Command) == 0 {
			return fmt.Errorf("%s does not answer; nothing was saved", st.Name)
		}
		if byMaster[st.Pid] == nil {
			state.Launches = append(state.Launches, launch{Dir: st.Dir, Command: st.Command[1:], Servers: map[string]int{}})
			byMaster[st.Pid] = &state.Launches[len(state.Launches)-1]
		}
		byMaster[st.Pid].Servers[st.Name] = st.Instances
	}
	text, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return err
	}
	if err := replaceFile(p.savedPath(), append(text, '\n')); err != nil {
		return err
	}
	fmt.Fprintf(p.out, "saved %d servers: balanza resurrect brings them back\n", len(all))
	return nil
}

// replaceFile puts text into a file as a whole or not at all, and keeps what it held as FILE.bak.
func replaceFile(path string, text []byte) error {
	fresh, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(fresh.Name())
	defer fresh.Close()
	if _, err := fresh.Write(text); err != nil {
		return err
	}
	if err := fresh.Sync(); err != nil {
		return err
	}
	if err := os.Remove(path + ".bak"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(path, path+".bak"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(fresh.Name(), path)
}

// resurrect starts in the background what was saved and does not run.
func (p *program) resurrect([]string) error {
	text, err := os.ReadFile(p.savedPath())
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("nothing is saved (balanza save)")
	}
	if err != nil {
		return err
	}
	var state saved
	if err := json.Unmarshal(text, &state); err != nil {
		return fmt.Errorf("%s is damaged (%w) and was left as it is; what it held before is in %s.bak", p.savedPath(), err, p.savedPath())
	}
	running, err := p.list()
	if err != nil {
		return err
	}
	var failed []error
	for _, l := range state.Launches {
		failed = append(failed, p.relaunch(l, running))
	}
	return errors.Join(failed...)
}

func (p *program) relaunch(l launch, running []control.Status) error {
	var names []string
	for name := range l.Servers {
		if slices.ContainsFunc(running, func(st control.Status) bool { return st.Name == name }) {
			fmt.Fprintf(p.out, "%s runs already\n", name)
			return nil
		}
		names = append(names, name)
	}
	slices.Sort(names)
	if err := os.Chdir(l.Dir); err != nil {
		return err
	}
	if err := p.background(l.Command, names); err != nil {
		return err
	}
	all, err := p.list()
	if err != nil {
		return err
	}
	for _, st := range all {
		if n, ok := l.Servers[st.Name]; ok && n != st.Instances {
			if err := p.order([]control.Status{st}, "scale", n); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(p.out, "%s: back\n", strings.Join(names, ", "))
	return nil
}

// startup prints the systemd unit that resurrects at boot.
func (p *program) startup([]string) error {
	self, err := p.keptSelf()
	if err != nil {
		return err
	}
	me, err := user.Current()
	if err != nil {
		return err
	}
	fmt.Fprintf(p.out, `# sudo tee /etc/systemd/system/balanza.service, then: sudo systemctl enable balanza; balanza save
[Unit]
Description=Balanza's servers of %[1]s
After=network-online.target
Wants=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
User=%[1]s
Environment=BALANZA_HOME=%[2]s
ExecStart=%[3]s resurrect
ExecReload=%[3]s reload
ExecStop=%[3]s delete
TimeoutStopSec=60

[Install]
WantedBy=multi-user.target
`, me.Username, p.settings.Home, self)
	return nil
}
