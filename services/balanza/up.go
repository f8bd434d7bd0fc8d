package main

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"

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
		parts, err := topology(*profile, *shift)
		if err != nil {
			return err
		}
		if p.settings.Host == "" {
			p.settings.Host = "127.0.0.1"
		}
		if !*detach || inBackground() {
			return p.runTopology(parts, edgePort+*shift, *watching)
		}
		names := []string{"edge"}
		for _, part := range parts {
			names = append(names, part.Name)
		}
		if err := p.background(p.untilInterrupted(), p.args, names); err != nil {
			return err
		}
		return p.printAddresses(parts, edgePort+*shift)
	}
	return c
}

// runTopology serves all parts, and the balancer on the port edge. The balancer's output is opened first: its log is where
// standard output goes in the background. A secret of each start shows the servers which requests come from the balancer:
// its address, 127.0.0.1, is that of every process of this machine.
func (p *program) runTopology(parts []part, edge int, watching bool) error {
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
	for _, part := range append(parts, part{"edge", edgeMode, edge, ""}) {
		s, args, out := p.settings, edgeArguments(parts, edge), edgeOutput
		s.Name, s.Mode, s.Port = part.Name, part.Mode, port(part.Port)
		if part.Mode == edgeMode {
			s.Instances, s.MaxRequests = 1, 0 // the limit is for servers
		} else {
			args = []string{"--p", strconv.Itoa(part.Port), "--m", string(part.Mode), "--name", part.Name}
			out = p.openOutput(part.Name, label(part.Name))
			defer out.Close()
		}
		config, err := p.workersConfig(s, args, out)
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
	return p.runServers(servers, edgeOutput.logger, w, func() {
		if !inBackground() {
			_ = p.printAddresses(parts, edge)
		}
	})
}

// label tells the lines of several servers on one terminal apart.
func label(name string) string { return fmt.Sprintf("%-9s | ", name) }

// edgeArguments are those of the balancer, which is a server like the others.
func edgeArguments(parts []part, listen int) []string {
	args := []string{"edge", "--p", strconv.Itoa(listen)}
	for _, part := range parts {
		args = append(args, "--"+part.role, "127.0.0.1:"+strconv.Itoa(part.Port))
	}
	return args
}

// printAddresses prints where the topology can be seen.
func (p *program) printAddresses(parts []part, edge int) error {
	return render(p.out, "up.tmpl", struct {
		Port  int
		Parts []part
	}{edge, parts})
}
