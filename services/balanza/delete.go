package main

import (
	"github.com/spf13/cobra"

	"balanza/services/workers/control"
)

// delete drains servers and takes them off the list. Their log files stay.
func (p *program) delete() *cobra.Command {
	return p.orderCommand(control.Delete, "stop and forget")
}
