package workers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"balanza/services/metrics"
	"balanza/services/workers/share"
)

// Program is what a worker runs. It serves on w.Listener, calls w.Ready when it does, and returns when ctx has ended and
// what it had is finished.
type Program func(ctx context.Context, w *Worker) error

// Worker is the worker's side of a server: what a Program knows of its position and tells its master.
type Worker struct {
	Slot       int          // 1, 2 …: which of the server's workers
	Generation int          // 1, 2 …: how often the server's code was loaded, this time included
	Listener   net.Listener // nil for the parent of a program
	Started    time.Time
	// Socket is, for the parent of a program (Config.Programs), the blocking listening socket that the program inherits, or an
	// empty file where it inherits none. Port is what the program may listen on, 0 where that is the socket's or none.
	Socket *os.File
	Port   int
	// Restarts is how often a process of the slot was replaced before this one, except by a reload. Predecessor is the
	// process that died and that this one replaces, if it does.
	Restarts    int
	Predecessor Predecessor
	// ForOrder says that the worker is started for a reload, a restart or the like, which fails with the reason when the worker
	// ends before it is ready. Where no process serves then, one that is not for an order is started.
	ForOrder bool

	// Acquire counts what a client does at a time, over all workers of the server: it fails when key has reached the limit,
	// and else returns what the worker calls at the end. It is nil in an in-process worker, which has no siblings.
	Acquire func(key string, limit int) (release func(), ok bool)
	// Answered counts n answers of the worker, and reports whether the connection of the last one should end, so that another
	// worker gets its next request. Drawing counts random numbers that the worker draws, until it calls ended. Both are nil in
	// an in-process worker.
	Answered func(n int) bool
	Drawing  func(numbers int64) (ended func())

	// Health is called before every heartbeat; a worker whose Health fails or hangs is replaced. Sample tells what the
	// worker has done; it may be empty when nothing has changed since the last call. Both are optional, and set before
	// Ready is called.
	Health func() error
	Sample func() Heartbeat
	// Report tells the worker's metrics at a scrape. It is optional, set before Ready is called, and called by any goroutine.
	Report func() Report

	conn              *conn // to the master; nil for an in-process worker
	heartbeatInterval time.Duration

	send      func(message) error // to the master
	ready     chan struct{}       // closed by Ready
	readyOnce sync.Once
	replaced  atomic.Bool
	orphaned  atomic.Bool            // the master is dead
	cause     atomic.Pointer[string] // of the drain

	asking sync.Mutex
	asks   map[int64]chan totals // under way, of capacity 1; guarded by asking
	asked  int64                 // the number of the last one
}

// Predecessor is a process that died. The zero value is none.
type Predecessor struct {
	PID   int    `json:"pid"`
	Cause string `json:"cause"`
}

func newWorker(slot, generation int, ln net.Listener, send func(message) error) *Worker {
	return &Worker{
		Slot: slot, Generation: generation, Listener: ln, Started: time.Now(),
		send: send, ready: make(chan struct{}), asks: map[int64]chan totals{},
	}
}

// workerEnv is what a master tells a child process about its position, in an environment variable. Its JSON must stay,
// as that of message.
type workerEnv struct {
	Slot              int           `json:"slot"`
	Generation        int           `json:"generation"`
	Row               int           `json:"row"`  // of the shared page
	HeartbeatInterval time.Duration `json:"beat"` // nanoseconds
	Restarts          int           `json:"restarts,omitempty"`
	Predecessor       Predecessor   `json:"predecessor,omitzero"`
	Port              int           `json:"port,omitempty"` // see Worker.Port
	ForOrder          bool          `json:"order,omitempty"`
}

const workerVariable = "BALANZA_WORKER"

func (e workerEnv) encode() (string, error) {
	text, err := json.Marshal(e)
	return workerVariable + "=" + string(text), err
}

// The descriptors that a worker inherits: systemd's number for the first socket, then our own.
const (
	listenerFD = 3 + iota
	connFD
	pageFD
)

// IsWorker tells whether a master started this process, until Inherit has been called.
func IsWorker() bool {
	_, ok := os.LookupEnv(workerVariable)
	return ok
}

