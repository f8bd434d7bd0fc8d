package main

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"

	"balanza/services/edge"
)

// describe prints servers in full.
func (p *program) describe() *cobra.Command {
	c := p.forServers("describe NAME|PORT|all …", "one server in full: workers, command, folder, log file", p.describeServers)
	c.Aliases = []string{"show", "info"}
	return c
}

// describeServers prints all that is known of each server. The list of ps has what fits into a line.
func (p *program) describeServers(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return usagef("describe takes the name or port of a server (balanza ps)")
	}
	all, err := p.measure(ctx, names)
	if err != nil {
		return err
	}
	return render(p.out, "describe.tmpl", all)
}

// Upstreams are the servers behind a balancer, as one of its workers reports them; none of another server.
func (s serverStatus) Upstreams() (all []edge.UpstreamStatus) {
	for _, w := range s.Workers {
		if json.Unmarshal(w.Details, &all) == nil {
			break
		}
	}
	return all
}
