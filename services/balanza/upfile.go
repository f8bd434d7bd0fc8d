package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"balanza/services/logfile"
	"balanza/services/serverfile"
	"balanza/services/workers"
	"balanza/services/workers/control"
)

// This file starts the servers that a file declares, and brings them up to date. Each is a master of its own in the
// background, as `balanza run -d` starts one; the absolute path of the file is its fleet.

// fileFlag is -f.
func fileFlag(f *pflag.FlagSet) *string {
	return f.StringP("file", "f", "", "the servers that a `FILE` declares, like balanza.yaml, and not the site's")
}

// What up does with a server of the file.
type action int

const (
	keep         action = iota
	create              // none runs
	startStopped        // it is stopped
	scaling             // only the number of instances differs
	update              // reload it onto the new command
	recreate            // what it listens on differs, or it is stopped and differs
)

// declared is a server of the file and what is to be done with it.
type declared struct {
	*serverfile.Server
	args   []string // of balanza
	dir    string   // the file's, in which balanza runs
	spec   string   // see specDigest
	action action
	done   chan struct{} // closed when the server has been brought up to date, or when that failed
	err    error         // why it failed
}

// upFile is up -f.
func (p *program) upFile(path string, detach bool, flags *pflag.FlagSet) error {
	var other error
	flags.Visit(func(f *pflag.Flag) {
		if f.Name != "file" && f.Name != "detach" {
			other = usagef("--%s is for the site's topology; with -f the file says how each server runs", f.Name)
		}
	})
	if other != nil {
		return other
	}
	file, err := serverfile.Read(path)
	if err != nil {
		return usageError{err}
	}
	ctx := p.untilInterrupted
	if !detach {
		ctx = p.untilSecondSignal
	}
	return p.bringUp(ctx(), file, detach)
}

// bringUp makes the servers that run those of the file. Unless detached, it then prints what they write until a signal,
// and ends them.
func (p *program) bringUp(ctx context.Context, file *serverfile.File, detach bool) error {
	running, err := p.list(ctx)
	if err != nil {
		return err
	}
	servers, gone, err := planUp(file, running)
	if err != nil {
		return err
	}
	following := make(chan struct{})
	if detach {
		close(following)
	} else {
		go func() {
			defer close(following)
			p.followFile(ctx, file)
		}()
	}
	err = p.apply(ctx, servers, gone)
	if detach || err != nil && ctx.Err() == nil {
		return err
	}
	p.awaitEnd(ctx, file)
	<-following
	return p.downFile(context.Background(), file.Path)
}

// planUp decides what is to be done. gone are servers that the file declared before. Where a server of another origin has
// the name or the port of one of the file, it is an error, and nothing may be changed.
func planUp(file *serverfile.File, running []control.Status) (servers []*declared, gone []control.Status, err error) {
	for i := range file.Servers {
		s := &file.Servers[i]
		d := &declared{Server: s, args: specArgs(file, s), dir: filepath.Dir(file.Path), done: make(chan struct{})}
		if d.spec, err = specDigest(d.args, s); err != nil {
			return nil, nil, usageError{fmt.Errorf("%s: %w", s.Name, err)}
		}
		servers = append(servers, d)
		d.action = create
		for _, st := range running {
			switch {
			case st.Name == s.Name && st.Status == "unresponsive":
				return nil, nil, errorf("%s does not answer (pid %d); nothing was changed", st.Name, st.Pid)
			case st.Name == s.Name && st.Fleet != file.Path:
				return nil, nil, errorf("a server named %s runs that was not started from %s; nothing was changed (balanza ps)", st.Name, file.Path)
			case st.Name == s.Name:
				d.action = d.difference(st)
			case s.Port != nil && *s.Port != 0 && *s.Port == st.Port && st.Fleet != file.Path:
				return nil, nil, errorf("%s has port %d of %s already; nothing was changed (balanza ps)", st.Name, st.Port, s.Name)
			}
		}
	}
	for _, st := range running {
		if st.Fleet == file.Path && file.Server(st.Name) == nil {
			gone = append(gone, st)
		}
	}
	return servers, gone, nil
}

// difference is what has to be done with a server of the file that is on the list.
func (d *declared) difference(st control.Status) action {
	stopped := st.Status == "stopped" || st.Status == "errored"
	switch {
	case st.Spec != d.spec && listenArgs(st.Command[1:]) == listenArgs(d.args) && !stopped:
		return update
	case st.Spec != d.spec, stopped && st.Instances != d.instances():
		return recreate
	case stopped:
		return startStopped
	case st.Instances != d.instances():
		return scaling
	}
	return keep
}

