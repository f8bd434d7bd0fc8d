package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"balanza/services/edge"
	"balanza/services/logfile"
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
	edgeRequests = metrics.Family{
		Name: "balanza_edge_requests_total", Kind: metrics.Counter, Help: "Requests that the edge has answered, by the class of their status.",
	}
	edgeDuration = metrics.Family{
		Name: "balanza_edge_request_duration_seconds", Kind: metrics.Histogram, Help: "Time from a request to the end of its answer, without websockets.",
	}
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
func edgeCounters(totals edge.Totals, upstreams []edge.UpstreamStatus) (s metrics.Snapshot) {
	for class := 1; class < len(totals.Requests); class++ {
		s.Set(edgeRequests, float64(totals.Requests[class]), "code", fmt.Sprintf("%dxx", class))
	}
	s.SetHistogram(edgeDuration, edge.DurationBounds[:], totals.Durations[:], totals.Seconds)
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
	s.MaxRequests = 0 // the setting is for servers
	c.Limits, c.ServerNames, c.Token = s.Limits, withHost(s.ServerNames, s.Host), s.EdgeToken
	c.DrainDelay, c.DrainTimeout = max(s.DrainDelay, edgeDrainDelay), s.DrainTimeout
	if _, err := edge.New(c); err != nil {
		return usageError{err}
	}
	program := func(log *slog.Logger, output io.Writer) workers.Program {
		return func(ctx context.Context, w *workers.Worker) error {
			c := c
			c.Logger, c.AccessLog = log, newLogger(output)
			balancer, err := edge.New(c)
			if err != nil {
				return err
			}
			w.Sample = func() workers.Heartbeat {
				status, totals := balancer.Status(), balancer.Totals()
				upstreams, _ := json.Marshal(status) // strings, numbers and times: cannot fail
				return workers.Heartbeat{
					Requests: totals.Answered(), Details: upstreams, Counters: edgeCounters(totals, status).Values,
				}
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
				return workers.Report{Totals: edgeCounters(balancer.Totals(), status), Own: own}
			}
			w.Ready()
			return balancer.Serve(ctx, w.Listener)
		}
	}
	worker := func(log *slog.Logger) workers.Program {
		return func(ctx context.Context, w *workers.Worker) error {
			output := logfile.NewSink(p.err)
			defer output.Close()
			return program(log, output)(ctx, w)
		}
	}
	return p.serveOne(s, p.args, worker, func(c *workers.Config) (*watch.Watcher, error) {
		c.InProcess = program(c.Logger, c.Output)
		return nil, nil
	})
}
