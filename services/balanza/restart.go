package main

import (
	"github.com/spf13/cobra"

	"balanza/services/workers/control"
)

// restart ends the processes of servers and starts new ones. The socket stays open, so clients that connect meanwhile
// wait. A server that is stopped is started.
func (p *program) restart() *cobra.Command {
	return p.orderCommand(control.Restart, "end the processes and start new ones")
}