// instances is the number of them that run: max is one for each CPU.
func (d *declared) instances() int {
	s := settings{Mode: clusterMode, Instances: instances(d.Instances)}
	return s.workers()
}

// specArgs are the arguments of balanza that start a server of the file, each flag in one argument.
func specArgs(file *serverfile.File, s *serverfile.Server) []string {
	args := []string{"run", "--detach", "--name=" + s.Name, "--" + fleetFlag + "=" + file.Path}
	if s.Port != nil {
		args = append(args, "--port="+strconv.Itoa(*s.Port))
	}
	number := instances(s.Instances)
	for _, f := range []struct{ name, value string }{
		{"instances", number.String()}, {"host", s.Host}, {"ready", s.Ready}, {"ready-path", s.ReadyPath}, {"health-path", s.HealthPath}, {"env-file", s.EnvFile},
		{"cwd", s.Dir}, {"max-memory", s.MaxMemory}, {"stop-signal", s.StopSignal}, {"stop-timeout", s.StopTimeout},
	} {
		if f.value != "" {
			args = append(args, "--"+f.name+"="+f.value)
		}
	}
	if s.Socket {
		args = append(args, "--socket")
	}
	if s.Watch {
		args = append(args, "--watch")
	}
	for _, pattern := range s.Ignore {
		args = append(args, "--watch-ignore="+pattern)
	}
	return append(append(args, "--"), s.Command...)
}

// flagArgs splits arguments of specArgs into the flags and the rest.
func flagArgs(args []string) (flags, rest []string) {
	if i := slices.Index(args, "--"); i >= 0 {
		return args[:i], args[i:]
	}
	return args, nil
}

// listenArgs are those of the flags that a master can't change while it runs: where it listens, and what it watches.
func listenArgs(args []string) string {
	flags, _ := flagArgs(args)
	watched := slices.Contains(flags, "--watch")
	flags = slices.DeleteFunc(slices.Clone(flags), func(arg string) bool {
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		return !slices.Contains([]string{"port", "host", "socket", "watch", "watch-ignore"}, name) && !(watched && name == "cwd")
	})
	return strings.Join(flags, "\x00")
}

// specDigest is a digest of all that decides how a server of a file is started, but the number of instances. Two of the
// same digest do not differ. It is a digest since variables may be secrets, and ps prints what a master tells of itself.
func specDigest(args []string, s *serverfile.Server) (string, error) {
	var variables []byte
	if s.EnvFile != "" {
		var err error
		if variables, err = os.ReadFile(s.EnvFile); err != nil {
			return "", err
		}
	}
	flags, rest := flagArgs(args)
	flags = slices.DeleteFunc(slices.Clone(flags), func(arg string) bool { return strings.HasPrefix(arg, "--instances=") })
	content, err := json.Marshal([]any{flags, rest, s.Env, variables})
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:8]), err
}

// apply ends the servers that are gone and those that are to be started anew, as they may have ports of others, and then
// brings all up to date, each after those that it depends on. A failure concerns only those that depend on the server.
func (p *program) apply(ctx context.Context, servers []*declared, gone []control.Status) error {
	for _, d := range slices.Backward(servers) {
		if d.action == recreate {
			gone = append(gone, control.Status{Name: d.Name})
		}
	}
	if len(gone) > 0 {
		if err := p.order(ctx, gone, control.Delete, 0); err != nil {
			return err
		}
	}
	var wg sync.WaitGroup
	var printing sync.Mutex
	byName := map[string]*declared{}
	for _, d := range servers {
		byName[d.Name] = d
	}
	for _, d := range servers {
		wg.Go(func() {
			defer close(d.done)
			for _, name := range d.DependsOn {
				<-byName[name].done
				if byName[name].err != nil && d.err == nil {
					d.err = errorf("left as it is, since %s failed", name)
				}
			}
			if d.err != nil {
				return
			}
			result, err := p.applyOne(ctx, d)
			if d.err = err; err == nil {
				printing.Lock()
				defer printing.Unlock()
				p.printf("%s: %s\n", d.Name, result)
			}
		})
	}
	wg.Wait()
	var failed []error
	for _, d := range servers {
		if d.err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", d.Name, d.err))
		}
	}
	return errors.Join(failed...)
}

