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
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"time"
)

// Config says what a master runs.
type Config struct {
	Name     string
	Listener *net.TCPListener // the caller's to close, after Run
	Count    int              // how many workers, 1 to MaxWorkers

	Path string   // the program's binary; looked up anew at every reload, so that a new one is found
	Args []string // without the program's name
	Env  []string // NAME=value, added to the master's own environment
	Dir  string   // its working directory; empty: the master's

	// Foreign: the program is not ours. It gets the socket by systemd's protocol (LISTEN_FDS), is ready as soon as it has
	// lived for a second, and has no heartbeat.
	Foreign bool
	// Here, when set, is run in the master's own process instead of a first worker: FORK is one process. A reload moves
	// the work to a child process; the master stays what holds the socket.
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

const (
	// MaxWorkers is how many workers a server can have. A reload needs a second row of the shared page for each.
	MaxWorkers = 100
	maxRows    = 256
	// stable is how long a worker must have served for its death not to count as a failure to start.
	stable = time.Second
	// A slot that fails maxFailures times within failureWindow is given up until the next reload, restart or scale.
	maxFailures   = 10
	failureWindow = time.Minute
	firstBackoff  = 50 * time.Millisecond
	lastBackoff   = 10 * time.Second
)

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
	changing chan struct{} // held by whoever reloads or scales: one at a time

	turnsFile *os.File
	turns     *turns

	// What follows belongs to Run's goroutine.
	slots      []*slot
	procs      map[*proc]bool
	generation int
	retired    map[string]float64 // counters of workers that are gone
	served     bool               // some worker was ready once
	stopping   bool
	failure    error
	checked    time.Time
}

// slot is a worker's place; the process in it changes.
type slot struct {
	number   int
	current  *proc
	next     *proc // its successor, until it is ready
	restarts int
	failures []time.Time // recent failures to start
	errored  bool
	cause    string // why the last one died
	image    *os.File
	retry    *time.Timer
	quota    int64 // requests after which the current one is replaced
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
	if !c.Foreign {
		m.turnsFile, m.turns, err = newTurns()
	}
	return m, err
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
		m.slots = append(m.slots, &slot{number: n + 1})
	}
	for _, s := range m.slots {
		m.fill(s)
	}
	tick := time.NewTicker(m.HeartbeatTimeout / 5)
	defer tick.Stop()
	m.checked = time.Now()
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

// stop drains everything; why is Run's error.
func (m *Master) stop(why error) {
	if m.stopping {
		return
	}
	m.stopping, m.failure = true, why
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
			p.kill("killed by a second signal")
		}
	})
}

// drain orders a worker to end, by force after StopTimeout.
func (m *Master) drain(p *proc, replaced bool) {
	if p.draining {
		return
	}
	p.drain(replaced)
	time.AfterFunc(m.StopTimeout, func() {
		select {
		case <-p.done:
		default:
			m.Logger.Warn("worker killed: it did not drain in time", "server", m.Name, "worker", p.slot, "pid", p.pid())
			p.kill("did not drain in time")
		}
	})
}

// fill starts a worker in an empty slot.
func (m *Master) fill(s *slot) {
	s.calm()
	if m.stopping || s.current != nil || !slices.Contains(m.slots, s) {
		return
	}
	if p, err := m.spawn(s); err != nil {
		m.failed(s, err.Error())
	} else {
		s.current = p
	}
}

// spawn starts a process for a slot: the code that the slot ran before, when it ran any, or else what the path names.
func (m *Master) spawn(s *slot) (p *proc, err error) {
	if m.Here != nil && m.generation == 1 {
		p = m.startHere(s.number)
	} else if p, err = m.start(s.number, s.image); err != nil {
		return nil, err
	}
	m.procs[p] = true
	if m.Foreign {
		time.AfterFunc(stable, func() { m.tell(event{proc: p, message: message{Ready: true}}) })
	}
	time.AfterFunc(m.ReadyTimeout, func() {
		select {
		case <-p.readied:
		default:
			p.kill(fmt.Sprintf("not ready after %v", m.ReadyTimeout))
		}
	})
	return p, nil
}

// startHere runs the program in this process.
func (m *Master) startHere(number int) *proc {
	ctx, cancel := context.WithCancel(context.Background())
	p := &proc{
		slot: number, generation: m.generation, row: -1, started: time.Now(), beaten: time.Now(),
		cancel: cancel, readied: make(chan struct{}), done: make(chan struct{}),
	}
	p.worker = &Worker{Slot: number, Generation: m.generation, Started: p.started}
	p.worker.ready = func() { m.tell(event{proc: p, message: message{Ready: true}}) }
	go func() {
		file, err := m.Listener.File()
		if err == nil {
			p.worker.Listener, err = listen(file, nil, 0)
		}
		if err == nil {
			err = m.Here(ctx, p.worker)
		}
		p.exit = err
		close(p.done)
		m.tell(event{proc: p, gone: true})
	}()
	return p
}

