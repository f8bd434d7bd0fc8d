// Package workers runs the processes of a server: a master that binds a port and keeps it, and workers that inherit the
// socket. It replaces dead and hung workers, reloads them one at a time without losing a request, scales them, and ends
// them. It knows nothing of what the workers serve.
package workers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"time"
)

// Config says what a master runs.
type Config struct {
	Name     string
	Listener *net.TCPListener // Run closes it when the server begins to end: from then on only the workers hold the socket
	Count    int              // how many workers, 1 to MaxWorkers
	Single   bool             // one process is what this server is: it can't be scaled

	Path string   // the program's binary; looked up anew at every reload, so that a new one is found
	Args []string // without the program's name
	Env  []string // NAME=value, added to the master's own environment
	Dir  string   // its working directory; empty: the master's

	// Foreign: the program is not ours. It gets the socket by systemd's protocol (LISTEN_FDS), is ready as soon as it has
	// lived for a second, and has no heartbeat.
	Foreign bool
	// Here, when set, is run in the master's own process instead of a first worker: FORK is one process. A reload moves
	// the work to a child process; the master stays what holds the socket. MaxMemory and MaxRequests do not apply to it.
	Here Program

	Limits
	Output io.Writer // where the workers' lines go; must not block
	Logger *slog.Logger
}

// Limits are the times and sizes after which a master acts. Zero values mean the defaults of each comment; a zero
// MaxMemory or MaxRequests means none.
type Limits struct {
	ReadyTimeout     time.Duration // from start to ready: 10 s
	HeartbeatTimeout time.Duration // from one sign of life to the next, then it is replaced: 5 s
	StopTimeout      time.Duration // from the order to drain to SIGKILL: 30 s
	MaxMemory        int64         // resident bytes of a worker above which it is replaced
	MaxRequests      int64         // answers after which a worker is replaced, give or take a tenth
}

func (l *Limits) defaults() {
	for value, standard := range map[*time.Duration]time.Duration{
		&l.ReadyTimeout: 10 * time.Second, &l.HeartbeatTimeout: 5 * time.Second, &l.StopTimeout: 30 * time.Second,
	} {
		if *value <= 0 {
			*value = standard
		}
	}
}

// foreignReady is how long a program that is not ours must have lived to count as ready.
const foreignReady = time.Second

// MaxWorkers is how many workers a server can have.
const MaxWorkers = 100

var (
	// ErrStopping: the server is about to end, so it takes no orders.
	ErrStopping = errors.New("the server is stopping")
	errForkOne  = errors.New("a FORK server is one process; start it with --m CLUSTER to scale it")
)

// Master keeps a server's workers alive. One goroutine, Run's, owns its state; everybody else sends it functions.
type Master struct {
	Config
	calls    chan func()
	events   chan event
	over     chan struct{} // closed at Run's end
	changing chan struct{} // held by whoever replaces or scales: one at a time

	socket    *os.File // the listener's descriptor, to hand down
	turnsFile *os.File
	turns     *turns

	// What follows belongs to Run's goroutine.
	slots      []*slot
	procs      map[*proc]bool     // all that live
	generation int                // how often the code was loaded, or tried to
	retired    map[string]float64 // what the workers counted that are gone
	told       map[string]float64 // the last totals; not changed any more
	served     bool               // some worker was ready once
	stopping   bool
	failure    error // Run's, when stopping
	checked    time.Time
}

// New returns a master that Run brings to life.
func New(c Config) (*Master, error) {
	if c.Count < 1 || c.Count > MaxWorkers {
		return nil, fmt.Errorf("workers: %d is not between 1 and %d", c.Count, MaxWorkers)
	}
	c.Limits.defaults()
	m := &Master{
		Config: c, calls: make(chan func()), events: make(chan event, 16), over: make(chan struct{}),
		changing: make(chan struct{}, 1), procs: map[*proc]bool{}, retired: map[string]float64{}, generation: 1,
	}
	var err error
	if m.socket, err = descriptor(c.Listener, c.Foreign); err != nil {
		return nil, err
	}
	if !c.Foreign {
		if m.turnsFile, m.turns, err = newTurns(); err != nil {
			m.socket.Close()
			return nil, err
		}
	}
	return m, nil
}

