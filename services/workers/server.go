// Package workers runs the processes of a server: a master that binds a port and keeps it, and workers that inherit the
// socket. The master replaces dead and hung workers, reloads them one at a time without losing a request, scales them
// and ends them. The package does not know what the workers serve.
package workers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strconv"
	"time"

	"balanza/services/metrics"
	"balanza/services/workers/control"
	"balanza/services/workers/share"
)

// Config describes a server.
type Config struct {
	Name   string // see CheckName
	Mode   string // FORK, CLUSTER or EDGE; shown, not interpreted
	Host   string // interface to bind; empty: all
	Port   int    // 1 to 65535; 0: a free one
	Single bool   // the server is one process by definition: Scale is an error

	Launch
	// ParseUpdate makes a launch of an Update's change. It may be called from several goroutines. Nil: Update is an error.
	ParseUpdate func(change json.RawMessage) (Launch, error)

	// Programs says that a worker does not serve, but is the parent of any other program (see package instance). What it
	// leaves behind at its end is killed, except the descendants for which Independent is true. Reload and Restart are the
	// same then, so that a program that does not start leaves the old one, except where Unbound is set: see Launch.Check.
	Programs    bool
	Independent func(pid int) bool
	// NewFront, for Programs, makes what shares the requests of the port among the programs, each of which gets a port of its
	// own. Without it they inherit the socket. It is called at every start of the server.
	NewFront func() Front
	// Unbound, for Programs, is a server without a port.
	Unbound bool
	// InProcess, when set, runs in the master's own process in place of a first worker: FORK is one process. A reload
	// moves the work to a child process, and the master only holds the socket from then on. MaxMemory and MaxRequests
	// do not apply to it.
	InProcess Program

	// KeepStopped makes the server outlive an order to stop and a failure, so that it can be started again.
	KeepStopped bool
	ControlDir  string // folder of the control sockets; see package control
	Version     string // of the master's build, for its metrics
	// Reloading, unless nil, is told when a reload, restart or update begins (true) and when it has succeeded or failed. It
	// must not block.
	Reloading func(begins bool)

	Output io.Writer // gets the workers' output line by line; must not block
	Logger *slog.Logger
}

// Launch is the part of a Config that Update replaces: how workers are started, and how many.
type Launch struct {
	Path  string       // the program's binary; looked up anew at every reload, so that a new one is found
	Args  []string     // without the program's name
	Env   []string     // NAME=value, added to the master's own environment
	Dir   string       // the workers' working directory; empty: the master's
	Check func() error // tells before a Restart of an Unbound server whether the program can be started; nil: it can
	Count int          // number of workers, 1 to MaxWorkers
	Limits
	Metadata control.Metadata // what clients of the control socket are told beyond the state
}

// Limits are the times and sizes at which a master acts. A zero time means the default of its comment; a zero MaxMemory
// or MaxRequests means no limit.
type Limits struct {
	ReadyTimeout     time.Duration // from start to ready; default 10 s
	HeartbeatTimeout time.Duration // from one heartbeat to the next, then the worker is killed; default 5 s
	StopTimeout      time.Duration // from the order to drain to SIGKILL; default 30 s
	MaxMemory        int64         // resident bytes of a worker above which it is replaced
	MaxRequests      int64         // answers after which a worker is replaced, give or take a tenth
}

func (l *Limits) setDefaults() {
	for value, standard := range map[*time.Duration]time.Duration{
		&l.ReadyTimeout: 10 * time.Second, &l.HeartbeatTimeout: 5 * time.Second, &l.StopTimeout: 30 * time.Second,
	} {
		if *value <= 0 {
			*value = standard
		}
	}
}

// MaxWorkers is how many workers a server can have: each may have four processes (see rollout) that share its socket.
const MaxWorkers = share.MaxProcesses / 4

var (
	// ErrStopping is returned by orders to a server that is about to end.
	ErrStopping  = errors.New("the server is stopping")
	errScaleFork = errors.New("a FORK server is one process; start it with --m CLUSTER to scale it")
)

// Server is a master and its workers. One goroutine, Run's, owns the state; all methods send it commands, and may be
// called from any goroutine while Run runs or after it has returned.
type Server struct {
	Config
	commands  chan command
	questions chan chan control.Status
	scrapes   chan chan serverMetrics
	events    chan event
	ended     chan struct{} // closed when Run's loop has ended

	// All fields below belong to Run's goroutine.
	running    bool              // it has been started and not stopped
	socket     *share.Socket     // nil while the server is stopped, or Unbound
	front      *runningFront     // nil: none
	resting    map[int]time.Time // ports that programs had, and until when no other program gets them
	started    time.Time
	slots      []*workerSlot
	processes  map[*process]bool  // all that live, draining ones included
	generation int                // how often the code was loaded, failed attempts included
	retired    map[string]float64 // counters of the workers that have ended
	reported   map[string]float64 // the totals that were reported last; not changed any more
	wasReady   bool               // some worker was ready since the start
	checked    time.Time          // when check ran last

	scrape         *scrape               // under way; nil: none
	nextScrape     []func(serverMetrics) // who asked meanwhile
	scrapeNumber   int64                 // of the last scrape
	scrapeDeadline <-chan time.Time      // of the scrape under way
	families       metrics.Snapshot      // the families of the totals, as far as workers have described them

	rollout   *rollout   // under way; nil: none
	queue     []*rollout // waiting for their turn
	finishing []*rollout // complete, but for old processes that drain

	stopping  bool
	failure   error        // why the server stops or has stopped; nil: it was told to
	quit      bool         // Run returns when the server has stopped
	onStopped []chan error // orders to stop and to delete, answered when the server has stopped
	onRestart []chan error // orders to start that came during a stop
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// CheckName returns an error that says what is wrong with a server's name, nil for a good one.
func CheckName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("name %q: use 1 to 64 letters, digits, dots, hyphens and underscores", name)
	}
	return nil
}

