package main

import (
	"bytes"
	"context"
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

// background runs `balanza args…` in a session of its own and returns when the servers of these names are online, or with
// the reason why it ended. The first name's log file gets what the process prints; see openOutput.
func (p *program) background(ctx context.Context, args, names []string) error {
	return p.backgroundIn(ctx, "", args, names)
}

// backgroundIn is background in a working folder; empty: that of this process.
func (p *program) backgroundIn(ctx context.Context, dir string, args, names []string) error {
	for _, name := range names { // they become paths of files
		if err := checkName(name); err != nil {
			return err
		}
	}
	running, err := p.list(ctx)
	if err != nil {
		return err
	}
	for _, st := range running {
		if slices.Contains(names, st.Name) {
			return errorf("a server named %s is running already (balanza ps)", st.Name)
		}
	}
	self, err := p.persistentPath()
	if err != nil {
		return err
	}
	output, err := p.backgroundOutput(names[0])
	if err != nil {
		return err
	}
	defer output.Close()
	start, err := output.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	cmd := exec.Command(self, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C and the end of the terminal do not reach it
	cmd.Env = p.backgroundEnv()
	if dir != "" {
		cmd.Env = append(cmd.Env, "PWD="+dir) // the path by which the user named it, symbolic links and all
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1) // this goroutine may outlive the command, which then has its answer already
	go func() {
		err := cmd.Wait()
		printed, _ := io.ReadAll(io.NewSectionReader(output, start, 1<<20))
		reason := errorf("it did not start: %s", reasonOf(printed, err))
		if cmd.ProcessState.ExitCode() == exitUsage {
			reason = usageError{reason}
		}
		ended <- reason
	}()
	err = p.awaitOnline(ctx, names, ended)
	if err != nil && ctx.Err() == nil {
		for _, name := range names { // else one that failed would stay on the list
			_ = control.NewClient(p.settings.runDir(), name).Order(ctx, control.Delete, 0)
		}
	}
	return err
}

// backgroundEnv is the environment of a process in the background: that with which this command was started, and the home,
// since a relative one means something else in another folder. The process reads the .env of its own folder.
func (p *program) backgroundEnv() []string {
	env := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains(p.settings.fromDotEnv, name) || slices.Contains(serviceVariables, name)
	})
	return append(env, "BALANZA_HOME="+p.settings.Home, "BALANZA_LOG_FORMAT=json", backgroundVariable+"=1")
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
	}
	return reason
}

// backgroundVariable marks a process whose standard output has no reader: what it logs goes to its log files alone.
const backgroundVariable = "BALANZA_BACKGROUND"

// inBackground tells whether this is such a process.
func inBackground() bool { return os.Getenv(backgroundVariable) != "" }

// persistentPath is a path of this program that stays. `go run` deletes its binary when it ends, so that one is copied
// into the home first.
func (p *program) persistentPath() (string, error) {
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
