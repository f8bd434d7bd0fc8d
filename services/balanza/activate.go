package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"
)

// activateWord is the command between the command instance and a program that inherits the socket.
const activateWord = "activate"

// activate becomes the program named. LISTEN_PID must be the number of the process that gets the socket, which is known
// only in that process.
func (p *program) activate() *cobra.Command {
	c := &cobra.Command{
		Use:              activateWord + " PROGRAM …",
		Short:            "become a program that gets the listening socket; for run",
		Hidden:           true,
		Args:             cobra.ArbitraryArgs,
		PersistentPreRun: ignoreSettings,
		RunE:             func(_ *cobra.Command, args []string) error { return p.becomeProgram(args) },
	}
	c.Flags().SetInterspersed(false) // flags after the program are the program's
	return c
}

// becomeProgram returns only with an error: exec keeps the process and its number, which the variable needs. The
// environment is the program's already: see instanceOptions.environment.
func (p *program) becomeProgram(args []string) error {
	if len(args) == 0 {
		return usagef("activate takes a program")
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	env := append(slices.Clone(p.environment), "LISTEN_PID="+strconv.Itoa(os.Getpid()))
	return fmt.Errorf("%s: %w", path, syscall.Exec(path, args, env))
}
