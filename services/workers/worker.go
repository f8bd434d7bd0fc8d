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
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Program is what a worker runs. It serves on w.Listener, calls w.Ready when it does, and returns when ctx has ended and
// what it had is finished.
type Program func(ctx context.Context, w *Worker) error

// Worker is a process's place under a master. Its zero values for Slot and Generation never occur: both count from 1.
type Worker struct {
	Slot       int // which of the server's workers
	Generation int // how often the server's code was loaded, this one included
	Listener   net.Listener
	Started    time.Time

	// Health is asked before every heartbeat; a worker whose Health fails or hangs is replaced. Optional, as is Sample,
	// which tells what the worker has done. Both are set before Ready.
	Health func() error
	Sample func() Beat

	link     *link // nil in a process that is its own master
	beat     time.Duration
	ready    func()
	replaced atomic.Bool

	askers sync.Mutex
	totals chan map[string]float64
}

// place is how a master tells a worker where it stands, in the environment.
type place struct {
	Slot       int           `json:"slot"`
	Generation int           `json:"generation"`
	Row        int           `json:"row"`
	Beat       time.Duration `json:"beat"` // nanoseconds
}

const placeVariable = "BALANZA_WORKER"

// The descriptors that a worker inherits: systemd's number for the first socket, then our own.
const (
	listenerFD = 3 + iota
	linkFD
	turnsFD
)

// Inherit returns this process's place under its master, nil when it has none.
func Inherit() (*Worker, error) {
	told, ok := os.LookupEnv(placeVariable)
	if !ok {
		return nil, nil
	}
	os.Unsetenv(placeVariable) // it is not for our own children
	var p place
	if err := json.Unmarshal([]byte(told), &p); err != nil {
		return nil, fmt.Errorf("%s=%q: %w", placeVariable, told, err)
	}
	for fd := listenerFD; fd <= turnsFD; fd++ {
		syscall.CloseOnExec(fd)
	}
	l, err := openLink(os.NewFile(linkFD, "link"))
	if err != nil {
		return nil, fmt.Errorf("inherited link: %w", err)
	}
	t, err := openTurns(os.NewFile(turnsFD, "turns"))
	if err != nil {
		return nil, fmt.Errorf("inherited turns: %w", err)
	}
	ln, err := listen(os.NewFile(listenerFD, "listener"), t, p.Row)
	if err != nil {
		return nil, err
	}
	return &Worker{
		Slot: p.Slot, Generation: p.Generation, Listener: ln, Started: time.Now(),
		link: l, beat: p.Beat, totals: make(chan map[string]float64, 1),
	}, nil
}

// Replaced says whether others go on accepting on this worker's socket after ctx's end: then there is no need to let
// the balancer know.
func (w *Worker) Replaced() bool { return w.replaced.Load() }

// Ready tells the master that the worker serves.
func (w *Worker) Ready() { w.ready() }

// Totals returns the sums of the counters of all workers that the server ever had, own among them. Without a master
// that answers within a second, it is own.
func (w *Worker) Totals(own map[string]float64) map[string]float64 {
	if w.link == nil {
		return own
	}
	w.askers.Lock()
	defer w.askers.Unlock()
	select {
	case <-w.totals: // the late answer to an earlier question
	default:
	}
	if w.link.send(message{Ask: &sums{own}}) == nil {
		select {
		case all := <-w.totals:
			return all
		case <-time.After(time.Second):
		}
	}
	return own
}

// orphanLimit is how long a worker may finish what it has when its master is dead; its socket closes at once.
const orphanLimit = time.Second

var errOrphan = errors.New("the master is dead")

// Run runs the program as a worker: it beats, drains on its master's order or on SIGTERM and SIGINT, and ends at once
// on a second signal. It returns the program's error.
func (w *Worker) Run(program Program, log *slog.Logger) error {
	ctx, end := context.WithCancelCause(context.Background())
	defer end(nil)

	signal.Ignore(syscall.SIGHUP) // the master's to answer
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		w.replaced.Store(true) // the master keeps the socket and is about to start another worker on it
		_ = w.link.send(message{Draining: true})
		end(nil)
		<-signals
		os.Exit(1)
	}()

	beating := make(chan struct{})
	var once sync.Once
	w.ready = func() {
		once.Do(func() {
			_ = w.link.send(message{Ready: true})
			close(beating)
		})
	}
	go func() {
		select {
		case <-beating:
			w.heartbeat()
		case <-ctx.Done():
		}
	}()
	go w.obey(end)

	err := program(ctx, w)
	if errors.Is(context.Cause(ctx), errOrphan) {
		log.Error("worker ends", "cause", errOrphan)
	}
	return err
}

// obey reads the master's messages until the master is gone.
func (w *Worker) obey(end context.CancelCauseFunc) {
	for {
		m, err := w.link.receive()
		switch {
		case err != nil:
			end(errOrphan)
			w.Listener.Close()
			time.Sleep(orphanLimit)
			os.Exit(1)
		case m.Drain != nil:
			w.replaced.Store(m.Drain.Replaced)
			end(nil)
		case m.Totals != nil:
			select {
			case w.totals <- m.Totals.Counters:
			default:
			}
		}
	}
}

// heartbeat goes on while the worker drains, since that may take long: it ends with the process.
func (w *Worker) heartbeat() {
	for {
		var b Beat
		if w.Sample != nil {
			b = w.Sample()
		}
		if w.Health == nil || w.Health() == nil {
			_ = w.link.send(message{Beat: &b})
		}
		time.Sleep(w.beat)
	}
}
