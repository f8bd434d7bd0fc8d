package workers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"balanza/services/workers/share"
)

// Program is what a worker runs. It serves on w.Listener, calls w.Ready when it does, and returns when ctx has ended and
// what it had is finished.
type Program func(ctx context.Context, w *Worker) error

// Worker is the worker's side of a server: what a Program knows of its position and tells its master.
type Worker struct {
	Slot       int // 1, 2 …: which of the server's workers
	Generation int // 1, 2 …: how often the server's code was loaded, this time included
	Listener   net.Listener
	Started    time.Time
	// Restarts is how often a process of the slot was replaced before this one, except by a reload. Predecessor is the
	// process that died and that this one replaces, if it does.
	Restarts    int
	Predecessor Predecessor

	// Acquire counts what a client does at a time, over all workers of the server: it fails when key has reached the limit,
	// and else returns what the worker calls at the end. It is nil in an in-process worker, which has no siblings.
	Acquire func(key string, limit int) (release func(), ok bool)

	// Health is called before every heartbeat; a worker whose Health fails or hangs is replaced. Sample tells what the
	// worker has done; it may be empty when nothing has changed since the last call. Both are optional, and set before
	// Ready is called.
	Health func() error
	Sample func() Heartbeat

	conn              *conn // to the master; nil for an in-process worker
	heartbeatInterval time.Duration

	send      func(message) error // to the master
	ready     chan struct{}       // closed by Ready
	readyOnce sync.Once
	replaced  atomic.Bool
	cause     atomic.Pointer[string] // of the drain

	asking     sync.Mutex
	totals     chan map[string]float64 // of capacity 1
	lastTotals map[string]float64
}

// Predecessor is a process that died. The zero value is none.
type Predecessor struct {
	PID   int    `json:"pid"`
	Cause string `json:"cause"`
}

func newWorker(slot, generation int, ln net.Listener, send func(message) error) *Worker {
	return &Worker{
		Slot: slot, Generation: generation, Listener: ln, Started: time.Now(),
		send: send, ready: make(chan struct{}), totals: make(chan map[string]float64, 1), lastTotals: map[string]float64{},
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
	ln, err := share.Inherit(os.NewFile(listenerFD, "listener"), os.NewFile(pageFD, "share page"), env.Row)
	if err != nil {
		return nil, err
	}
	w := newWorker(env.Slot, env.Generation, ln, c.send)
	w.conn, w.heartbeatInterval, w.Acquire = c, env.HeartbeatInterval, ln.Acquire
	w.Restarts, w.Predecessor = env.Restarts, env.Predecessor
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
func (w *Worker) Ready() {
	w.readyOnce.Do(func() {
		_ = w.send(message{Ready: true})
		close(w.ready)
	})
}

// totalsTimeout is how long Totals waits for the master.
const totalsTimeout = time.Second

// Totals returns the sums of the counters of all workers that the server ever had; own are this worker's. When the
// master does not answer within a second, they are the sums of the last call, or own where these are larger.
func (w *Worker) Totals(own map[string]float64) map[string]float64 {
	w.asking.Lock()
	defer w.asking.Unlock()
	select {
	case <-w.totals: // a late answer to an earlier call
	default:
	}
	sums := own
	if w.send(message{Ask: &counters{own}}) == nil {
		select {
		case sums = <-w.totals:
		case <-time.After(totalsTimeout):
		}
	}
	mergeCounters(w.lastTotals, sums)
	return maps.Clone(w.lastTotals)
}

// handle reacts to a message of the master. end ends the program's context.
func (w *Worker) handle(m message, end func()) {
	switch {
	case m.Drain != nil:
		w.replaced.Store(m.Drain.Replaced)
		w.drainFor(m.Drain.Cause)
		end()
	case m.Totals != nil:
		select {
		case w.totals <- m.Totals.Counters:
		default:
		}
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
	// that is no reason to drop the requests in flight.
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
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
			w.drainFor(errOrphan.Error())
			end(errOrphan)
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
		if w.Health == nil || w.Health() == nil {
			w.sendHeartbeat()
		}
	}
}

func (w *Worker) sendHeartbeat() {
	var h Heartbeat
	if w.Sample != nil {
		h = w.Sample()
	}
	_ = w.send(message{Heartbeat: &h})
}