// Inherit returns the worker that this process is, nil when its parent is no master. Call it before anything that starts
// processes: it marks the inherited descriptors close-on-exec and removes the variable that it reads.
func Inherit() (*Worker, error) {
	text, ok := os.LookupEnv(workerVariable)
	if !ok {
		return nil, nil
	}
	os.Unsetenv(workerVariable)
	var env workerEnv
	if err := json.Unmarshal([]byte(text), &env); err != nil {
		return nil, fmt.Errorf("%s=%q: %w", workerVariable, text, err)
	}
	for fd := listenerFD; fd <= pageFD; fd++ {
		syscall.CloseOnExec(fd)
	}
	c, err := openConn(os.NewFile(connFD, "ipc"))
	if err != nil {
		return nil, fmt.Errorf("inherited connection to the master: %w", err)
	}
	w := newWorker(env.Slot, env.Generation, nil, c.send)
	w.conn, w.heartbeatInterval = c, env.HeartbeatInterval
	w.Restarts, w.Predecessor, w.Port, w.ForOrder = env.Restarts, env.Predecessor, env.Port, env.ForOrder
	socket := os.NewFile(listenerFD, "listener")
	if env.Row < 0 {
		w.Socket = socket
		return w, nil
	}
	ln, err := share.Inherit(socket, os.NewFile(pageFD, "share page"), env.Row)
	if err != nil {
		return nil, err
	}
	w.Listener, w.Acquire, w.Answered, w.Drawing = ln, ln.Acquire, ln.Answered, ln.Drawing
	return w, nil
}

// Replaced tells, once ctx has ended, whether other processes go on accepting on the worker's socket: then clients need
// no notice before the listener is closed.
func (w *Worker) Replaced() bool { return w.replaced.Load() }

// DrainCause tells, once ctx has ended, why: reload, restart, scale, stop, signal, or a limit that the worker has reached. It
// is empty when a master of an earlier version has not said it.
func (w *Worker) DrainCause() string {
	if cause := w.cause.Load(); cause != nil {
		return *cause
	}
	return ""
}

// drainFor keeps the cause of the drain. Only the first one counts.
func (w *Worker) drainFor(cause string) { w.cause.CompareAndSwap(nil, &cause) }

// Ready tells the master that the worker serves.
func (w *Worker) Ready() { w.ReadyAt("") }

// ReadyAt tells the master that the worker's program serves at an address, host:port; empty: not at one of its own.
func (w *Worker) ReadyAt(address string) {
	w.readyOnce.Do(func() {
		_ = w.send(message{Ready: true, Address: address})
		close(w.ready)
	})
}

// SetProgram tells the master the pid of the program that the worker runs.
func (w *Worker) SetProgram(pid int) { _ = w.send(message{Program: pid}) }

// Fail tells the master why the worker is about to end. explained: what the program wrote tells nothing more about it, unless
// it is the error of a crash.
func (w *Worker) Fail(cause string, explained bool) {
	_ = w.send(message{Failed: cause, Explained: explained})
}

// Warn has the master log something about the program. The worker's own output is the program's.
func (w *Worker) Warn(text string) { _ = w.send(message{Warning: text}) }

// Degraded tells the master what keeps the worker, which serves, from a part of its work; empty: nothing does any more.
func (w *Worker) Degraded(reason string) { _ = w.send(message{Degraded: &reason}) }

// Extend tells the master that the program takes that much longer to become ready, or to end.
func (w *Worker) Extend(by time.Duration) { _ = w.send(message{Extend: by}) }

// Leave tells the master that the worker ends soon: it gets no more requests, and another one in its place.
func (w *Worker) Leave() { _ = w.send(message{Draining: true}) }

// Orphaned tells whether the master is dead.
func (w *Worker) Orphaned() bool { return w.orphaned.Load() }

// scrapeWait is how long Scrape waits for the master, which waits for the workers for scrapeTimeout.
const scrapeWait = 2 * time.Second

// ErrNoMetrics is returned by Scrape when the master does not answer.
var ErrNoMetrics = errors.New("the master does not answer")

// Scrape returns the metrics of the whole server as Prometheus reads them: the totals of all workers that it ever had, what
// each worker has to tell now, and what its master knows. It waits for at most 2 s. A text without a part of this could
// hold counters that fall, so there is none when the master does not answer.
func (w *Worker) Scrape() (string, error) {
	answer := make(chan totals, 1)
	w.asking.Lock()
	w.asked++
	id := w.asked
	w.asks[id] = answer
	w.asking.Unlock()
	defer func() {
		w.asking.Lock()
		defer w.asking.Unlock()
		delete(w.asks, id)
	}()
	if w.send(message{Ask: &ask{ID: id, Text: true}}) != nil {
		return "", ErrNoMetrics
	}
	select {
	case t := <-answer:
		if t.Text == "" { // of an older master
			return w.render(t.Counters), nil
		}
		return t.Text, nil
	case <-time.After(scrapeWait):
		return "", ErrNoMetrics
	}
}

