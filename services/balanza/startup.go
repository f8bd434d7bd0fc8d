package main

import (
	"os/user"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
)

// startup prints the systemd unit that resurrects at boot.
func (p *program) startup() *cobra.Command {
	return &cobra.Command{
		Use:   "startup",
		Short: "print a systemd unit that resurrects at boot",
		RunE:  func(*cobra.Command, []string) error { return p.printUnit() },
	}
}

// printUnit prints a unit that runs as this user and uses this home: what save wrote here is what it starts. Its main process
// stays, so that systemd knows whether it lives.
func (p *program) printUnit() error {
	self, err := p.persistentPath()
	if err != nil {
		return err
	}
	owner, err := user.Current()
	if err != nil {
		return err
	}
	for _, path := range []string{self, p.settings.Home} {
		if strings.ContainsFunc(path, unicode.IsControl) {
			return errorf("%q has a control character, which no unit can have in a path", path)
		}
	}
	return render(p.out, "unit.tmpl", map[string]string{"User": owner.Username, "Home": p.settings.Home, "Program": self})
}

// percents writes a text for a unit, in which a single % begins a specifier: see systemd.unit(5).
func percents(text string) string { return strings.ReplaceAll(text, "%", "%%") }

// quoted writes texts as one word of a unit: see systemd.syntax(7).
func quoted(texts ...string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(percents(strings.Join(texts, ""))) + `"`
}

// executable writes a program's path as the first word of a command. systemd runs none whose path has a quote or a backslash,
// but hands such an argument on.
func executable(path string) string {
	if strings.ContainsAny(path, `"'\`) {
		return "/usr/bin/env " + quoted(path)
	}
	return quoted(path)
}
