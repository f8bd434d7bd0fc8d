package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"balanza/services/logfile"
	"balanza/services/workers/control"
)

// logs prints the last lines that servers wrote and, with -f, those that come until a signal ends it.
func (p *program) logs() *cobra.Command {
	var tail logfile.Tail
	var format string
	c := p.forServers("logs [-f] [-n LINES] [NAME|PORT|all …]", "what the servers wrote", func(ctx context.Context, names []string) (err error) {
		_, readable := p.out.(terminal)
		switch {
		case tail.Lines < 0:
			return usagef("logs -n %d: the number of lines can't be negative", tail.Lines)
		case format == "text", format == "json":
			readable = format == "text"
		case format != "auto":
			return usagef("logs --format: %q is not auto, text or json", format)
		}
		if tail.Files, err = p.logFiles(ctx, names); err != nil {
			return err
		}
		if len(names) == 0 || slices.Contains(names, allServers) {
			tail.Dir = p.settings.logsDir()
		}
		p.printLogs(ctx, tail, readable)
		return context.Cause(ctx)
	})
	c.Flags().BoolVarP(&tail.Follow, "follow", "f", false, "go on with the lines that come")
	c.Flags().IntVarP(&tail.Lines, "lines", "n", 20, "how many `LINES` of each server")
	c.Flags().StringVar(&format, "format", "auto", "`FORMAT`: text, json (as it was written), or auto: text on a terminal")
	return c
}

// printLogs prints the lines of several files by time, for people or as they are. Where lines of several files can come,
// each has its file's name before it.
func (p *program) printLogs(ctx context.Context, tail logfile.Tail, readable bool) {
	width := 0
	for name := range tail.Files {
		width = max(width, len(name))
	}
	labelled := len(tail.Files) > 1 || tail.Follow && tail.Dir != ""
	tail.Run(ctx, func(name string, line []byte) {
		label := ""
		if labelled {
			width = max(width, len(name))
			label = fmt.Sprintf("%-*s | ", width, name)
		}
		_, _ = lineWriter{p.out, label, readable}.Write(line)
	})
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
		if err := checkName(name); err != nil {
			return nil, err
		}
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
