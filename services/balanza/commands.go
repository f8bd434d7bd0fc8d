package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// root returns the command tree, each command of which has a file of its own. Its groups and their commands are in the order in which help lists them.
func (p *program) root() *cobra.Command {
	cobra.EnableCommandSorting = false // the newcomer's order, and not the alphabet's
	root := p.serve()
	help := p.help()
	for _, group := range []struct {
		title    string
		commands []*cobra.Command
	}{
		{"Every day:", []*cobra.Command{p.up(), p.ps(), p.logs(), p.reload(), p.down()}},
		{"Servers:", []*cobra.Command{p.start(), p.stop(), p.restart(), p.scale(), p.delete(), p.describe(), p.monit(), p.flush()}},
		{"After a reboot:", []*cobra.Command{p.save(), p.resurrect(), p.startup()}},
		{"Other:", []*cobra.Command{p.run(), p.edge(), p.healthcheck(), p.init(), p.certificates(), p.completion(), p.version(), help, p.instance(), p.activate()}},
	} {
		root.AddGroup(&cobra.Group{ID: group.title, Title: text(group.title)})
		for _, c := range group.commands {
			c.GroupID = group.title
			root.AddCommand(c)
		}
	}
	root.SetHelpCommand(help)
	root.CompletionOptions.DisableDefaultCmd = true
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SuggestionsMinimumDistance = 2
	root.SetOut(p.out)
	root.SetErr(p.err)
	root.SetUsageFunc(func(c *cobra.Command) error { return render(p.out, "usage.tmpl", c) })
	root.SetGlobalNormalizationFunc(longName)
	root.SetFlagErrorFunc(flagError)
	// Help, completion and the version work without valid settings; so these are checked when a command is about to run.
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if p.settingsErr != nil {
			return usageError{p.settingsErr}
		}
		p.warnOfUnassigned()
		closeOnExec()
		return p.settings.checkHome()
	}
	for _, c := range append(root.Commands(), root) {
		if c.Args == nil {
			c.Args = noArguments
		}
		c.DisableFlagsInUseLine = true
		c.Flags().SortFlags = false
		c.Flags().BoolP("help", "h", false, "show this help")
		for _, english := range []*string{&c.Use, &c.Short, &c.Long, &c.Example} {
			*english = text(*english)
		}
		c.Flags().VisitAll(func(f *pflag.Flag) { f.Usage = text(f.Usage) })
	}
	return root
}

// interruptible returns a command that a signal ends. use begins with its name; run returns soon after its context ends.
func (p *program) interruptible(use, short string, run func(ctx context.Context, args []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, RunE: func(_ *cobra.Command, args []string) error {
		ctx := p.untilInterrupted()
		err := run(ctx, args)
		if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
			return cause // and not the "context canceled" of a library
		}
		return err
	}}
}

// forServers is interruptible with arguments that are names and ports of servers, which the shell completes.
func (p *program) forServers(use, short string, run func(ctx context.Context, names []string) error) *cobra.Command {
	c := p.interruptible(use, short, run)
	c.Args, c.ValidArgsFunction = cobra.ArbitraryArgs, p.completeNames
	return c
}

// ignoreSettings is the PersistentPreRun of the commands that work with wrong settings too.
func ignoreSettings(*cobra.Command, []string) {}

// noArguments is the Args of the commands that take none. cobra's own speaks English only, and of an "unknown command".
func noArguments(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no %q; see balanza %[1]s --help", c.Name(), args[0])
	}
	return nil
}

// unknownCommand is the Args of the root command: an argument of it is a mistyped command. cobra's own suggestions take
// several lines.
func unknownCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if similar := root.SuggestionsFor(args[0]); len(similar) > 0 {
		return usagef("%q is not a command; did you mean %s? (balanza --help)", args[0], strings.Join(similar, ", "))
	}
	return usagef("%q is not a command; see balanza --help", args[0])
}

// longName makes a flag's long name from its other spellings: --modo, and one letter after two hyphens, as in --p.
func longName(f *pflag.FlagSet, name string) pflag.NormalizedName {
	if name == "modo" {
		name = "mode"
	} else if len(name) == 1 {
		if flag := f.ShorthandLookup(name); flag != nil {
			name = flag.Name
		}
	}
	return pflag.NormalizedName(name)
}

// doubleHyphens gives long flags that have one hyphen, like -port, the two that pflag expects. What follows -- or the
// command activate belongs to another program; the first -- of start stands before flags of the server, as in pm2.
func doubleHyphens(root *cobra.Command, args []string) []string {
	args = slices.Clone(args)
	if i := slices.Index(args, "--"); i > 0 && args[0] == "start" {
		args = slices.Delete(args, i, i+1)
	}
	for i, arg := range args {
		if arg == "--" || args[0] == activateWord {
			break
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "-"), "=")
		if len(name) < 2 || arg[0] != '-' || name[0] == '-' {
			continue
		}
		if slices.ContainsFunc(append(root.Commands(), root), func(c *cobra.Command) bool { return c.Flags().Lookup(name) != nil }) {
			args[i] = "-" + arg
		}
	}
	return args
}

// flagError is the usageError in the user's language for what pflag finds wrong.
func flagError(c *cobra.Command, err error) error {
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok {
		name := "--" + e.GetSpecifiedName()
		if short := e.GetSpecifiedShortnames(); short != "" {
			name = "-" + short
		}
		return usagef("unknown flag %s; see %s --help", name, c.CommandPath())
	}
	if e, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		return usagef("flag --%s needs a value", e.GetFlag().Name)
	}
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return usagef("%q for flag --%s: %w", e.GetValue(), e.GetFlag().Name, e.Unwrap())
	}
	return usageError{err}
}
