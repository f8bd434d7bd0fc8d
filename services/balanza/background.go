package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"balanza/services/logfile"
	"balanza/services/workers"
	"balanza/services/workers/control"
)

// commandLine is one of this program, with where and in which environment it runs. It reads the .env of its folder.
type commandLine struct {
	dir         string // empty: this process's
	environment []string
	args        []string
}

// background runs `balanza args…` in a session of its own and returns when the servers of these names are online, or with
// the reason why it ended. The first name's log file gets what the process prints; see openOutput.
func (p *program) background(ctx context.Context, args, names []string) error {
	_, err := p.backgroundAs(ctx, commandLine{"", p.environment, args}, names)
	return err
}

// backgroundAs is background with another folder and environment. exited gets the end of the process, nil when its exit
// status is 0; it is nil where none was started.
func (p *program) backgroundAs(ctx context.Context, as commandLine, names []string) (exited <-chan error, err error) {
	for _, name := range names { // they become paths of files
		if err := checkName(name); err != nil {
			return nil, err
		}
	}
	running, err := p.list(ctx)
	if err != nil {
		return nil, err
	}
	for _, st := range running {
		if slices.Contains(names, st.Name) {
			return nil, errorf("a server named %s is running already (balanza ps)", st.Name)
		}
	}
	self, err := p.persistentPath()
	if err != nil {
		return nil, err
	}
	output, err := p.backgroundOutput(names[0])
	if err != nil {
		return nil, err
	}
	defer output.Close()
	start, err := output.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, as.args...)
	cmd.Dir = as.dir
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C and the end of the terminal do not reach it
	cmd.Env = p.backgroundEnv(as)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	// This goroutine may outlive the command, which then has its answer already.
	ended, exit := make(chan error, 1), make(chan error, 1)
	go func() {
		err := cmd.Wait()
		printed, _ := io.ReadAll(io.NewSectionReader(output, start, 1<<20))
		reason := errorf("it did not start: %s", reasonOf(printed, err))
		if cmd.ProcessState.ExitCode() == exitUsage {
			reason = usageError{reason}
		}
		ended <- reason
		exit <- err
	}()
	err = p.awaitOnline(ctx, names, ended)
	if err != nil && ctx.Err() == nil && !errors.As(err, new(stoppedError)) {
		for _, name := range names { // else one that failed would stay on the list
			_ = control.NewClient(p.settings.runDir(), name).Order(ctx, control.Delete, 0)
		}
		return nil, err
	}
	return exit, err
}

// backgroundEnv is the environment of a process in the background. The home is absolute, since a relative one means
// something else in another folder. PWD has the folder by the path that the user named, which may be a symbolic link.
func (p *program) backgroundEnv(as commandLine) []string {
	env := slices.DeleteFunc(slices.Clone(as.environment), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains(serviceVariables, name)
	})
	env = append(env, "BALANZA_HOME="+p.settings.Home, "BALANZA_LOG_FORMAT=json", backgroundVariable+"=1")
	if as.dir != "" {
		env = append(env, "PWD="+as.dir)
	}
	return env
}

// closeOnExec keeps the open files of this process from all programs that it starts, except those that are handed down on
// purpose. Go opens its own files so, but whatever started this process may have left others: a deploy script's lock
// would be held as long as a server lives.
func closeOnExec() {
	files, _ := os.ReadDir("/dev/fd") // where the system does not tell them, they stay as they are
	for _, f := range files {
		if fd, err := strconv.Atoi(f.Name()); err == nil && fd > unix.Stderr {
			unix.CloseOnExec(fd)
		}
	}
}

// backgroundOutput opens the file for the standard output of a process in the background: a server's log file, or one
// without a name where there are no log files.
func (p *program) backgroundOutput(name string) (*os.File, error) {
	dir := p.settings.logsDir()
	if p.settings.LogSize > 0 && os.MkdirAll(dir, 0o700) == nil {
		return os.OpenFile(logfile.Path(dir, name), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	}
	f, err := os.CreateTemp("", "balanza-*.log")
	if err == nil {
		err = os.Remove(f.Name())
	}
	return f, err
}

// reasonOf finds the line that says why a process ended: its own error or that of a crash. A process that printed neither
// was ended by a signal, which err names.
func reasonOf(printed []byte, err error) string {
	var cause workers.Cause
	reason := ""
	for line := range bytes.Lines(printed) {
		if message, ok := bytes.CutPrefix(line, []byte("balanza: ")); ok {
			reason, cause = string(bytes.TrimSpace(message)), workers.Cause{}
			continue
		}
		cause.Add(line)
	}
	switch {
	case cause.IsCrash():
		return cause.String()
	case reason == "" && err != nil:
		return err.Error()
	case reason == "": // it was told to end while it started
		return "exited with status 0"
	}
	return reason
}

// backgroundVariable marks a process whose standard output has no reader: what it logs goes to its log files alone.
const backgroundVariable = "BALANZA_BACKGROUND"

// inBackground tells whether this is such a process.
func inBackground() bool { return os.Getenv(backgroundVariable) != "" }

// keepProgram returns a path of this program that stays. `go run` deletes its binary when it ends, so that one is copied
// into the home first.
func (p *program) keepProgram() (string, error) {
	self, err := programPath()
	if err != nil || !strings.Contains(self, string(filepath.Separator)+"go-build") {
		return self, err
	}
	binary, err := os.ReadFile(self)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(p.settings.Home, "bin")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	kept := filepath.Join(dir, "balanza")
	return kept, renameio.WriteFile(kept, binary, 0o700, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o700))
}
