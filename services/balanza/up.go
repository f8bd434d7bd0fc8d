package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"balanza/services/workers"
	"balanza/services/workers/control"
)

// fleet is what `up` calls its servers together, and `down` knows them by.
const fleet = "up"

// part is one server of a topology.
type part struct {
	name string
	mode mode
	port int
}

// The two topologies of `up`, on the ports that Docker Compose publishes too.
const (
	edgePort    = 8000
	forkPort    = 8080
	clusterPort = 8081
)

func topology(profile string) (parts []part, err error) {
	parts = []part{{"fork", forkMode, forkPort}, {"cluster", clusterMode, clusterPort}}
	switch profile {
	case "":
	case "cluster":
		for n := 1; n <= 4; n++ {
			parts = append(parts, part{fmt.Sprintf("replica-%d", n), forkMode, clusterPort + n})
		}
	default:
		return nil, usagef("profile %q: there is only cluster", profile)
	}
	return parts, nil
}

// up runs a topology: its servers' masters live in this one process, their workers and the balancer are its children.
func (p *program) up(args []string) error {
	f := flags("up")
	profile := f.String("profile", "", "cluster: four servers behind the balancer, the CLUSTER server in reserve")
	background := f.Bool("d", false, "go to the background; balanza down ends it")
	watch := f.Bool("watch", false, "rebuild and reload everything when the source changes")
	shift := f.Int("shift", 0, "add this to all ports, where the usual ones are taken")
	f.Var(&p.settings.Instances, "i", "how many workers the CLUSTER server has, or max: one for each CPU")
	f.StringVar(&p.settings.Host, "host", p.settings.Host, "interface to listen on; else 127.0.0.1")
	rest, err := p.parse(f, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("up takes no %q", rest[0])
	}
	parts, err := topology(*profile)
	if err != nil {
		return err
	}
	if *shift < 0 || clusterPort+len(parts)+*shift > 65535 {
		return usagef("--shift %d: the ports would not be between 1 and 65535", *shift)
	}
	for i := range parts {
		parts[i].port += *shift
	}
	if p.settings.Host == "" {
		p.settings.Host = "127.0.0.1"
	}
	if *background && !inBackground() {
		names := []string{"edge"}
		for _, part := range parts {
			names = append(names, part.name)
		}
		if err := p.background(append([]string{"up"}, args...), names); err != nil {
			return err
		}
		p.welcome(parts, edgePort+*shift)
		return nil
	}
	return p.runTopology(parts, edgePort+*shift, *watch)
}

func (p *program) runTopology(parts []part, port int, watch bool) error {
	workers.ReapOrphans(p.logger())
	out := p.openOutput("edge", label("edge"))
	defer out.Close()
	var servers []*workers.Server
	reload := func() error {
		var failed []error
		for _, s := range servers {
			failed = append(failed, s.Reload(context.Background()))
		}
		return errors.Join(failed...)
	}
	var w *watcher
	var binary string
	if watch {
		var err error
		if w, binary, err = p.watchSelf(fleet, out.logger, reload); err != nil {
			return err
		}
	}
	add := func(spec workers.Config) error {
		spec.KeepStopped, spec.Metadata.Fleet = true, fleet
		spec.Metadata.Command = append([]string{spec.Path}, os.Args[1:]...)
		if watch {
			spec.Path, spec.Metadata.Watching = binary, true
		}
		server, err := workers.NewServer(spec)
		if err == nil {
			servers = append(servers, server)
		}
		return err
	}
	for _, part := range parts {
		s := p.settings
		s.Name, s.Mode, s.Port = part.name, part.mode, port16(part.port)
		out := p.openOutput(s.Name, label(s.Name))
		defer out.Close()
		spec, err := p.spec(s, []string{"--p", strconv.Itoa(part.port), "--m", string(part.mode), "--name", part.name}, out)
		if err != nil {
			return err
		}
		spec.Env = append(spec.Env, "BALANZA_TRUSTED_PROXIES="+strings.Join(append(s.TrustedProxies, "127.0.0.1"), ","))
		if err := add(spec); err != nil {
			return err
		}
	}
	spec, err := p.edgeSpec(parts, port, out)
	if err != nil {
		return err
	}
	if err := add(spec); err != nil {
		return err
	}

	all := func(f func(*workers.Server)) {
		for _, s := range servers {
			f(s)
		}
	}
	ctx, cancel := p.untilSignal(func() {
		if err := reload(); err != nil {
			out.logger.Error("reload failed", "cause", err)
		}
	}, func() { all((*workers.Server).Kill) })
	defer cancel()
	var g errgroup.Group
	all(func(s *workers.Server) {
		g.Go(func() error {
			err := s.Run(ctx)
			if err != nil {
				cancel()
			}
			return err
		})
	})
	if w != nil {
		go w.run(ctx)
	}
	go func() {
		if waitOnline(ctx, servers) {
			p.welcome(parts, port)
		}
	}()
	return g.Wait()
}

func label(name string) string { return fmt.Sprintf("%-9s | ", name) }

func port16(n int) port { return port(n) }

// edgeSpec describes the balancer, which is a server like the others.
func (p *program) edgeSpec(parts []part, listen int, out *output) (workers.Config, error) {
	address := func(part part) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(part.port)) }
	args := []string{"edge", "--p", strconv.Itoa(listen), "--default", address(parts[0])}
	if len(parts) == 2 {
		args = append(args, "--primary", address(parts[1]))
	} else {
		args = append(args, "--backup", address(parts[1]))
		for _, part := range parts[2:] {
			args = append(args, "--primary", address(part))
		}
	}
	s := p.settings
	s.Name, s.Mode, s.Port = "edge", "EDGE", port(listen)
	spec, err := p.spec(s, args, out)
	spec.Count = 1
	return spec, err
}

// waitOnline waits until all servers serve; false when ctx ends first.
func waitOnline(ctx context.Context, servers []*workers.Server) bool {
	for {
		if !slices.ContainsFunc(servers, func(s *workers.Server) bool { return s.Status().Status != "online" }) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// welcome says where to look.
func (p *program) welcome(parts []part, port int) {
	fmt.Fprintf(p.out, "\n  Balanza is up: http://localhost:%d\n\n", port)
	for _, part := range parts {
		fmt.Fprintf(p.out, "  %-10s %-8s http://localhost:%d/info\n", part.name, part.mode, part.port)
	}
	fmt.Fprintf(p.out, `
  numbers    http://localhost:%d/api/randoms?cant=1000
  processes  balanza ps, balanza logs -f, balanza reload, balanza scale cluster=4
  the end    Ctrl-C here, or balanza down

`, port)
}

// down ends what `up` started.
func (p *program) down(args []string) error {
	rest, err := p.parse(flags("down"), args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("down takes no %q", rest[0])
	}
	all, err := p.list()
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(st control.Status) bool { return st.Fleet != fleet })
	if len(all) == 0 {
		fmt.Fprintln(p.out, "nothing is up")
		return nil
	}
	return p.order(all, "delete", 0)
}
