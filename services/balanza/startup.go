package main

import (
	"os/user"

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

// printUnit prints a unit that runs as this user and uses this home: what save wrote here is what it starts.
func (p *program) printUnit() error {
	self, err := p.persistentPath()
	if err != nil {
		return err
	}
	owner, err := user.Current()
	if err != nil {
		return err
	}
	return render(p.out, "unit.tmpl", map[string]string{"User": owner.Username, "Home": p.settings.Home, "Program": self})
}
