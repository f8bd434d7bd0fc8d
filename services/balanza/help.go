package main

import "github.com/spf13/cobra"

// help prints what --help does. It stands in for cobra's, which answers a mistyped command with the whole
// usage and exit status 0.
func (p *program) help() *cobra.Command {
	return &cobra.Command{
		Use:              "help [COMMAND]",
		Short:            "show the help of a command",
		Args:             cobra.ArbitraryArgs,
		PersistentPreRun: ignoreSettings,
		RunE: func(c *cobra.Command, args []string) error {
			named, _, err := c.Root().Find(args)
			if err == nil && named == c.Root() {
				err = unknownCommand(named, args)
			}
			if err != nil {
				return err
			}
			return named.Help()
		},
	}
}
