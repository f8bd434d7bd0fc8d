package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"balanza/services/watch"
	"balanza/services/workers"
)

// A topology needs neither Docker nor a database: all its servers share the SQLite file of the home.

// fleet is the name that the servers of up have in common, by which down finds them.
const fleet = "up"

// part is one server of a topology.
type part struct {
	Name string
	Mode mode
	Port int
	role string // the balancer's flag for it
}

// The two topologies of up, on the ports that Docker Compose publishes too.
const (
	edgePort    = 8000
	forkPort    = 8080
	clusterPort = 8081
)

// topology returns the servers behind the balancer, with shift added to their ports. Without a profile the CLUSTER server
// answers /api/randoms; with cluster it is the reserve of four FORK servers.
func topology(profile string, shift int) (parts []part, err error) {
	parts = []part{{"fork", forkMode, forkPort, "default"}, {"cluster", clusterMode, clusterPort, "primary"}}
	switch profile {
	case "":
	case "cluster":
		parts[1].role = "backup"
		for n := 1; n <= 4; n++ {
			parts = append(parts, part{fmt.Sprintf("replica-%d", n), forkMode, clusterPort + n, "primary"})
		}
	default:
		return nil, usagef("profile %q: there is only cluster", profile)
	}
	if shift < 0 || parts[len(parts)-1].Port+shift > 65535 {
		return nil, usagef("--shift %d: the ports would not be between 1 and 65535", shift)
	}
	for i := range parts {
		parts[i].Port += shift
	}
	return parts, nil
}

// up runs a topology: its servers' masters live in this one process, their workers and the balancer are its children.
func (p *program) up() *cobra.Command {
	c := &cobra.Command{
		Use:   "up [--profile cluster | -f balanza.yaml] [-d] [--watch]",
		Short: "run the whole site on this machine: a balancer, a FORK and a CLUSTER server",
	}
	f := c.Flags()
	profile := f.String("profile", "", "`cluster`: four servers behind the balancer, the CLUSTER server in reserve")
	file := fileFlag(f)
	detach := f.BoolP("detach", "d", false, "go to the background; balanza down ends it")
	watching := f.Bool("watch", false, "rebuild and reload everything when the source changes")
	shift := f.Int("shift", 0, "add `N` to all ports, where the usual ones are taken")
	p.settings.instancesFlag(f)
	p.settings.hostFlag(f)
	p.settings.metricsFlag(f)
	c.RunE = func(*cobra.Command, []string) error {
		if *file != "" {
			return p.upFile(*file, *detach, f)
		}
		if err := p.settings.checkStore(); err != nil {
			return usageError{err}
		}
		parts, err := topology(*profile, *shift)
		if err != nil {
			return err
		}
		host := cmp.Or(p.settings.Host, "localhost") // as people see it
		p.settings.Host = cmp.Or(p.settings.Host, loopback)
		edge := edgePort + *shift
		if inBackground() { // the command that started this process has checked that none is up, and prints the addresses
			return p.runTopology(parts, edge, *watching, func(context.Context) {})
		}
		if !*detach {
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
			err := p.checkNoneUp(ctx, edge)
			interrupted := ctx.Err() != nil
			stop()
			if interrupted {
				return interruption{(<-p.signals).(syscall.Signal)}
			}
			if err != nil {
				return err
			}
			return p.runTopology(parts, edge, *watching, func(ctx context.Context) {
				if p.awaitSite(ctx, edge) == nil {
					_ = p.printAddresses(host, parts, edge)
				}
			})
		}
		ctx := p.untilInterrupted()
		if err := p.checkNoneUp(ctx, edge); err != nil {
			return err
		}
		names := []string{"edge"}
		for _, part := range parts {
			names = append(names, part.Name)
		}
		if err := p.background(ctx, p.args, names); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, siteTimeout)
		defer cancel()
		if err := p.awaitSite(ctx, edge); err != nil {
			return err
		}
		return p.printAddresses(host, parts, edge)
	}
	return c
}

// checkNoneUp fails when a topology runs in this home, or a server of Balanza has the balancer's port already.
func (p *program) checkNoneUp(ctx context.Context, edge int) error {
	all, err := p.list(ctx)
	if err != nil {
		return err
	}
	for _, st := range all {
		if st.Fleet == fleet && st.Mode == string(edgeMode) {
			return errorf("Balanza is running already: %s (balanza ps, balanza down)", shownURL(st.Host, st.Port))
		}
	}
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if response, err := p.askSite(asking, edge, "/login"); err == nil && response.Header.Get("X-Balanza-Server") != "" {
		return errorf("Balanza is running already on port %d: --shift N adds N to the ports", edge)
	}
	return context.Cause(ctx)
}

