package main

import (
	"github.com/spf13/cobra"

	"balanza/services/workers/control"
)

// reload replaces the processes of servers one at a time: each is told to drain when its successor is ready. A successor
// that does not get ready leaves the old process serving, and the command fails with the cause.
func (p *program) reload() *cobra.Command {
	return p.orderCommand(control.Reload, "replace the processes one at a time, losing no request")
}
