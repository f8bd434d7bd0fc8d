package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"balanza/services/watch"
	"balanza/services/workers"
	"balanza/services/workers/control"
)

// This file serves: it turns settings into configurations of masters, runs them in this process, and hands them signals.

// serveOne runs one server in this process: as a worker where a master started it, or else as its master. args start a
// worker of it; program is nil where they start an external program. complete changes the configuration that servers
// have in common, and returns a watcher where there is one.
func (p *program) serveOne(
	s settings, args []string, program func(*slog.Logger) workers.Program,
	complete func(*workers.Config) (*watch.Watcher, error),
) error {
	if program != nil {
		child, err := workers.Inherit()
		if err != nil {
			return err
		}
		if child != nil {
			return child.Run(program(p.logger()), p.signals, p.logger())
		}
	}
	if p.launch != nil {
		config, err := p.workersConfig(s, args, &output{}, program != nil)
		if err == nil {
			_, err = complete(&config)
		}
		*p.launch = config.Launch
		return err
	}
	workers.ReapOrphans(p.logger())
	out := p.openOutput(s.name(), "")
	defer out.Close()
	config, err := p.workersConfig(s, args, out, program != nil)
	if err != nil {
		return err
	}
	w, err := complete(&config)
	if err != nil {
		return err
	}
	server, err := workers.NewServer(config)
	if err != nil {
		return err
	}
	if !config.Unbound {
		out.logger.Info("listening", "server", config.Name, "mode", config.Mode, "port", server.Port(),
			"address", shownURL(config.Host, server.Port()))
	}
	return p.runServers([]*workers.Server{server}, out.logger, w, func(context.Context) {})
}

// runServers serves until a signal, until all servers were told to end, or until one fails: the others drain then, since
// a topology that lacks a part is no topology. The watcher may be nil. When all servers serve, online is called, and the
// service manager is told when it returns.
func (p *program) runServers(servers []*workers.Server, log *slog.Logger, w *watch.Watcher, online func(context.Context)) error {
	reload := func(ctx context.Context) error {
		var failed []error
		for _, s := range servers {
			failed = append(failed, s.Reload(ctx))
		}
		return errors.Join(failed...)
	}
	metrics, err := p.listenMetrics()
	if err != nil {
		return err
	}
	ctx, cancel := p.untilSignal(func() {
		if err := reload(context.Background()); err != nil {
			log.Error("reload failed", "cause", err)
		}
	}, func() {
		for _, s := range servers {
			s.Kill()
		}
	})
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	context.AfterFunc(ctx, p.service.stopping)
	for _, s := range servers {
		g.Go(func() error { return s.Run(ctx) })
	}
	if metrics != nil {
		log.Info("metrics are served", "address", metrics.Addr().String())
		defer p.serveMetrics(metrics, servers)()
	}
	if w != nil {
		w.Log, w.Poll = cmp.Or(w.Log, log), time.Duration(p.settings.WatchPoll)
		w.Reload = func(ctx context.Context) error { return reloadChanged(ctx, servers) }
		w.Started = func() time.Time { return lastStart(servers) }
		go w.Run(ctx)
	}
	go func() { // ends with ctx, at the latest when Wait returns
		for slices.ContainsFunc(servers, func(s *workers.Server) bool { return s.Status().Status != "online" }) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
		online(ctx)
		if ctx.Err() == nil {
			p.service.ready()
		}
	}()
	defer p.service.stopping()
	return g.Wait()
}

// workersConfig describes a server, of the site or of any other program, to its master; args start a worker of it. The
// workers log JSON, whatever the settings say: their master reads it.
func (p *program) workersConfig(s settings, args []string, out *output, site bool) (workers.Config, error) {
	if err := checkName(s.name()); err != nil {
		return workers.Config{}, err
	}
	if err := p.checkUnambiguous(context.Background(), s.name(), int(s.Port)); err != nil {
		return workers.Config{}, err
	}
	self, err := programPath()
	if err != nil {
		return workers.Config{}, err
	}
	dir, err := os.Getwd()
	if err != nil {
		dir = ""
	}
	return workers.Config{
		Name: s.name(), Mode: string(s.Mode), Host: s.Host, Port: int(s.Port),
		Single: s.Mode != clusterMode, Output: out, Logger: out.logger, Version: versionText(),
		Launch: workers.Launch{
			Path: self, Args: args, Env: []string{"BALANZA_LOG_FORMAT=json"}, Count: s.workers(), Limits: s.limits(),
			Metadata: control.Metadata{LogFile: out.file, Command: append([]string{self}, p.args...), Dir: dir, Origin: p.origin(&s, site)},
		},
		// A server in the background stays on the list when it is stopped, and can be started again.
		KeepStopped: inBackground(), ControlDir: s.runDir(), Reloading: p.service.reload,
	}, nil
}

// programPath is how this program was called, and not the file behind it: a symbolic link that is moved to a new release
// leads there at the next reload.
func programPath() (string, error) {
	path, err := exec.LookPath(os.Args[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return os.Executable()
	}
	return filepath.Abs(path)
}
