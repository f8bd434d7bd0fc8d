package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"balanza/services/workers/control"
)

// This file asks servers and gives them orders, through their control sockets. No command needs more of a server than its
// socket in the home's folder run: a server that was started on another terminal, or by another version, is the same.

// allServers is the name that stands for all servers where a command takes names.
const allServers = "all"

// list returns all servers of this user on this machine, those that do not answer among them. It takes 2 s then.
func (p *program) list(ctx context.Context) ([]control.Status, error) {
	all, err := control.List(ctx, p.settings.runDir())
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return all, err
}

// pick returns the servers of these names, in their order. A name may also be a port, or all; no name means all too. What
// can be no name is a mistake on the command line.
func (p *program) pick(ctx context.Context, names []string) ([]control.Status, error) {
	all, err := p.list(ctx)
	if err != nil {
		return nil, err
	}
	return named(all, names)
}

// named is pick from servers that are listed already.
func named(all []control.Status, names []string) (picked []control.Status, err error) {
	if len(names) == 0 || slices.Contains(names, allServers) {
		return all, nil
	}
	for _, name := range names {
		if err := checkName(name); err != nil {
			return nil, err
		}
		i := slices.IndexFunc(all, func(st control.Status) bool { return st.Name == name || strconv.Itoa(st.Port) == name })
		if i < 0 {
			return nil, errorf("no server is named %s or has that port (balanza ps)", name)
		}
		picked = append(picked, all[i])
	}
	return picked, nil
}

// checkUnambiguous fails when another server of this user has the port as its name, or the name as its port: commands take
// both. It asks servers only where they matter. A port of 0 is none yet.
func (p *program) checkUnambiguous(ctx context.Context, name string, port int) error {
	if number := strconv.Itoa(port); number != name {
		if _, err := control.NewClient(p.settings.runDir(), number).Status(ctx); err == nil {
			return usagef("port %d is the name of another server, and commands take names and ports (balanza ps)", port)
		}
	}
	if n, err := strconv.ParseUint(name, 10, 16); err != nil || strconv.FormatUint(n, 10) != name {
		return nil
	}
	all, err := p.list(ctx)
	if err != nil {
		return err
	}
	for _, st := range all {
		if st.Name != name && strconv.Itoa(st.Port) == name {
			return usagef("name %s is the port of %s, and commands take names and ports (balanza ps)", name, st.Name)
		}
	}
	return nil
}

// order gives an order to several servers and prints the result of each. They get it one after another, so that few
// processes start at the same time. One that fails does not keep the others from getting it. When ctx ends, the order
// under way is carried out nevertheless, and the error says so.
func (p *program) order(ctx context.Context, servers []control.Status, order string, count int) error {
	if len(servers) == 0 {
		p.printf("nothing runs\n")
	}
	var failed []error
	for _, st := range servers {
		began := time.Now()
		err := control.NewClient(p.settings.runDir(), st.Name).Order(ctx, order, count)
		if ctx.Err() != nil {
			return errorf("%s %s: %w; a server that has the order carries it out", order, st.Name, context.Cause(ctx))
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s %s: %w", order, st.Name, err))
			continue
		}
		p.printf("%s %s: done in %v\n", order, st.Name, time.Since(began).Round(time.Millisecond))
	}
	return errors.Join(failed...)
}

// printOnline prints where a server that was started serves. It knows its port where a free one was asked for.
func (p *program) printOnline(ctx context.Context, name string) error {
	st, err := control.NewClient(p.settings.runDir(), name).Status(ctx)
	if err != nil {
		return err
	}
	if st.Port == 0 {
		p.printf("%s is online\n", name)
		return nil
	}
	p.printf("%s is online: %s\n", name, shownURL(st.Host, st.Port))
	return nil
}

// orderCommand returns the command of one order, which is named as the control socket names it.
func (p *program) orderCommand(order, short string) *cobra.Command {
	return p.forServers(order+" [NAME|PORT|all …]", short, func(ctx context.Context, names []string) error {
		servers, err := p.pick(ctx, names)
		if err != nil {
			return err
		}
		return p.order(ctx, servers, order, 0)
	})
}

// completeNames completes the names of servers for the shell. It offers names that the line has already, too: few lines
// have more than one.
func (p *program) completeNames(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	all, err := p.list(p.untilInterrupted())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, st := range all {
		names = append(names, st.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// stoppedError is that of a server that was told to stop while it started. It stays on the list, as any that is stopped.
type stoppedError struct{ error }

// isStarting tells whether a worker may become ready soon. One that waits for its next try is none: it may fail for ever.
func isStarting(w control.WorkerStatus) bool { return w.Status == "starting" && w.Pid > 0 }

// awaitOnline waits until the servers of these names are online, with all workers that get ready. It fails with the reason when one is errored, and with
// the value of ended when their process has ended. When ctx ends first, the servers go on starting, and the error says so.
func (p *program) awaitOnline(ctx context.Context, names []string, ended <-chan error) error {
	for {
		all, err := p.list(ctx)
		if ctx.Err() != nil {
			return errorf("%w; %s goes on starting in the background (balanza ps)", context.Cause(ctx), strings.Join(names, ", "))
		}
		if err != nil {
			return err
		}
		online := 0
		for _, st := range all {
			switch {
			case !slices.Contains(names, st.Name):
			case st.Status == "online" && st.Degraded != "":
				return errorf("%s can't serve the whole site: %s", st.Name, st.Degraded)
			case st.Status == "online" && !slices.ContainsFunc(st.Workers, isStarting):
				online++
			case st.Status == "errored":
				return errorf("%s did not start: %s", st.Name, st.Cause)
			case st.Status == "stopped":
				return stoppedError{errorf("%s was stopped before it was online", st.Name)}
			}
		}
		if online == len(names) {
			return nil
		}
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}