// render writes the sums of an older master, and this worker's own metrics.
func (w *Worker) render(sums map[string]float64) string {
	r := w.report()
	all := metrics.Snapshot{Families: r.Totals.Families, Values: sums}
	label := strconv.Itoa(w.Slot)
	all.Merge(r.Own, workerLabel, label)
	all.Merge(metrics.Process(os.Getpid()), workerLabel, label)
	return all.Text()
}

// report is Report's answer, empty without it.
func (w *Worker) report() (r Report) {
	if w.Report != nil {
		r = w.Report()
	}
	return r
}

// onTotals hands the master's answer to the Scrape that asked, or that of an older master to all.
func (w *Worker) onTotals(t totals) {
	w.asking.Lock()
	defer w.asking.Unlock()
	for id, answer := range w.asks {
		if t.ID != id && t.ID != 0 {
			continue
		}
		select {
		case answer <- t:
		default:
		}
	}
}

// handle reacts to a message of the master. end ends the program's context.
func (w *Worker) handle(m message, end func()) {
	switch {
	case m.Drain != nil:
		w.replaced.Store(m.Drain.Replaced)
		w.drainFor(m.Drain.Cause)
		end()
	case m.Totals != nil:
		w.onTotals(*m.Totals)
	case m.Sample != nil:
		go func() { // an order to drain must not wait for it
			<-w.ready
			_ = w.send(message{Report: &report{ID: m.Sample.ID, Report: w.report()}})
		}()
	}
}

// orphanGrace is how long a worker may finish what it has when its master is dead; its socket closes at once.
const orphanGrace = time.Second

var errOrphan = errors.New("the master is dead")

// Run runs the program as the worker that Inherit returned: it sends heartbeats, drains on its master's order or on the first SIGTERM or SIGINT,
// and ends at once on the second. It returns the program's error. signals must have been registered as the first thing
// that the process did, so that none is lost; SIGHUP among them is ignored.
func (w *Worker) Run(program Program, signals <-chan os.Signal, log *slog.Logger) error {
	ctx, end := context.WithCancelCause(context.Background())
	defer end(nil)
	// A hang-up is for the master, which reloads. A broken pipe means that the master, which reads the output, is dead:
	// that is no reason to drop the requests in flight. Unlike signals that are ignored, these are not ignored by programs
	// that this process starts.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGPIPE)
	go func() {
		awaitEndSignal(signals)
		w.replaced.Store(true) // the master keeps the socket and starts another worker on it
		w.drainFor("signal")
		_ = w.send(message{Draining: true})
		end(nil)
		awaitEndSignal(signals)
		os.Exit(1)
	}()
	go func() {
		select {
		case <-w.ready:
			w.sendHeartbeats()
		case <-ctx.Done():
		}
	}()
	go w.readCommands(end)

	err := program(ctx, w)
	w.sendHeartbeat()
	if errors.Is(context.Cause(ctx), errOrphan) {
		log.Error("worker ends", "cause", errOrphan)
	}
	return err
}

func awaitEndSignal(signals <-chan os.Signal) {
	for s := range signals {
		if s != syscall.SIGHUP { // one may have arrived before Run
			return
		}
	}
}

// readCommands handles the master's messages until the master is dead.
func (w *Worker) readCommands(end context.CancelCauseFunc) {
	for {
		m, err := w.conn.receive()
		if err != nil {
			w.orphaned.Store(true)
			w.drainFor(errOrphan.Error())
			end(errOrphan)
			if w.Listener == nil { // the program ends what it has started, and then returns
				return
			}
			w.Listener.Close()
			time.Sleep(orphanGrace)
			os.Exit(1)
		}
		w.handle(m, func() { end(nil) })
	}
}

// sendHeartbeats ends with the process: a drain may take long, and the master goes on counting heartbeats.
func (w *Worker) sendHeartbeats() {
	for ; ; time.Sleep(w.heartbeatInterval) {
		if w.Health != nil {
			if err := w.Health(); err != nil {
				_ = w.send(message{Unhealthy: err.Error()})
				continue
			}
		}
		w.sendHeartbeat()
	}
}

func (w *Worker) sendHeartbeat() {
	var h Heartbeat
	if w.Sample != nil {
		h = w.Sample()
	}
	_ = w.send(message{Heartbeat: &h})
}