// Run starts the workers and keeps them until ctx ends; then it drains them and returns nil. It returns an error when
// none of them can be started, or when all have been given up.
func (m *Master) Run(ctx context.Context) error {
	if m.Foreign { // see attributes
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
	}
	defer close(m.over)
	defer m.turns.close()
	if m.turnsFile != nil {
		defer m.turnsFile.Close()
	}
	for n := range m.Count {
		m.slots = append(m.slots, &slot{number: n + 1, generation: m.generation})
	}
	for _, s := range m.slots {
		m.fill(s)
	}
	m.checked = time.Now()
	tick := time.NewTicker(min(m.HeartbeatTimeout/5, maxTick))
	defer tick.Stop()
	ending := ctx.Done()
	for !m.stopping || len(m.procs) > 0 {
		select {
		case f := <-m.calls:
			f()
		case e := <-m.events:
			m.handle(e)
		case <-tick.C:
			m.check(time.Now())
		case <-ending:
			ending = nil
			m.stop(nil)
		}
	}
	for _, s := range m.slots {
		s.keep(nil)
	}
	return m.failure
}

// do runs f in Run's goroutine and waits for it.
func (m *Master) do(f func()) error {
	done := make(chan struct{})
	select {
	case m.calls <- func() { defer close(done); f() }:
		<-done
		return nil
	case <-m.over:
		return ErrStopping
	}
}

// tell hands news to Run's goroutine.
func (m *Master) tell(e event) {
	select {
	case m.events <- e:
	case <-m.over:
	}
}

// stop drains everything; why is Run's error.
func (m *Master) stop(why error) {
	if m.stopping {
		return
	}
	m.stopping, m.failure = true, why
	// When the last worker closes its own, who comes later is refused, and not left waiting for nobody.
	m.Listener.Close()
	m.socket.Close()
	for _, s := range m.slots {
		s.calm()
	}
	for p := range m.procs {
		m.drain(p, false)
	}
}

// Kill ends a server that drains too slowly, at once.
func (m *Master) Kill() {
	_ = m.do(func() {
		m.stop(nil)
		for p := range m.procs {
			m.kill(p, "killed by a second signal")
		}
	})
}

// handle takes in what a process says, or that it is gone.
func (m *Master) handle(e event) {
	p := e.proc
	if !m.procs[p] {
		return // given up before
	}
	s := m.slot(p)
	switch {
	case e.gone:
		m.bury(p, e.exit)
	case e.Ready && !p.ready && !p.draining:
		p.ready, p.beaten, p.deadline = true, time.Now(), time.Time{}
		m.served = true
		if s != nil {
			p.readied <- m.settle(s, p)
		}
	case e.Beat != nil:
		p.beaten = time.Now()
		p.note(*e.Beat)
		if s != nil && s.current == p && s.quota > 0 && p.requests >= s.quota {
			m.renew(s, "request limit reached")
		}
	case e.Draining && !m.stopping:
		// Somebody else told it to end: its replacement need not wait for that.
		m.drain(p, true)
		if s != nil && s.current == p {
			m.Logger.Info("worker told to end, replacing it", "server", m.Name, "worker", p.slot, "pid", p.pid())
			s.current = nil
			s.restarts++
			m.fill(s)
		}
	case e.Ask != nil:
		p.note(Beat{Counters: e.Ask.Counters})
		go func(all map[string]float64) { _ = p.link.send(message{Totals: &sums{all}}) }(m.totals())
	}
}

// maxTick is how long, at most, the master lets pass between two looks at its workers' deadlines.
const maxTick = 250 * time.Millisecond

// check looks for processes that have run out of time, have stopped beating, or have grown too large.
func (m *Master) check(now time.Time) {
	asleep := now.Sub(m.checked) > m.HeartbeatTimeout/2 // this process, not they
	m.checked = now
	for p := range m.procs {
		if asleep {
			p.beaten = now
		}
		switch {
		case !p.deadline.IsZero() && now.After(p.deadline):
			m.kill(p, p.late)
		case p.link != nil && p.ready && now.Sub(p.beaten) > m.HeartbeatTimeout:
			m.kill(p, fmt.Sprintf("no heartbeat for %v", m.HeartbeatTimeout))
		case m.Foreign && !p.ready && now.Sub(p.started) >= foreignReady:
			m.handle(event{proc: p, message: message{Ready: true}})
		}
	}
	if m.MaxMemory == 0 {
		return
	}
	for _, s := range m.slots {
		if s.current != nil && s.current.ready && s.current.cmd != nil {
			if size := ResidentMemory(s.current.pid()); size > m.MaxMemory {
				m.renew(s, fmt.Sprintf("%d MiB of memory, more than the limit", size>>20))
			}
		}
	}
}