// freeRow finds a row of the shared page that no process has.
func (m *Master) freeRow() int {
	taken := map[int]bool{}
	for p := range m.procs {
		taken[p.row] = true
	}
	row := 0
	for taken[row] && row < maxRows-1 {
		row++
	}
	return row
}

func (m *Master) handle(e event) {
	p := e.proc
	switch {
	case e.gone:
		m.bury(p)
	case e.Ready && !p.ready:
		p.ready, p.beaten = true, time.Now()
		m.served = true
		close(p.readied)
		if s := m.slot(p); s != nil && s.current == p {
			m.settle(s)
		}
	case e.Beat != nil:
		p.beaten, p.requests, p.counters = time.Now(), e.Beat.Requests, e.Beat.Counters
		if s := m.slot(p); s != nil && s.current == p && s.quota > 0 && p.requests >= s.quota {
			m.renew(s, "request limit reached")
		}
	case e.Draining:
		// Somebody else told it to end: its replacement need not wait for that.
		if s := m.slot(p); s != nil && s.current == p && !m.stopping {
			m.drain(p, true)
			m.Logger.Info("worker told to end, replacing it", "server", m.Name, "worker", p.slot, "pid", p.pid())
			s.current = nil
			s.restarts++
			m.fill(s)
		}
	case e.Ask != nil:
		p.counters = e.Ask.Counters
		go func(all map[string]float64) { _ = p.link.send(message{Totals: &sums{all}}) }(m.totals())
	}
}

// settle makes a slot of one whose worker is ready.
func (m *Master) settle(s *slot) {
	s.errored, s.cause = false, ""
	s.keep(s.current.image)
	s.current.image = nil
	if m.MaxRequests > 0 {
		s.quota = m.MaxRequests + int64((rand.Float64()-0.5)/5*float64(m.MaxRequests))
	}
	m.Logger.Info("worker ready", "server", m.Name, "worker", s.number, "pid", s.current.pid(),
		"after", time.Since(s.current.started).Round(time.Millisecond))
}

// keep holds on to the binary of code that was ready: that is what a crash brings back, whatever has become of its path.
func (s *slot) keep(image *os.File) {
	if s.image != nil && s.image != image {
		s.image.Close()
	}
	s.image = image
}

// calm gives up the slot's wait for its next try.
func (s *slot) calm() {
	if s.retry != nil {
		s.retry.Stop()
		s.retry = nil
	}
}

func (m *Master) slot(p *proc) *slot {
	for _, s := range m.slots {
		if s.current == p || s.next == p {
			return s
		}
	}
	return nil
}

// bury takes a dead worker out of the books and fills its place.
func (m *Master) bury(p *proc) {
	delete(m.procs, p)
	if p.row >= 0 {
		m.turns.leave(p.row)
	}
	for series, n := range p.counters {
		m.retired[series] += n
	}
	s := m.slot(p)
	if p.image != nil && (s == nil || p.image != s.image) {
		p.image.Close()
	}
	switch {
	case s == nil || m.stopping:
		if m.stopping && m.failure == nil && p.cmd == nil && p.exit != nil {
			m.failure = p.exit
		}
	case s.next == p:
		s.next = nil
		if s.current == nil {
			m.fill(s)
		}
	case p.draining: // in a restart
		s.current = nil
	case p.cmd == nil: // FORK's one process is this one
		m.stop(p.exit)
	default:
		s.current = nil
		s.restarts++
		m.Logger.Warn("worker died", "server", m.Name, "worker", p.slot, "pid", p.pid(), "cause", p.cause())
		if s.next != nil {
			return // its successor is on the way
		}
		if p.ready && time.Since(p.started) >= stable {
			s.cause = p.cause()
			m.fill(s)
		} else {
			m.failed(s, p.cause())
		}
	}
}

