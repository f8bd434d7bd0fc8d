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
	// which tells what the worker has done, or nothing when it told that before. Both are set before Ready.
	Health func() error
	Sample func() Beat

	link     *link                     // nil in a process that is its own master
	sum      func() map[string]float64 // set there
	beat     time.Duration
	ready    func()
	replaced atomic.Bool

	askers sync.Mutex
	totals chan map[string]float64
	known  map[string]float64 // what Totals returned last
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
	ln, err := inherited(os.NewFile(listenerFD, "listener"), t, p.Row)
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

// Totals returns the sums of the counters of all workers that the server ever had, own among them. Without an answer of
// the master within a second they are those of the last time, or own.
func (w *Worker) Totals(own map[string]float64) map[string]float64 {
	w.askers.Lock()
	defer w.askers.Unlock()
	all := own
	if w.link == nil {
		all = w.sum()
	} else {
		select {
		case <-w.totals: // the late answer to an earlier question
		default:
		}
		if w.link.send(message{Ask: &sums{own}}) == nil {
			select {
			case all = <-w.totals:
			case <-time.After(time.Second):
			}
		}
	}
	if w.known == nil {
		w.known = make(map[string]float64, len(all))
	}
	for series, n := range all {
		w.known[series] = max(w.known[series], n)
	}
	return maps.Clone(w.known)
}

// orphanLimit is how long a worker may finish what it has when its master is dead; its socket closes at once.
const orphanLimit = time.Second

var errOrphan = errors.New("the master is dead")

// Run runs the program as a worker: it beats, drains on its master's order or on the first of the signals, and ends at
// once on the second. It returns the program's error. The caller has asked for SIGTERM and SIGINT as the first thing that
// it did, so that none is lost.
func (w *Worker) Run(program Program, signals <-chan os.Signal, log *slog.Logger) error {
	ctx, end := context.WithCancelCause(context.Background())
	defer end(nil)

	// The first is the master's to answer. The second comes when the master, who reads the output, is dead; there is no
	// reason to drop the requests in flight for it.
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	go func() {
		w.awaitSignal(signals)
		w.replaced.Store(true) // the master keeps the socket and is about to start another worker on it
		_ = w.link.send(message{Draining: true})
		end(nil)
		w.awaitSignal(signals)
		os.Exit(1)
	}()

	beating := make(chan struct{})
	var once sync.Once
	w.ready = func() {
		once.Do(func() {
			_ = w.link.send(message{Ready: true})
			trimSoon()
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
	w.report()
	if errors.Is(context.Cause(ctx), errOrphan) {
		log.Error("worker ends", "cause", errOrphan)
	}
	return err
}

// awaitSignal waits for a signal to end; a hang-up that came before Run is none.
func (w *Worker) awaitSignal(signals <-chan os.Signal) {
	for s := range signals {
		if s != syscall.SIGHUP {
			return
		}
	}
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

// unloadEvery is how many heartbeats without news there are from one unload to the next. The first comes at once; what
// the runtime reads now and then, to collect garbage or to interrupt a goroutine, makes others necessary. freeEvery is
// how many there are until the little garbage of a process at rest is given back, which the runtime does not hurry to do.
const (
	unloadEvery = 10
	freeEvery   = 60
)

// heartbeat goes on while the worker drains, since that may take long: it ends with the process.
func (w *Worker) heartbeat() {
	for idle := 0; ; time.Sleep(w.beat) {
		switch {
		case w.Health != nil && w.Health() != nil:
		case w.report():
			idle = 0
		default:
			switch {
			case idle > 0 && idle%freeEvery == 0:
				trim()
			case idle%unloadEvery == 0:
				unload()
			}
			idle++
		}
	}
}

// report tells the master that this process lives, and what it has done. It returns whether that was anything new.
func (w *Worker) report() bool {
	var b Beat
	if w.Sample != nil {
		b = w.Sample()
	}
	if b.Requests == 0 && b.Counters == nil {
		_ = w.link.write(alive)
		return false
	}
	_ = w.link.send(message{Beat: &b})
	return true
}
