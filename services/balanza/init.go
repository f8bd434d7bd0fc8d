package main

import (
	"github.com/spf13/cobra"

	"balanza/services/provision"
)

// init makes the files that the container stack needs before it starts: the command of the service init in
// docker-compose.yml. Its settings are in the environment, since Compose fills that from .env.
func (p *program) init() *cobra.Command {
	return &cobra.Command{
		Use:   "init DIR",
		Short: "passwords and certificate of the Compose stack",
		Args:  cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("init takes one folder")
			}
			var s provision.Settings
			if err := fromEnvironment(prefix, &s); err != nil {
				return usageError{err}
			}
			s.Limits = p.settings.Limits
			return provision.Run(args[0], s)
		},
	}
}
