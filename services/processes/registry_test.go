package processes

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"balanza/services/store"
)

// memory implements the records and the clock of a Store, for several registries.
type memory struct {
	store.Store
	mu      sync.Mutex
	down    bool
	records map[string]store.Process
	writes  int
	reads   int
	counts  int
	gate    chan struct{} // when set, Processes waits for it
}

func newMemory() *memory { return &memory{records: make(map[string]store.Process)} }

func (m *memory) call(f func()) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return store.ErrUnavailable
	}
	f()
	return nil
}

func (m *memory) Now(context.Context) (now time.Time, err error) {
	err = m.call(func() { now = time.Now() })
	return now, err
}

func (m *memory) PutProcess(_ context.Context, p store.Process) error {
	if err := p.Check(); err != nil {
		return err
	}
	return m.call(func() { m.records[p.ID] = p; m.writes++ })
}

func (m *memory) Processes(_ context.Context, since time.Time) (all []store.Process, err error) {
	if m.gate != nil {
		<-m.gate
	}
	err = m.call(func() {
		m.reads++
		for _, p := range m.records {
			if p.Expires.After(since) {
				all = append(all, p)
			}
		}
	})
	return all, err
}

func (m *memory) CountProcesses(_ context.Context, now time.Time) (live, panels int, err error) {
	err = m.call(func() {
		m.counts++
		for _, p := range m.records {
			if p.Expires.After(now) {
				live++
				panels += p.Panels
			}
		}
	})
	return live, panels, err
}

// take returns how many writes, reads and counts there were since the last call.
func (m *memory) take() (writes, reads, counts int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	writes, reads, counts = m.writes, m.reads, m.counts
	m.writes, m.reads, m.counts = 0, 0, 0
	return writes, reads, counts
}

// process is a Source whose numbers a test sets, and its registry.
type process struct {
	*Registry
	mu     sync.Mutex
	sample Sample
	lists  []List
	end    func() // as the end of the program: it returns when Run has
}

func (p *process) Bounds() []float64 { return []float64{0.001, 0.01, 0.1} }

func (p *process) Sample() Sample {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sample
	if s.Buckets == nil {
		s.Buckets = make([]int64, 4)
	}
	return s
}

func (p *process) Show(l List) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lists = append(p.lists, l)
}

func (p *process) set(s Sample) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sample = s
}

// shown returns the lists that were shown since the last call.
func (p *process) shown() []List {
	p.mu.Lock()
	defer p.mu.Unlock()
	lists := p.lists
	p.lists = nil
	return lists
}

// startProcess runs a registry until the test ends, or until end is called. A killed one writes nothing at its end.
func startProcess(t *testing.T, m *memory, self store.Process) *process {
	t.Helper()
	self.Started = time.Now()
	p := &process{Registry: New(m, store.NewClock(m, slog.New(slog.DiscardHandler)), self)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { _ = p.Run(ctx, p); close(ended) }()
	p.end = func() { cancel(); <-ended }
	t.Cleanup(p.end)
	return p
}

// record returns the record of a process.
func (m *memory) record(p *process) store.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.records[p.self.ID]
}

// An idle process writes at most 0.3 times a second, and a panel anywhere has all write every second within five.
func TestWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		one, other := startProcess(t, m, store.Process{PID: 1}), startProcess(t, m, store.Process{PID: 2})
		time.Sleep(10 * time.Second)
		if one.Live() != 2 || other.Live() != 2 {
			t.Errorf("%d and %d live processes, want 2", one.Live(), other.Live())
		}
		m.take()
		time.Sleep(time.Minute)
		if writes, reads, counts := m.take(); writes > 36 || writes < 22 || reads > 0 || counts > 26 {
			t.Errorf("two idle processes: %d writes, %d reads and %d counts in a minute", writes, reads, counts)
		}
		if got := m.record(one).Interval; got != restInterval {
			t.Errorf("interval %v without a panel", got)
		}

		one.set(Sample{Panels: 1})
		one.Update()
		synctest.Wait()
		if lists := one.shown(); len(lists) != 1 || len(lists[0].Processes) != 2 {
			t.Errorf("at the opening of a panel: %v", lists)
		}
		time.Sleep(7 * time.Second)
		m.take()
		one.shown()
		time.Sleep(time.Minute)
		if writes, reads, counts := m.take(); writes < 118 || writes > 122 || reads < 59 || reads > 61 || counts > 30 {
			t.Errorf("two processes and a panel: %d writes, %d reads and %d counts in a minute", writes, reads, counts)
		}
		if n := len(one.shown()); n < 59 || n > 61 || len(other.shown()) > 0 {
			t.Errorf("%d lists in a minute", n)
		}
		for _, p := range []*process{one, other} {
			if got := m.record(p).Interval; got != panelInterval {
				t.Errorf("interval %v with a panel", got)
			}
		}

		one.set(Sample{})
		one.Update()
		time.Sleep(13 * time.Second)
		m.take()
		time.Sleep(time.Minute)
		if writes, reads, _ := m.take(); writes > 36 || reads > 0 {
			t.Errorf("after the panel: %d writes and %d reads in a minute", writes, reads)
		}
	})
}

