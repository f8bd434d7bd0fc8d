package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/spf13/cobra"

	"balanza/services/logfile"
	"balanza/services/workers/control"
)

// logs prints the last lines that servers wrote and, with -f, those that come until a signal ends it.
func (p *program) logs() *cobra.Command {
	var lines int
	var follow bool
	c := p.forServers("logs [-f] [-n LINES] [NAME|PORT|all …]", "what the servers wrote", func(ctx context.Context, names []string) error {
		if lines < 0 {
			return usagef("logs -n %d: the number of lines can't be negative", lines)
		}
		files, err := p.logFiles(ctx, names)
		if err != nil {
			return err
		}
		p.printLogs(ctx, files, lines, follow)
		return context.Cause(ctx)
	})
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with the lines that come")
	c.Flags().IntVarP(&lines, "lines", "n", 20, "how many `LINES` of each server")
	return c
}

// printLogs prints the last lines of several files, by name. Where there are several, each line has its name before it,
// and lines of different files keep no order: the files are read at the same time.
func (p *program) printLogs(ctx context.Context, files map[string]string, lines int, follow bool) {
	width := 0
	for name := range files {
		width = max(width, len(name))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for name, file := range files {
		label := ""
		if len(files) > 1 {
			label = fmt.Sprintf("%-*s | ", width, name)
		}
		wg.Go(func() {
			logfile.Tail(ctx, file, lines, follow, func(line []byte) {
				mu.Lock() // whole lines, also where the output is a pipe
				defer mu.Unlock()
				fmt.Fprintf(p.out, "%s%s\n", label, line)
			})
		})
	}
	wg.Wait()
}

// logFiles finds the log files of the servers named, those of servers that no longer run among them. Without names they
// are those of the servers that run, or all when none runs.
func (p *program) logFiles(ctx context.Context, names []string) (map[string]string, error) {
	files, err := logfile.List(p.settings.logsDir())
	if err != nil || slices.Contains(names, allServers) {
		return files, err
	}
	running, err := p.list(ctx)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 && len(running) > 0 {
		maps.DeleteFunc(files, func(name, _ string) bool {
			return !slices.ContainsFunc(running, func(st control.Status) bool { return st.Name == name })
		})
	}
	if len(names) == 0 {
		return files, nil
	}
	picked := map[string]string{}
	for _, name := range names {
		for _, st := range running {
			if name == strconv.Itoa(st.Port) {
				name = st.Name
			}
		}
		if files[name] == "" {
			return nil, errorf("there is no log of %s in %s", name, p.settings.logsDir())
		}
		picked[name] = files[name]
	}
	return picked, nil
}
