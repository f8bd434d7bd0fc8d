package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"balanza/services/edge"
	"balanza/services/metrics"
	"balanza/services/watch"
	"balanza/services/workers"
)

// edge runs the balancer, as a worker of up or alone. Its port does not come from BALANZA_PORT, which is that of a server
// behind it.
func (p *program) edge() *cobra.Command {
	c := &cobra.Command{
		Use:   "edge --p PORT --primary HOST:PORT … --default HOST:PORT …",
		Short: "the balancer of up, alone",
	}
	f, listen := c.Flags(), port(edgePort)
	f.VarP(&listen, "port", "p", "`PORT` to listen on (also --p)")
	p.settings.hostFlag(f)
	p.settings.metricsFlag(f)
	primary := f.StringArray("primary", nil, "`HOST:PORT` of a server of /api/randoms; may be repeated")
	backup := f.StringArray("backup", nil, "`HOST:PORT` of a server of /api/randoms for when no primary is ready; may be repeated")
	other := f.StringArray("default", nil, "`HOST:PORT` of a server of everything else; may be repeated")
	c.RunE = func(*cobra.Command, []string) error {
		return p.serveEdge(listen, edge.Config{Primary: *primary, Backup: *backup, Default: *other})
	}
	return c
}

// The balancer's families.
var (
	upstreamUp       = metrics.Family{Name: "balanza_edge_upstream_up", Kind: metrics.Gauge, Help: "1: the upstream is ready."}
	upstreamRequests = metrics.Family{
		Name: "balanza_edge_upstream_requests_total", Kind: metrics.Counter, Help: "Requests that the upstream has answered, whatever the status.",
	}
	upstreamFailures = metrics.Family{
		Name: "balanza_edge_upstream_failures_total", Kind: metrics.Counter,
		Help: "Attempts that got no answer from the upstream; those that could be were made again elsewhere.",
	}
)

// edgeCounters are those of the balancer that only grow.
func edgeCounters(upstreams []edge.UpstreamStatus) (s metrics.Snapshot) {
	for _, u := range upstreams {
		s.Set(upstreamRequests, float64(u.Requests), "upstream", u.Address, "role", u.Role)
		s.Set(upstreamFailures, float64(u.Failures), "upstream", u.Address, "role", u.Role)
	}
	return s
}

// edgeDrainDelay is how long the balancer's answers tell clients to leave before it closes their connections.
const edgeDrainDelay = time.Second

// serveEdge runs the balancer as one process, which a reload replaces without a refused connection: both processes have
// the same listening socket.
func (p *program) serveEdge(listen port, c edge.Config) error {
	s := p.settings
	s.Name, s.Mode, s.Port, s.Instances = "edge", edgeMode, listen, 1
	c.Limits, c.ServerNames, c.Token = s.Limits, s.ServerNames, s.EdgeToken
	c.Logger, c.DrainDelay, c.DrainTimeout = p.logger(), max(s.DrainDelay, edgeDrainDelay), s.DrainTimeout
	balancer, err := edge.New(c)
	if err != nil {
		return usageError{err}
	}
	program := func(*slog.Logger) workers.Program {
		return func(ctx context.Context, w *workers.Worker) error {
			w.Sample = func() workers.Heartbeat {
				status := balancer.Status()
				upstreams, _ := json.Marshal(status) // strings, numbers and times: cannot fail
				return workers.Heartbeat{Details: upstreams, Counters: edgeCounters(status).Values}
			}
			w.Report = func() workers.Report {
				status := balancer.Status()
				own := metrics.Runtime(versionText())
				for _, u := range status {
					up := 0.0
					if u.Up {
						up = 1
					}
					own.Set(upstreamUp, up, "upstream", u.Address, "role", u.Role)
				}
				return workers.Report{Totals: edgeCounters(status), Own: own}
			}
			w.Ready()
			return balancer.Serve(ctx, w.Listener)
		}
	}
	return p.serveOne(s, p.args, program, func(c *workers.Config) (*watch.Watcher, error) {
		c.InProcess = program(c.Logger)
		return nil, nil
	})
}
