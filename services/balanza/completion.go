package main

import "github.com/spf13/cobra"

// completion prints the script that completes commands, flags and names of servers in a shell. It stands in for cobra's
// command of that name, whose texts are English only.
func (p *program) completion() *cobra.Command {
	shells := map[string]func(root *cobra.Command) error{
		"bash":       func(root *cobra.Command) error { return root.GenBashCompletionV2(p.out, true) },
		"zsh":        func(root *cobra.Command) error { return root.GenZshCompletion(p.out) },
		"fish":       func(root *cobra.Command) error { return root.GenFishCompletion(p.out, true) },
		"powershell": func(root *cobra.Command) error { return root.GenPowerShellCompletionWithDesc(p.out) },
	}
	return &cobra.Command{
		Use:              "completion bash|zsh|fish|powershell",
		Short:            "print the completion script of a shell",
		Example:          "  source <(balanza completion bash)",
		ValidArgs:        []string{"bash", "zsh", "fish", "powershell"},
		Args:             cobra.ArbitraryArgs,
		PersistentPreRun: ignoreSettings,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 1 || shells[args[0]] == nil {
				return usagef("completion takes the name of a shell: bash, zsh, fish or powershell")
			}
			return shells[args[0]](c.Root())
		},
	}
}
