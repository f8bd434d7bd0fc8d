package main

import (
	"context"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"balanza/services/provision"
)

// init makes the files that the container stack needs before it starts: the command of the service init in
// docker-compose.yml. Its settings are in the environment, since Compose fills that from .env.
func (p *program) init() *cobra.Command {
	return &cobra.Command{
		Use:   "init DIR [FROM:TO …]",
		Short: "passwords, certificate and configuration of the Compose stack",
		Args:  cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("init takes a folder")
			}
			var copies []provision.Copy
			for _, arg := range args[1:] {
				from, to, ok := strings.Cut(arg, ":")
				if !ok || from == "" || to == "" {
					return usagef("%q does not name two folders, FROM:TO", arg)
				}
				copies = append(copies, provision.Copy{From: from, To: to})
			}
			s, err := p.provisionSettings()
			if err != nil {
				return err
			}
			return provision.Run(args[0], copies, s)
		},
	}
}

// certificates renews the certificate of the container stack while it runs: the command of its service in
// docker-compose.yml, whose health check is the same command with --check.
func (p *program) certificates() *cobra.Command {
	var check bool
	c := p.interruptible("certificates DIR [--check]", "renew the certificate of the Compose stack", func(ctx context.Context, args []string) error {
		if len(args) != 1 {
			return usagef("certificates takes one folder")
		}
		s, err := p.provisionSettings()
		if err != nil {
			return err
		}
		if check {
			return provision.CheckCertificate(args[0], s)
		}
		provision.Renew(ctx, args[0], s)
		return context.Cause(ctx)
	})
	c.Args = cobra.ArbitraryArgs
	c.Flags().BoolVar(&check, "check", false, "only exit with status 0 when the certificate can be used now")
	return c
}

// provisionSettings reads the settings of init and certificates, and makes slog write as Balanza does.
func (p *program) provisionSettings() (provision.Settings, error) {
	slog.SetDefault(p.logger())
	var s provision.Settings
	if err := fromEnvironment(prefix, &s); err != nil {
		return s, usageError{err}
	}
	s.Limits = p.settings.Limits
	return s, nil
}
