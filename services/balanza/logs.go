package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// logs shows the last lines that servers wrote and, with -f, those that come.
func (p *program) logs(args []string) error {
	f := flags("logs")
	follow := f.Bool("f", false, "go on with what comes")
	lines := f.Int("n", 20, "how many lines of each server")
	words, err := p.parse(f, args)
	if err != nil {
		return err
	}
	if *lines < 0 {
		return usagef("logs -n %d: the number of lines can't be negative", *lines)
	}
	files, err := p.logFiles(words)
	if err != nil {
		return err
	}
	width := 0
	for name := range files {
		width = max(width, len(name))
	}
	ctx, cancel := p.untilSignal(func() {}, func() {})
	defer cancel()
	var wg sync.WaitGroup
	var one sync.Mutex
	for name, file := range files {
		label := ""
		if len(files) > 1 {
			label = fmt.Sprintf("%-*s | ", width, name)
		}
		show := func(line []byte) {
			one.Lock()
			defer one.Unlock()
			fmt.Fprintf(p.out, "%s%s\n", label, line)
		}
		wg.Go(func() { tail(ctx, file, *lines, *follow, show) })
	}
	wg.Wait()
	return nil
}

// logFiles finds the log files of the servers named, those that run no more among them; of all without names.
func (p *program) logFiles(words []string) (map[string]string, error) {
	files := map[string]string{}
	found, err := filepath.Glob(filepath.Join(p.settings.logsDir(), "*.log"))
	if err != nil {
		return nil, err
	}
	running, err := p.pick(nil)
	if err != nil {
		return nil, err
	}
	for _, st := range running {
		for i, word := range words {
			if word == fmt.Sprint(st.Port) {
				words[i] = st.Name
			}
		}
	}
	for _, file := range found {
		// lumberjack's backups are NAME-TIME.log
		name := strings.TrimSuffix(filepath.Base(file), ".log")
		if i := len(name) - len("-2006-01-02T15-04-05.000"); i > 0 {
			if _, err := time.Parse("-2006-01-02T15-04-05.000", name[i:]); err == nil {
				continue
			}
		}
		files[name] = file
	}
	if len(words) == 0 {
		if len(running) > 0 { // of what runs, if anything does
			for name := range files {
				alive := false
				for _, st := range running {
					alive = alive || st.Name == name
				}
				if !alive {
					delete(files, name)
				}
			}
		}
		return files, nil
	}
	picked := map[string]string{}
	for _, word := range words {
		if files[word] == "" {
			return nil, fmt.Errorf("no log of %s in %s", word, p.settings.logsDir())
		}
		picked[word] = files[word]
	}
	return picked, nil
}

// glance is how often a file is looked at for more.
const glance = 200 * time.Millisecond

// tail shows the last n lines of a file and, following, what is added to it or to the file that takes its place.
func tail(ctx context.Context, path string, n int, follow bool, show func([]byte)) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer func() { f.Close() }()
	var rest []byte
	read := func() {
		more, err := io.ReadAll(f)
		if err != nil {
			return
		}
		rest = append(rest, more...)
		for {
			line, after, whole := bytes.Cut(rest, []byte("\n"))
			if !whole {
				return
			}
			show(line)
			rest = after
		}
	}
	skipToLast(f, n)
	read()
	for follow {
		select {
		case <-ctx.Done():
			return
		case <-time.After(glance):
		}
		read()
		was, err1 := f.Stat()
		now, err2 := os.Stat(path)
		if err1 != nil || err2 != nil {
			if errors.Is(err2, os.ErrNotExist) {
				continue // between two files
			}
			return
		}
		if !os.SameFile(was, now) { // rotated
			read()
			if fresh, err := os.Open(path); err == nil {
				f.Close()
				f = fresh
			}
		}
	}
}

// skipToLast moves to the start of the file's last n lines.
func skipToLast(f *os.File, n int) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return
	}
	block := make([]byte, 64<<10)
	for at, left := end, n+1; at > 0; {
		size := min(int64(len(block)), at)
		at -= size
		if _, err := f.ReadAt(block[:size], at); err != nil {
			return
		}
		for i := int(size) - 1; i >= 0; i-- {
			if block[i] != '\n' {
				continue
			}
			if left--; left == 0 {
				_, _ = f.Seek(at+int64(i)+1, io.SeekStart)
				return
			}
		}
	}
	_, _ = f.Seek(0, io.SeekStart)
}
