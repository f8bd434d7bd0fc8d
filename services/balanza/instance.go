package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"balanza/services/instance"
	"balanza/services/workers"
)

// instanceWord is the command that runs one instance of a program for the master of run.
const instanceWord = "instance"

// instanceOptions are the flags that run has in common with instance, which run passes on to it.
type instanceOptions struct {
	readyPath, healthPath, ready, stopSignal string
	readyTimeout, stopTimeout                time.Duration
	socket                                   bool
	envFile                                  string
	name                                     string // of the server; run has a flag of its own for it
}

// instance runs one program as a worker of a master, and is the parent of all that the program starts.
func (p *program) instance() *cobra.Command {
	o := &instanceOptions{}
	c := &cobra.Command{
		Use:              instanceWord + " [FLAGS] -- PROGRAM …",
		Short:            "run one instance of a program; for run",
		Hidden:           true,
		Args:             cobra.MinimumNArgs(1),
		PersistentPreRun: ignoreSettings,
	}
	o.flags(c)
	c.Flags().StringVar(&o.name, "name", "", "`NAME` of the server")
	c.RunE = func(_ *cobra.Command, command []string) error {
		w, err := workers.Inherit()
		if err != nil {
			return err
		}
		if w == nil {
			return usagef("balanza run starts this command")
		}
		config, err := o.config(command)
		if err != nil {
			return err
		}
		return w.Run(config.Run, p.signals, p.logger())
	}
	return c
}

// flags defines the flags.
func (o *instanceOptions) flags(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&o.socket, "socket", false, "hand down the listening socket (LISTEN_FDS), as systemd does, in place of a port for each instance")
	f.StringVar(&o.ready, "ready", "port", "an instance is ready when its `port` accepts connections, or not before it says so (notify, see sd_notify)")
	f.StringVar(&o.readyPath, "ready-path", "", "an instance is ready when it answers 200 at this `PATH`")
	f.StringVar(&o.healthPath, "health-path", "", "replace an instance that does not answer 2xx at this `PATH`")
	f.StringVar(&o.stopSignal, "stop-signal", "TERM", "`SIGNAL` that tells an instance to end")
	f.DurationVar(&o.stopTimeout, "stop-timeout", 30*time.Second, "`TIME` until an instance that was told to end is killed")
	f.DurationVar(&o.readyTimeout, "ready-timeout", 10*time.Second, "`TIME` until an instance must be ready")
	f.StringVar(&o.envFile, "env-file", "", "`FILE` with NAME=value lines for the environment of the program")
}

// args are the flags again, for the command line of an instance.
func (o *instanceOptions) args() []string {
	args := []string{
		"--name=" + o.name, "--ready=" + o.ready, "--ready-path=" + o.readyPath, "--health-path=" + o.healthPath,
		"--stop-signal=" + o.stopSignal, "--stop-timeout=" + o.stopTimeout.String(), "--ready-timeout=" + o.readyTimeout.String(),
		"--env-file=" + o.envFile, fmt.Sprintf("--socket=%t", o.socket),
	}
	return slices.DeleteFunc(args, func(arg string) bool { return strings.HasSuffix(arg, "=") || strings.HasSuffix(arg, "=false") })
}

// config checks the flags. The environment file is read anew at every start of an instance.
func (o *instanceOptions) config(command []string) (c instance.Config, err error) {
	self, err := programPath()
	if err != nil {
		return c, err
	}
	c = instance.Config{
		Command: command, InheritSocket: o.socket, Activate: []string{self, activateWord},
		ReadyPath: o.readyPath, HealthPath: o.healthPath, ReadyTimeout: o.readyTimeout, StopTimeout: o.stopTimeout,
		Independent: isBackgroundServer,
	}
	switch o.ready {
	case "port":
	case "notify":
		c.ReadyNotify = true
	default:
		return c, usagef("--ready: %q is neither port nor notify", o.ready)
	}
	for flag, path := range map[string]string{"ready-path": o.readyPath, "health-path": o.healthPath} {
		if path != "" && (!strings.HasPrefix(path, "/") || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r == 0x7f })) {
			return c, usagef("--%s: %q is no path, like /healthz", flag, path)
		}
	}
	if c.StopSignal, err = parseSignal(o.stopSignal); err != nil {
		return c, err
	}
	if o.stopTimeout <= 0 || o.readyTimeout <= 0 {
		return c, usagef("--stop-timeout and --ready-timeout are longer than 0")
	}
	c.Env, err = o.environment()
	return c, err
}

// environment is that of the program: this process's, without what is Balanza's, the variables of the file, and those that
// balanza.yaml declares.
func (o *instanceOptions) environment() ([]string, error) {
	env := programEnv()
	if o.socket {
		env = append(env, "LISTEN_FDS=1", "LISTEN_FDNAMES="+o.name)
	}
	variables := map[string]string{}
	if o.envFile != "" {
		content, err := readEnvFile(o.envFile)
		if err == nil {
			variables, err = parseEnvFile(o.envFile, content)
		}
		if err != nil {
			return nil, usagef("--env-file: %v", err)
		}
	}
	if declared := os.Getenv(programEnvVariable); declared != "" {
		if err := json.Unmarshal([]byte(declared), &variables); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		env = append(env, name+"="+variables[name])
	}
	return env, nil
}

// readEnvFile reads a file that can be read again at every start. A pipe cannot, and opening one may never end.
func readEnvFile(path string) ([]byte, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, errorf("%s is no regular file", path)
	}
	return os.ReadFile(path)
}

// parseSignal takes the name of a signal, with or without SIG.
func parseSignal(name string) (syscall.Signal, error) {
	upper := strings.ToUpper(name)
	if !strings.HasPrefix(upper, "SIG") {
		upper = "SIG" + upper
	}
	if s := unix.SignalNum(upper); s != 0 {
		return s, nil
	}
	return 0, usagef("--stop-signal: %q is no signal, like TERM or INT", name)
}

// isBackgroundServer tells whether a process is a master that run -d, start or up -d has put into the background: it goes
// on when the program that has started it ends.
func isBackgroundServer(pid int) bool {
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && slices.Contains(strings.Split(string(environment), "\x00"), backgroundVariable+"=1")
}
