package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"balanza/services/workers/control"
)

// background runs `balanza args…` away from the terminal and returns when the servers of these names are online, or with
// the reason why it ended.
func (p *program) background(args, names []string) error {
	running, err := p.list()
	if err != nil {
		return err
	}
	for _, st := range running {
		if slices.Contains(names, st.Name) {
			return fmt.Errorf("a server named %s is running already (balanza ps)", st.Name)
		}
	}
	self, err := p.keptSelf()
	if err != nil {
		return err
	}
	words, err := os.CreateTemp("", "balanza-*.log")
	if err != nil {
		return err
	}
	defer words.Close()
	os.Remove(words.Name())
	cmd := exec.Command(self, args...)
	cmd.Stdout, cmd.Stderr = words, words
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = append(os.Environ(), "BALANZA_LOG_FORMAT="+p.logFormat(), backgroundVariable+"=1")
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			said := make([]byte, 64<<10)
			n, _ := words.ReadAt(said, 0)
			if last := lastLine(said[:n]); last != "" {
				return fmt.Errorf("it did not start: %s", strings.TrimPrefix(last, "balanza: "))
			}
			return fmt.Errorf("it did not start: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
		all, err := control.List(context.Background(), p.settings.runDir())
		if err != nil {
			return err
		}
		online := 0
		for _, st := range all {
			switch {
			case !slices.Contains(names, st.Name):
			case st.Status == "online":
				online++
			case st.Status == "errored":
				for _, name := range names {
					_ = control.NewClient(p.settings.runDir(), name).Order(context.Background(), "delete", 0)
				}
				return fmt.Errorf("%s did not start: %s", st.Name, st.Cause)
			}
		}
		if online == len(names) {
			return nil
		}
	}
}

// backgroundVariable tells a process that nobody reads its standard output: what it says goes to its log files alone.
const backgroundVariable = "BALANZA_BACKGROUND"

// inBackground says whether this is such a process.
func inBackground() bool { return os.Getenv(backgroundVariable) != "" }

func lastLine(text []byte) string {
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(lines[len(lines)-1])
}

// keptSelf is the path of this program; `go run` deletes its binary when it ends, so that one is copied first.
func (p *program) keptSelf() (string, error) {
	self, err := selfPath()
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
	fresh, err := os.CreateTemp(dir, "balanza-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(fresh.Name())
	if _, err := fresh.Write(binary); err != nil {
		return "", err
	}
	if err := fresh.Chmod(0o700); err != nil {
		return "", err
	}
	if err := fresh.Close(); err != nil {
		return "", err
	}
	kept := filepath.Join(dir, "balanza")
	return kept, os.Rename(fresh.Name(), kept)
}
