package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"balanza/services/edge"
	"balanza/services/workers"
)

// addresses is a flag that may be given several times.
type addresses []string

func (a *addresses) String() string { return fmt.Sprint(*a) }

// Set adds one.
func (a *addresses) Set(v string) error {
	*a = append(*a, v)
	return nil
}

// farewell is how long the balancer's answers tell clients to leave before it closes their connections.
const farewell = time.Second

// edge runs the balancer, as a worker of `up` or alone.
func (p *program) edge(args []string) error {
	var primary, backup, other addresses
	f := flags("edge")
	p.settings.Port = edgePort
	f.Var(&p.settings.Port, "p", "port to listen on")
	f.StringVar(&p.settings.Host, "host", p.settings.Host, "interface to listen on; else all")
	f.Var(&primary, "primary", "HOST:PORT of a server of /api/randoms; may be repeated")
	f.Var(&backup, "backup", "HOST:PORT of a server of /api/randoms for when no primary is ready; may be repeated")
	f.Var(&other, "default", "HOST:PORT of a server of everything else; may be repeated")
	rest, err := p.parse(f, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("edge takes no %q", rest[0])
	}
	log := p.logger()
	balancer, err := edge.New(edge.Config{
		Primary: primary, Backup: backup, Default: other, Logger: log,
		DrainDelay: max(p.settings.DrainDelay, farewell), DrainTimeout: p.settings.DrainTimeout,
	})
	if err != nil {
		return usageError{err}
	}
	serve := func(ctx context.Context, w *workers.Worker) error {
		w.Sample = func() workers.Heartbeat {
			upstreams, _ := json.Marshal(balancer.Status()) // strings, numbers and times: cannot fail
			return workers.Heartbeat{Details: upstreams}
		}
		w.Ready()
		return balancer.Serve(ctx, w.Listener)
	}
	child, err := workers.Inherit()
	if err != nil {
		return err
	}
	if child != nil {
		return child.Run(serve, p.signals, log)
	}
	out := p.openOutput("edge", "")
	defer out.Close()
	s := p.settings
	s.Name, s.Mode = "edge", "EDGE"
	spec, err := p.spec(s, append([]string{"edge"}, args...), out)
	if err != nil {
		return err
	}
	spec.Count, spec.InProcess = 1, serve
	return p.run(spec, nil)
}

// healthcheck asks the server of the configured port whether it is ready: the image needs no curl for that.
func (p *program) healthcheck(args []string) error {
	f := flags("healthcheck")
	f.Var(&p.settings.Port, "p", "port of the server")
	if _, err := p.parse(f, args); err != nil {
		return err
	}
	client := http.Client{Timeout: 3 * time.Second}
	answer, err := client.Get("http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(int(p.settings.Port))) + "/readyz")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(answer.Body, 200))
		return fmt.Errorf("port %d answers %s: %s", p.settings.Port, answer.Status, body)
	}
	return nil
}