// failed plans the next try in a slot whose worker did not start well.
func (m *Master) failed(s *slot, cause string) {
	now := time.Now()
	s.cause = cause
	s.failures = slices.DeleteFunc(append(s.failures, now), func(t time.Time) bool { return now.Sub(t) > failureWindow })
	if n := len(s.failures); n >= maxFailures {
		s.errored = true
		m.Logger.Error("worker given up until the next reload", "server", m.Name, "worker", s.number,
			"failures", n, "within", failureWindow, "cause", cause)
	} else {
		wait := min(firstBackoff<<(n-1), lastBackoff)
		wait = wait/2 + rand.N(wait) // so that workers that failed together do not try again together
		s.retry = time.AfterFunc(wait, func() { _ = m.do(func() { m.fill(s) }) })
	}
	hopeless := func(s *slot) bool { return s.errored || !m.served && len(s.failures) > 0 && s.current == nil }
	if !slices.ContainsFunc(m.slots, func(s *slot) bool { return !hopeless(s) }) {
		m.stop(fmt.Errorf("no worker of %s starts: %s", m.Name, cause))
	}
}

// check looks for workers that have stopped beating or grown too large.
func (m *Master) check(now time.Time) {
	if pause := now.Sub(m.checked); pause > m.HeartbeatTimeout/2 {
		for p := range m.procs { // this process was asleep, not they
			p.beaten = now
		}
	}
	m.checked = now
	for p := range m.procs {
		if p.link != nil && p.ready && p.killed == "" && now.Sub(p.beaten) > m.HeartbeatTimeout {
			m.Logger.Warn("worker hangs, replacing it", "server", m.Name, "worker", p.slot, "pid", p.pid())
			p.kill(fmt.Sprintf("no heartbeat for %v", m.HeartbeatTimeout))
		}
	}
	if m.MaxMemory > 0 {
		for _, s := range m.slots {
			if s.current != nil && s.current.ready && s.current.cmd != nil {
				if size := residentBytes(s.current.pid()); size > m.MaxMemory {
					m.renew(s, fmt.Sprintf("memory %d MiB above the limit", size>>20))
				}
			}
		}
	}
}

// renew replaces one worker in its turn, its successor ready first.
func (m *Master) renew(s *slot, why string) {
	if s.next != nil || m.stopping {
		return
	}
	p := s.current
	s.quota = 0
	m.Logger.Info("worker to be replaced", "server", m.Name, "worker", s.number, "pid", p.pid(), "cause", why)
	go func() {
		m.changing <- struct{}{}
		defer func() { <-m.changing }()
		if err := m.replace(context.Background(), s, p); err != nil {
			m.Logger.Error("worker not replaced", "server", m.Name, "worker", s.number, "cause", err)
		}
	}()
}