const (
	// siteTimeout is how long up -d waits for the first answer through the balancer after all servers are online.
	siteTimeout = 30 * time.Second
	// askTimeout is for one request.
	askTimeout = 5 * time.Second
)

// askSite makes a request through the balancer.
func (p *program) askSite(ctx context.Context, edge int, path string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, siteURL(p.settings.Host, edge)+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := directClient.Do(r)
	if err == nil {
		response.Body.Close()
	}
	return response, err
}

// awaitSite returns when the balancer has answered a request for each kind of server with 200. The error says what it
// answered last before ctx ended.
func (p *program) awaitSite(ctx context.Context, edge int) error {
	for {
		err := p.checkSite(ctx, edge)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errorf("all servers are online, but a request through the balancer fails: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// checkSite asks for a page and for a random number.
func (p *program) checkSite(ctx context.Context, edge int) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for _, path := range []string{"/login", "/api/randoms?cant=1"} {
		response, err := p.askSite(ctx, edge, path)
		if err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", path, response.Status)
		}
	}
	return nil
}

// runTopology serves all parts, and the balancer on the port edge; online is that of runServers. The balancer's output is
// opened first: its log is where standard output goes in the background. A secret of each start shows the servers which
// requests come from the balancer: its address is that of every process of this machine.
func (p *program) runTopology(parts []part, edge int, watching bool, online func(context.Context)) error {
	workers.ReapOrphans(p.logger())
	var w *watch.Watcher
	var binary string
	if watching {
		var err error
		if w, binary, err = p.watchSelf(fleet); err != nil {
			return err
		}
	}
	token := rand.Text()
	edgeOutput := p.openOutput("edge", label("edge"))
	defer edgeOutput.Close()
	var servers []*workers.Server
	logs := []slog.Handler{edgeOutput.logger.Handler()}
	for _, part := range append(parts, part{"edge", edgeMode, edge, ""}) {
		s, args, out := p.settings, edgeArguments(p.settings.Host, parts, edge), edgeOutput
		s.Name, s.Mode, s.Port = part.Name, part.Mode, port(part.Port)
		if part.Mode == edgeMode {
			s.Instances, s.MaxRequests = 1, 0 // the limit is for servers
		} else {
			args = []string{"--p", strconv.Itoa(part.Port), "--m", string(part.Mode), "--name", part.Name, "--host", s.Host}
			out = p.openOutput(part.Name, label(part.Name))
			defer out.Close()
			if inBackground() { // on a terminal one line for all servers is enough
				logs = append(logs, out.logger.Handler())
			}
		}
		config, err := p.workersConfig(s, args, out, true)
		if err != nil {
			return err
		}
		service := cmp.Or(string(s.Service), strings.TrimRight(part.Name, "-0123456789")) // the replicas' is the same
		config.Env = append(config.Env, "BALANZA_EDGE_TOKEN="+token, "BALANZA_SERVICE="+service)
		config.KeepStopped, config.Metadata.Fleet = true, fleet
		if watching {
			config.Path, config.Metadata.Watching = binary, true
		}
		server, err := workers.NewServer(config)
		if err != nil {
			return err
		}
		servers = append(servers, server)
	}
	if watching {
		w.Log = slog.New(slog.NewMultiHandler(logs...))
	}
	return p.runServers(servers, edgeOutput.logger, w, online)
}

// label tells the lines of several servers on one terminal apart.
func label(name string) string { return fmt.Sprintf("%-9s | ", name) }

// edgeArguments are those of the balancer, which is a server like the others and listens on the same host.
func edgeArguments(host string, parts []part, listen int) []string {
	args := []string{"edge", "--p", strconv.Itoa(listen), "--host", host}
	for _, part := range parts {
		args = append(args, "--"+part.role, hostPort(host, part.Port))
	}
	return args
}

// printAddresses prints where the topology can be seen.
func (p *program) printAddresses(host string, parts []part, edge int) error {
	return render(p.out, "up.tmpl", struct {
		Host  string
		Port  int
		Parts []part
	}{host, edge, parts})
}
