package main

import (
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// version is set by the linker: -X main.version=…
var version string

// versionText is the linker's version, or else what the build recorded: the revision, with +dirty after it where the
// files differed from that.
func versionText() string {
	if info, ok := debug.ReadBuildInfo(); ok && version == "" {
		return strings.Trim(info.Main.Version, "()") // (devel) where the build recorded nothing
	}
	return version
}

// version prints what --version does.
func (p *program) version() *cobra.Command {
	return &cobra.Command{
		Use:              "version",
		Short:            "print the version",
		PersistentPreRun: ignoreSettings,
		Run:              func(*cobra.Command, []string) { fmt.Fprintln(p.out, "balanza", versionText()) },
	}
}