// change takes the right to change the workers, which one caller has at a time.
func (m *Master) change(ctx context.Context) (release func(), err error) {
	select {
	case m.changing <- struct{}{}:
		return func() { <-m.changing }, nil
	case <-m.over:
		return nil, ErrStopping
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Reload replaces the workers one at a time by ones that run what the path names now, each only when its successor is
// ready. When a successor does not get ready, its predecessor and those after it stay, and the error says why.
// Concurrent calls wait for each other.
func (m *Master) Reload(ctx context.Context) error {
	release, err := m.change(ctx)
	if err != nil {
		return err
	}
	defer release()
	var slots []*slot
	if err := m.do(func() {
		m.generation++
		slots = slices.Clone(m.slots)
	}); err != nil {
		return err
	}
	for _, s := range slots {
		if err := m.replace(ctx, s, nil); err != nil {
			return err
		}
	}
	return nil
}

// replace puts a successor into a slot and waits until its predecessor is gone. Only the predecessor named is replaced,
// if one is named; then the successor runs the same code.
func (m *Master) replace(ctx context.Context, s *slot, only *proc) error {
	var next, old *proc
	var err error
	if e := m.do(func() {
		if m.stopping {
			err = ErrStopping
			return
		}
		if only != nil && s.current != only {
			return
		}
		s.calm()
		image := s.image
		if only == nil {
			s.image = nil
		}
		next, err = m.spawn(s)
		s.image = image
		s.next = next
	}); e != nil || err != nil || next == nil {
		return errors.Join(e, err)
	}
	select {
	case <-next.readied:
	case <-next.done:
	case <-ctx.Done():
		next.kill("the reload was given up")
		<-next.done
	}
	if e := m.do(func() {
		switch {
		case m.stopping:
			err = ErrStopping
		case s.next != next: // dead, and buried already
			err = fmt.Errorf("worker %d: the new process did not get ready: %s", s.number, next.cause())
		case !next.ready: // dead, its burial is on the way
			s.next = nil
			err = fmt.Errorf("worker %d: the new process did not get ready: %s", s.number, next.cause())
		default:
			old, s.current, s.next = s.current, next, nil
			s.failures = nil
			m.settle(s)
			if old != nil {
				m.drain(old, true)
			}
		}
	}); e != nil {
		return e
	}
	if err != nil {
		return err
	}
	if old != nil {
		<-old.done
	}
	return nil
}

// Restart ends all workers and starts new ones that run what the path names now. The socket stays open, so that whoever
// connects meanwhile waits. It returns when the new ones are ready, or why one is not.
func (m *Master) Restart(ctx context.Context) error {
	release, err := m.change(ctx)
	if err != nil {
		return err
	}
	defer release()
	var old []*proc
	var slots []*slot
	if err := m.do(func() {
		m.generation++
		slots = slices.Clone(m.slots)
		for p := range m.procs {
			m.drain(p, true)
			old = append(old, p)
		}
		for _, s := range slots {
			s.calm()
		}
	}); err != nil {
		return err
	}
	for _, p := range old {
		<-p.done
	}
	for _, s := range slots {
		if err := m.replace(ctx, s, nil); err != nil {
			_ = m.do(func() { m.failed(s, err.Error()) })
			return err
		}
		_ = m.do(func() { s.restarts++ })
	}
	return nil
}

// Scale changes how many workers there are, and returns when new ones are ready and surplus ones gone. When a new one
// does not get ready, it and those after it are not added, and the error says why.
func (m *Master) Scale(ctx context.Context, count int) error {
	if m.Here != nil && count != 1 {
		return errForkOne
	}
	if count < 1 || count > MaxWorkers {
		return fmt.Errorf("workers: %d is not between 1 and %d", count, MaxWorkers)
	}
	release, err := m.change(ctx)
	if err != nil {
		return err
	}
	defer release()
	var surplus []*proc
	have := 0
	if err := m.do(func() {
		if have = len(m.slots); have > count {
			for _, s := range m.slots[count:] {
				s.calm()
				s.keep(nil)
				if s.current != nil {
					m.drain(s.current, true)
					surplus = append(surplus, s.current)
				}
			}
			m.slots = m.slots[:count]
		}
		m.Count = count
	}); err != nil {
		return err
	}
	for n := have + 1; n <= count; n++ {
		s := &slot{number: n}
		if err := m.do(func() { m.slots = append(m.slots, s) }); err != nil {
			return err
		}
		if err := m.replace(ctx, s, nil); err != nil {
			_ = m.do(func() {
				s.calm()
				m.slots = slices.DeleteFunc(m.slots, func(o *slot) bool { return o == s })
				m.Count = len(m.slots)
			})
			return err
		}
	}
	for _, p := range surplus {
		<-p.done
	}
	return nil
}

// totals adds up the counters of all workers, dead ones included.
func (m *Master) totals() map[string]float64 {
	all := maps.Clone(m.retired)
	for p := range m.procs {
		for series, n := range p.counters {
			all[series] += n
		}
	}
	return all
}

// WorkerStatus is one process of a server.
type WorkerStatus struct {
	Worker     int       `json:"worker"`
	Pid        int       `json:"pid"`    // 0: none
	Status     string    `json:"status"` // starting, online, draining, backoff or errored
	Since      time.Time `json:"since"`  // when the process was started
	Restarts   int       `json:"restarts"`
	Generation int       `json:"generation"`
	Requests   int64     `json:"requests"`        // answered by this process
	Cause      string    `json:"cause,omitempty"` // why its predecessor died
}

// Workers lists the processes, by slot; those that drain come last.
func (m *Master) Workers() []WorkerStatus {
	var all []WorkerStatus
	_ = m.do(func() {
		one := func(p *proc, s *slot) {
			w := WorkerStatus{Worker: p.slot, Pid: p.pid(), Status: "starting", Since: p.started, Generation: p.generation, Requests: p.requests}
			switch {
			case p.draining:
				w.Status = "draining"
			case p.ready:
				w.Status = "online"
			}
			if s != nil {
				w.Restarts, w.Cause = s.restarts, s.cause
			}
			all = append(all, w)
		}
		listed := map[*proc]bool{}
		for _, s := range m.slots {
			if s.current != nil {
				one(s.current, s)
			} else {
				status := "backoff"
				if s.errored {
					status = "errored"
				}
				all = append(all, WorkerStatus{Worker: s.number, Status: status, Restarts: s.restarts, Generation: m.generation, Cause: s.cause})
			}
			if s.next != nil {
				one(s.next, nil)
			}
			listed[s.current], listed[s.next] = true, true
		}
		for p := range m.procs {
			if !listed[p] {
				one(p, nil)
			}
		}
	})
	return all
}