// applyOne brings one server up to date and says in a few words what was done.
func (p *program) applyOne(ctx context.Context, d *declared) (result string, err error) {
	client := control.NewClient(p.settings.runDir(), d.Name)
	result = text("online")
	switch d.action {
	case keep:
		return text("unchanged"), nil
	case create, recreate:
		if _, err := p.backgroundAs(ctx, commandLine{d.dir, p.environment, d.args}, []string{d.Name}); err != nil {
			return "", err
		}
	case startStopped:
		if err := client.Order(ctx, control.Start, 0); err != nil {
			return "", err
		}
		return result, p.awaitStarted(ctx, d.Name)
	case update:
		return text("updated"), client.Update(ctx, change{d.args})
	case scaling:
		return text("scaled"), client.Order(ctx, control.Scale, d.instances())
	}
	if st, err := client.Status(ctx); err == nil && d.Port != nil {
		result = fmt.Sprintf(text("online on port %d"), st.Port)
	}
	return result, nil
}

// followFile prints what the servers of a file write from now on, until ctx ends.
func (p *program) followFile(ctx context.Context, file *serverfile.File) {
	tail := logfile.Tail{Files: map[string]string{}, Follow: true}
	for _, s := range file.Servers {
		tail.Files[s.Name] = logfile.Path(p.settings.logsDir(), s.Name)
	}
	_, readable := p.out.(terminal)
	p.printLogs(ctx, tail, readable)
}

// awaitEnd returns when ctx ends, or when no server of the file runs any more.
func (p *program) awaitEnd(ctx context.Context, file *serverfile.File) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
		all, err := p.list(ctx)
		if err == nil && !slices.ContainsFunc(all, func(st control.Status) bool { return st.Fleet == file.Path }) {
			return
		}
	}
}

// untilSecondSignal returns a context that the first signal ends. The second one ends the process.
func (p *program) untilSecondSignal() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() {
		for range 2 {
			s, _ := (<-p.signals).(syscall.Signal)
			if ctx.Err() != nil {
				os.Exit(interruption{s}.status())
			}
			cancel(interruption{s})
		}
	}()
	return ctx
}

// fleetFlag is the hidden flag of run that names the file which declares the server. The master reads the server's
// variables there, so that they are on no command line, which every user of the machine may read, nor in saved.json.
const fleetFlag = "fleet"

// programEnvVariable holds the variables of a declared server as JSON on their way from its master to its instances: among
// them may be some that Balanza knows, and that programs do not get otherwise.
const programEnvVariable = "BALANZA_PROGRAM_ENV"

// change is what up -f sends to a master with control.Update.
type change struct {
	Args []string `json:"args"` // of balanza; see specArgs
}

// declare completes the configuration of a server that a file declares: its variables, what ps and up -f are told, and how
// it is updated. fleet is the file; empty: it is no such server.
func (p *program) declare(c *workers.Config, fleet string) error {
	if fleet == "" {
		return nil
	}
	file, err := serverfile.Read(fleet)
	if err != nil {
		return err
	}
	s := file.Server(c.Name)
	if s == nil {
		return errorf("%s has no server %s", fleet, c.Name)
	}
	if len(s.Env) > 0 {
		variables, err := json.Marshal(s.Env)
		if err != nil {
			return err
		}
		c.Env = append(c.Env, programEnvVariable+"="+string(variables))
	}
	c.Metadata.Fleet = fleet
	c.Metadata.Spec, err = specDigest(p.args, s)
	c.ParseUpdate = p.parseUpdate(c.Metadata)
	return err
}

// parseUpdate returns a function that makes a launch of a change: that which its command line would start in this process.
func (p *program) parseUpdate(current control.Metadata) func(json.RawMessage) (workers.Launch, error) {
	var one sync.Mutex // cobra has global variables
	return func(content json.RawMessage) (l workers.Launch, err error) {
		one.Lock()
		defer one.Unlock()
		var c change
		if err := json.Unmarshal(content, &c); err != nil {
			return l, err
		}
		next := &program{signals: p.signals, args: c.Args, out: io.Discard, err: io.Discard, launch: &l}
		next.settings, next.settingsErr = loadSettings()
		root := next.root()
		root.SetArgs(c.Args)
		err = root.Execute()
		l.Metadata.LogFile, l.Metadata.Dir, l.Metadata.Origin = current.LogFile, current.Dir, current.Origin
		return l, err
	}
}