// A record says at once that its process drains, and at the end that it has ended, until it is forgotten.
func TestStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		watcher := startProcess(t, m, store.Process{Service: "a", PID: 1})
		p := startProcess(t, m, store.Process{Service: "b", Server: "s", Host: "h", Worker: 2, PID: 7, Restarts: 3, Version: "v"})
		list := func() Process {
			t.Helper()
			time.Sleep(listAge)
			l, err := watcher.List(t.Context())
			if err != nil || len(l.Processes) != 2 {
				t.Fatalf("%v, %v", l.Processes, err)
			}
			return l.Processes[1]
		}
		want := func(state State, cause string) {
			t.Helper()
			if got := list(); got.State != state || got.Cause != cause {
				t.Errorf("%s, %q, want %s, %q", got.State, got.Cause, state, cause)
			}
		}
		time.Sleep(time.Second)
		want(Online, "")
		if got := list(); got.PID != 7 || got.Restarts != 3 || got.Worker != 2 || got.Version != "v" || got.Interval != 5 ||
			got.CPU < 0 || got.Memory < 0 || got.Started.After(got.Seen) {
			t.Errorf("%+v", got)
		}
		p.Drain("reload")
		p.Drain("stop")
		want(Draining, "reload")
		p.end()
		want(Ended, "reload")
		if time.Sleep(12 * time.Second); watcher.Live() != 1 { // it counts with a record of its own, one or two later
			t.Errorf("%d live processes", watcher.Live())
		}
		time.Sleep(store.EndedKept - 16*time.Second)
		want(Ended, "reload")
		time.Sleep(10 * time.Second)
		if l, err := watcher.List(t.Context()); err != nil || len(l.Processes) != 1 {
			t.Errorf("after ten minutes: %v, %v", l.Processes, err)
		}
	})
}

// Records go on through an outage of the store, however long. After it no process is shown as ended that has not.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		one, other := startProcess(t, m, store.Process{Server: "1"}), startProcess(t, m, store.Process{Server: "2"})
		one.set(Sample{Panels: 1})
		time.Sleep(10 * time.Second)
		m.mu.Lock()
		m.down = true
		m.mu.Unlock()
		one.shown()
		time.Sleep(time.Minute)
		if lists := one.shown(); len(lists) > 0 {
			t.Errorf("%d lists during an outage", len(lists))
		}
		if _, err := one.List(t.Context()); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("List: %v", err)
		}
		m.mu.Lock()
		m.down = false
		m.mu.Unlock()
		time.Sleep(10 * time.Second)
		lists := one.shown()
		if len(lists) < 8 {
			t.Fatalf("%d lists in 10 s", len(lists))
		}
		for _, l := range lists {
			for _, p := range l.Processes {
				if p.State != Online {
					t.Errorf("%s is %s %v after the outage", p.Server, p.State, l.Now.Sub(lists[0].Now))
				}
			}
		}
		if one.Live() != 2 || other.Live() != 2 {
			t.Errorf("%d and %d live", one.Live(), other.Live())
		}
		m.mu.Lock()
		m.down = true
		m.mu.Unlock()
		began := time.Now()
		other.end()
		if took := time.Since(began); took > endTimeout {
			t.Errorf("the end took %v", took)
		}
	})
}

// Calls at the same time share one reading, and a call that waits for another one's honours its context.
func TestSharedReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.gate = make(chan struct{})
		p := &process{Registry: New(m, store.NewClock(m, slog.New(slog.DiscardHandler)), store.Process{})}
		var calls sync.WaitGroup
		for range 50 {
			calls.Go(func() {
				if _, err := p.List(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.List(ctx); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("List whose context has ended: %v", err)
		}
		close(m.gate)
		calls.Wait()
		if _, reads, _ := m.take(); reads != 1 {
			t.Errorf("%d readings", reads)
		}
		time.Sleep(listAge)
		if _, err := p.List(t.Context()); err != nil {
			t.Error(err)
		}
		if _, reads, _ := m.take(); reads != 1 {
			t.Errorf("%d readings after %v", reads, listAge)
		}
	})
}

// Texts of any length and content become ones that the store takes.
func TestTextsAreCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		hostile := "a\x00\xff" + strings.Repeat("Ñ", 1000)
		p := startProcess(t, m, store.Process{
			Service: hostile, Server: hostile, Mode: hostile, Host: hostile, Machine: hostile, Version: hostile,
			Predecessor: store.Predecessor{Cause: hostile},
		})
		p.Drain(hostile)
		synctest.Wait()
		got := m.record(p)
		for _, text := range []string{
			got.Service, got.Server, got.Mode, got.Host, got.Machine, got.Version, got.Cause, got.Predecessor.Cause,
		} {
			if !strings.HasPrefix(text, "a\ufffdÑÑ") || len(text) < store.MaxProcessText-1 {
				t.Errorf("%q", text)
			}
		}
	})
}
