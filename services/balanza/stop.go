package main

import (
	"github.com/spf13/cobra"

	"balanza/services/workers/control"
)

// stop drains servers. Those in the background stay on the list, from where start brings them back; the others end.
func (p *program) stop() *cobra.Command {
	return p.orderCommand(control.Stop, "drain and stop; start brings back what runs in the background")
}
