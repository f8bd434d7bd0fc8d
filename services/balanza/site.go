package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"balanza/services/eventlog"
	"balanza/services/hosts"
	"balanza/services/metrics"
	"balanza/services/processes"
	"balanza/services/store"
	"balanza/services/store/mongostore"
	"balanza/services/store/sqlitestore"
	"balanza/services/web"
	"balanza/services/workers"
)

// site is the program that workers run.
type site struct {
	settings settings
	log      *slog.Logger
}

// run opens the store and serves until ctx ends. The worker is ready when the store has been checked and the pages are parsed,
// so a reload with a wrong password or a broken template leaves the old process serving. Where no process serves, one that
// the store refuses does: random numbers and the pages about the process need no store.
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
	names, err := hosts.Parse(withHost(s.settings.ServerNames, s.settings.Host))
	if err != nil {
		return err
	}
	access := store.NewAccess(st, s.log, w.Degraded)
	if err := access.Check(ctx); w.ForOrder {
		if refused, ok := errors.AsType[*store.RefusedError](err); ok {
			w.Fail(refused.Reason, true)
			return err
		}
	}
	clock := store.NewClock(st, s.log)
	registry := processes.New(st, clock, s.record(process, w))
	log := eventlog.New(st, clock, registry.Live)
	pages, err := web.New(web.Config{
		Store: st, Access: access, Clock: clock, Log: log, Processes: registry, Process: process, Logger: s.log,
		Cookie: string(s.settings.Cookie), Limits: s.settings.Limits, KeepMessages: s.settings.KeepMessages,
		TrustedProxies: s.settings.TrustedProxies, EdgeToken: s.settings.EdgeToken, Hosts: names,
		DrainDelay: s.settings.DrainDelay, DrainTimeout: s.settings.DrainTimeout,
		Replaced: w.Replaced, Scrape: w.Scrape, Acquire: w.Acquire, Answered: w.Answered, Drawing: w.Drawing,
	})
	if err != nil {
		return err
	}
	w.Health = pages.Healthy
	var reported atomic.Int64
	w.Sample = func() workers.Heartbeat {
		if n := pages.Answered(); reported.Swap(n) == n {
			return workers.Heartbeat{} // hundreds of series every second would be most of an idle worker's work
		}
		return workers.Heartbeat{Requests: pages.Requests(), Counters: pages.Counters()}
	}
	w.Report = func() (r workers.Report) {
		r.Totals, r.Own = pages.Metrics()
		r.Own.Merge(metrics.Runtime(versionText()))
		return r
	}

	// The log is followed until the last request is answered: a websocket that drains still gets its messages.
	var g errgroup.Group
	following, end := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { return log.Run(following) })
	g.Go(func() error { access.Run(following); return nil })
	g.Go(func() error { return registry.Run(following, pages.Source()) })
	drain := func() { registry.Drain(w.DrainCause()) }
	defer context.AfterFunc(ctx, drain)()
	g.Go(func() error {
		defer end()
		w.Ready()
		err := pages.Serve(ctx, w.Listener)
		if ctx.Err() != nil {
			drain() // without connections Serve may return before AfterFunc's goroutine runs
		}
		return err
	})
	return g.Wait()
}

// record is what the store's record of this process says of it as long as it runs.
func (s *site) record(process web.Process, w *workers.Worker) store.Process {
	host, _ := os.Hostname() // empty where the system does not tell
	return store.Process{
		Service: cmp.Or(string(s.settings.Service), s.settings.Name, strings.ToLower(process.Mode)), Server: process.Server,
		Mode: process.Mode, Host: host, Machine: cmp.Or(string(s.settings.Machine), bootID(), host), Worker: process.Worker,
		PID: os.Getpid(), Version: versionText(), Started: process.Started,
		Restarts: w.Restarts, Predecessor: store.Predecessor(w.Predecessor),
	}
}

// bootID is the kernel's id of the machine's last start, the same in all containers, empty where there is none.
func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}

// databaseFile is the SQLite database, in the folder of data.
const databaseFile = "balanza.db"

// openTimeout is how long opening the store may take.
const openTimeout = 5 * time.Second

// checkStore fails when MONGODB_URI can't be used, without asking the database.
func (s *settings) checkStore() error {
	if s.MongoURI == "" {
		return nil
	}
	if err := mongostore.Check(s.MongoURI); err != nil {
		return fmt.Errorf("%s: %w", mongoVariable, err)
	}
	return nil
}

// openStore opens the store that the settings name: MongoDB, or else SQLite.
func (s *site) openStore(ctx context.Context) (store.Store, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	uri, err := s.settings.mongoURI()
	if err != nil {
		return nil, err
	}
	if uri != "" {
		return mongostore.Open(ctx, uri)
	}
	return sqlitestore.Open(ctx, filepath.Join(s.settings.Data, databaseFile))
}

// withPassword puts a password into a MongoDB URI that has a user and none; any other URI stays as it is. net/url does
// not parse the list of hosts that such a URI may have.
func withPassword(uri, password string) string {
	scheme, rest, _ := strings.Cut(uri, "://")
	user, hosts, found := strings.Cut(rest, "@")
	if !found || strings.ContainsAny(user, ":/?") {
		return uri
	}
	return scheme + "://" + user + url.UserPassword("", password).String() + "@" + hosts
}