// NewServer binds the port, so that an error of the address shows at once, and returns a server that Run brings to life.
func NewServer(c Config) (*Server, error) {
	if err := CheckName(c.Name); err != nil {
		return nil, err
	}
	if err := checkCount(c.Count); err != nil {
		return nil, err
	}
	c.Limits.setDefaults()
	ownMemory() // it counts the kills from now on
	s := &Server{
		Config: c, commands: make(chan command), questions: make(chan chan control.Status),
		scrapes: make(chan chan serverMetrics), events: make(chan event, 16), ended: make(chan struct{}), processes: map[*process]bool{}, resting: map[int]time.Time{},
	}
	if err := s.bind(); err != nil {
		return nil, err
	}
	if !s.Unbound {
		s.Config.Port = s.socket.Port()
	}
	return s, nil
}

func checkCount(n int) error {
	if n < 1 || n > MaxWorkers {
		return fmt.Errorf("workers: %d is not between 1 and %d", n, MaxWorkers)
	}
	return nil
}

func (s *Server) bind() (err error) {
	if s.Unbound {
		return nil
	}
	s.socket, err = share.Listen(s.Host, strconv.Itoa(s.Config.Port), s.Programs && s.NewFront == nil)
	return err
}

// Port is the port that was bound, 1 to 65535; 0 of an Unbound server.
func (s *Server) Port() int { return s.Config.Port }

// command is an order on its way to Run's goroutine.
type command struct {
	order  string     // of package control, or killOrder
	count  int        // for Scale
	launch *Launch    // for Update
	reply  chan error // of capacity 1: the caller may be gone
}

// killOrder stops a server without letting the workers finish what they have.
const killOrder = "kill"

// Order carries out an order of package control and returns when that is done:
//   - Reload, when the old workers have ended. Each is replaced only when its successor is ready. When a successor does
//     not get ready, its predecessor and those after it stay, and the error says why. Concurrent reloads take turns,
//     but do not wait for each other's draining workers.
//   - Restart (see Config.Programs), when the new workers are ready, or with the reason why one is not; then workers of the old code are
//     started again. The socket stays open, so that clients that connect meanwhile wait.
//   - Scale, when new workers are ready and surplus ones have ended. count is 1 to MaxWorkers. When a new one does not
//     get ready, it and those after it are not added, and the error says why.
//   - Start, when the port is bound; Stop and Delete, when all workers have ended.
//
// An end of ctx ends the wait; an order that was begun is carried out.
func (s *Server) Order(ctx context.Context, order string, count int) error {
	return s.command(ctx, command{order: order, count: count})
}

// Update replaces the workers, one at a time as Reload does, by those of another launch, which ParseUpdate makes of the
// change, and then changes their number. When a successor does not get ready, the launch before stays in force: workers
// that have been replaced get it again, and the error says why. An end of ctx ends the wait only.
func (s *Server) Update(ctx context.Context, change json.RawMessage) error {
	if s.ParseUpdate == nil {
		return fmt.Errorf("%s can't be updated", s.Name)
	}
	launch, err := s.ParseUpdate(change)
	if err == nil {
		err = checkCount(launch.Count)
	}
	if err != nil {
		return err
	}
	launch.setDefaults()
	return s.command(ctx, command{order: control.Update, launch: &launch})
}

// command gives an order to Run's goroutine and waits for the reply.
func (s *Server) command(ctx context.Context, c command) error {
	c.reply = make(chan error, 1)
	select {
	case s.commands <- c:
	case <-s.ended:
		return ErrStopping
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-c.reply:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Reload is Order's.
func (s *Server) Reload(ctx context.Context) error { return s.Order(ctx, control.Reload, 0) }

// Kill stops the server at once: requests in flight are lost.
func (s *Server) Kill() { _ = s.Order(context.Background(), killOrder, 0) }

// Status returns the server's state and its workers', by slot, draining processes last.
func (s *Server) Status() control.Status {
	reply := make(chan control.Status, 1)
	select {
	case s.questions <- reply:
		return <-reply
	case <-s.ended:
		return s.status()
	}
}
