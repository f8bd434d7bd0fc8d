package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"balanza/services/store"
	"balanza/services/store/mongostore"
	"balanza/services/store/sqlitestore"
	"balanza/services/web"
	"balanza/services/workers"
	"balanza/services/workers/control"
)

// serve is `balanza` without a command: one server, in the foreground.
func (p *program) serve(args []string) error {
	f := flags("balanza")
	serveFlags(f, &p.settings)
	watch := f.Bool("watch", false, "rebuild and reload when the source changes")
	rest, err := p.parse(f, args)
	switch {
	case err != nil:
		return err
	case len(rest) > 0:
		return usagef("%q: flags take their value after a space or =; commands come first; see balanza --help", rest[0])
	}
	s := &site{p.settings, p.logger()}

	child, err := workers.Inherit()
	if err != nil {
		return err
	}
	if child != nil {
		return child.Run(s.run, p.signals, s.log)
	}
	workers.ReapOrphans(s.log)
	out := p.openOutput(p.settings.name(), "")
	defer out.Close()
	s.log = out.logger
	spec, err := p.spec(p.settings, args, out)
	if err != nil {
		return err
	}
	if p.settings.Mode == forkMode && spec.MaxMemory == 0 && spec.MaxRequests == 0 { // a process can't replace itself
		spec.InProcess = s.run
	}
	if !*watch {
		return p.run(spec, nil)
	}
	var server *workers.Server
	w, binary, err := p.watchSelf(spec.Name, s.log, func() error { return server.Reload(context.Background()) })
	if err != nil {
		return err
	}
	spec.Path, spec.Metadata.Watching = binary, true
	return p.run(spec, func(s *workers.Server) *watcher {
		server = s
		return w
	})
}

// run serves one server in the foreground until it ends, with the watcher that watch makes for it, if any.
func (p *program) run(spec workers.Config, watch func(*workers.Server) *watcher) error {
	server, err := workers.NewServer(spec)
	if err != nil {
		return err
	}
	ctx, cancel := p.untilSignal(func() {
		if err := server.Reload(context.Background()); err != nil {
			spec.Logger.Error("reload failed", "cause", err)
		}
	}, server.Kill)
	defer cancel()
	spec.Logger.Info("listening", "server", spec.Name, "mode", spec.Mode, "port", server.Port())
	if watch != nil {
		if w := watch(server); w != nil {
			go w.run(ctx)
		}
	}
	return server.Run(ctx)
}

// spec describes a server of this program's own code to its master.
func (p *program) spec(s settings, args []string, out *output) (workers.Config, error) {
	if err := workers.CheckName(s.name()); err != nil {
		return workers.Config{}, usageError{err}
	}
	self, err := selfPath()
	if err != nil {
		return workers.Config{}, err
	}
	dir, err := os.Getwd()
	if err != nil {
		dir = ""
	}
	return workers.Config{
		Name: s.name(), Mode: string(s.Mode), Host: s.Host, Port: int(s.Port),
		Count: s.workers(), Single: s.Mode != clusterMode, Path: self, Args: args,
		Env:    []string{"BALANZA_LOG_FORMAT=" + out.format},
		Limits: s.limits(), Output: out, Logger: out.logger,
		// A server in the background stays on the list when it is stopped, and can be started again.
		KeepStopped: inBackground(),
		ControlDir:  s.runDir(),
		Metadata:    control.Metadata{LogFile: out.file, Command: append([]string{self}, args...), Dir: dir},
	}, nil
}

// selfPath is how this program was called: not the file behind it, so that a link that is moved to a new release leads
// there.
func selfPath() (string, error) {
	path, err := exec.LookPath(os.Args[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return os.Executable()
	}
	return filepath.Abs(path)
}

// site is the program that workers run.
type site struct {
	settings settings
	log      *slog.Logger
}

// run opens the store and serves until ctx ends.
func (s *site) run(ctx context.Context, w *workers.Worker) error {
	st, err := s.openStore(ctx)
	if err != nil {
		return err
	}
	defer st.Close()
	process := web.Process{
		Name: s.settings.Name, Mode: string(s.settings.Mode), Started: w.Started,
		Server: s.settings.label(w.Listener.Addr().(*net.TCPAddr).Port),
	}
	if s.settings.Mode == clusterMode {
		process.Worker = w.Slot
	}
	log := store.NewLog(st)
	pages, err := web.New(web.Config{
		Store: st, Log: log, Process: process, Logger: s.log,
		TrustedProxies: s.settings.TrustedProxies,
		DrainDelay:     s.settings.DrainDelay, DrainTimeout: s.settings.DrainTimeout,
		Replaced: w.Replaced, Totals: w.Totals,
	})
	if err != nil {
		return err
	}
	w.Health = pages.Healthy
	var told atomic.Int64
	w.Sample = func() workers.Heartbeat {
		if n := pages.Answered(); told.Swap(n) == n {
			return workers.Heartbeat{} // hundreds of series every second would be most of what an idle worker does
		}
		counters := pages.Counters()
		return workers.Heartbeat{Requests: answered(counters), Counters: counters}
	}

	var g errgroup.Group
	following, end := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { return log.Run(following) })
	g.Go(func() error {
		defer end()
		w.Ready()
		return pages.Serve(ctx, w.Listener)
	})
	return g.Wait()
}

// answered adds up the requests that the site's counters hold, without those that ask how it is.
func answered(counters map[string]float64) (n int64) {
	for series, v := range counters {
		if strings.HasPrefix(series, "balanza_requests_total{") && !strings.Contains(series, `route="/healthz"`) {
			n += int64(v)
		}
	}
	return n
}

// openStore opens the store that the configuration names: MongoDB, or else SQLite.
func (s *site) openStore(ctx context.Context) (store.Store, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	uri, err := s.settings.mongoURI()
	if err != nil {
		return nil, err
	}
	if uri != "" {
		return mongostore.Open(ctx, uri)
	}
	return sqlitestore.Open(ctx, filepath.Join(s.settings.Data, "balanza.db"))
}

// withPassword puts a password into a MongoDB URI that has a user and none; any other URI stays as it is. (net/url does
// not take the list of hosts that such a URI may have.)
func withPassword(uri, password string) string {
	scheme, rest, _ := strings.Cut(uri, "://")
	user, hosts, found := strings.Cut(rest, "@")
	if !found || strings.ContainsAny(user, ":/?") {
		return uri
	}
	return scheme + "://" + user + ":" + url.QueryEscape(password) + "@" + hosts
}

// logger writes readable text to a terminal and JSON lines elsewhere, unless told which.
func (p *program) logger() *slog.Logger {
	return newLogger(p.err, p.logFormat())
}

func (p *program) logFormat() string {
	if p.settings.LogFormat != "auto" {
		return p.settings.LogFormat
	}
	if f, ok := p.err.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return "text"
	}
	return "json"
}
