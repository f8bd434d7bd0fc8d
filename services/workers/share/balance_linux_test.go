package share

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// siblings are processes that share a page, each with a mapping of its own.
type siblings struct {
	now      time.Time
	pages    []*page
	balances []*balancer
	answers  []int
}

func newSiblings(t *testing.T, n int) *siblings {
	t.Helper()
	f, first, err := newPage()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { first.close(); f.Close() })
	s := &siblings{now: time.Now(), answers: make([]int, n)}
	for i := range n {
		p, err := openPage(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.close)
		p.join(i)
		s.pages, s.balances = append(s.pages, p), append(s.balances, newBalancer(p, i))
	}
	return s
}

// accept returns the process that accepts a new connection: one that is not ahead.
func (s *siblings) accept() int {
	for _, i := range rand.Perm(len(s.pages)) {
		p := s.pages[i]
		p.level(s.now)
		if !p.ahead(i) {
			p.rows[i].answers.Add(1)
			return i
		}
	}
	panic("every process is ahead of another one")
}

// connection is one that a process has accepted.
type connection struct{ process, requests int }

// answer answers a request of a connection, and reports whether the connection ends.
func (s *siblings) answer(c *connection) bool {
	c.requests++
	s.answers[c.process]++
	n := 1
	if c.requests == 1 { // counted when it was accepted
		n = 0
	}
	return s.balances[c.process].answered(n, s.now) && n > 0
}

// Whoever pools connections, and however many requests are sent at a time: each 200 are shared evenly.
func TestRequestsAreEven(t *testing.T) {
	for _, processes := range []int{2, 4} {
		for _, clients := range []int{1, 4, 16} {
			for _, pool := range []bool{false, true} {
				t.Run(fmt.Sprint(processes, clients, pool), func(t *testing.T) {
					s := newSiblings(t, processes)
					var idle []*connection // of the pool: the last used is the next
					flying := make([]*connection, clients)
					for request := range 2000 {
						s.now = s.now.Add(125 * time.Microsecond)
						if request%200 == 0 {
							clear(s.answers)
						}
						next := &flying[request%clients]
						if c := *next; c != nil && s.answer(c) {
							*next = nil
						} else if c != nil && pool {
							idle, *next = append(idle, c), nil
						}
						if n := len(idle); *next == nil && n > 0 {
							idle, *next = idle[:n-1], idle[n-1]
						}
						if *next == nil {
							*next = &connection{process: s.accept()}
						}
						if most := slices.Max(s.answers); request%200 == 199 && 4*most*processes > 5*200 {
							t.Errorf("requests %d to %d: %d", request-199, request, s.answers)
						}
					}
				})
			}
		}
	}
}

// The kernel lets one busy process run for some milliseconds, and then the other: no connection ends for that. One that
// answers far more than the other all the time is relieved.
func TestBusyProcesses(t *testing.T) {
	for _, c := range []struct {
		slices [2]int // answers of each process while it runs, for 3 ms
		ends   bool
	}{{[2]int{225, 225}, false}, {[2]int{240, 200}, false}, {[2]int{400, 50}, true}} {
		s := newSiblings(t, 2)
		ended := 0
		for slice := range 400 {
			process := slice % 2
			for range c.slices[process] {
				s.now = s.now.Add(3 * time.Millisecond / time.Duration(c.slices[process]))
				if s.balances[process].answered(1, s.now) && slice > 40 {
					ended++
				}
			}
		}
		if (ended > 0) != c.ends {
			t.Errorf("%d answers: %d connections ended", c.slices, ended)
		}
	}
}

// Half of a lead is forgotten in a window, but not the last answers of it.
func TestLevel(t *testing.T) {
	s := newSiblings(t, 2)
	p := s.pages[0]
	p.level(s.now)
	lead := func() int64 { return p.rows[0].answers.Load() - p.rows[1].answers.Load() }
	p.rows[0].answers.Store(1000 + lasting)
	s.pages[1].level(s.now.Add(window / 2))
	if lead() != 1000+lasting {
		t.Errorf("before a window has passed: a lead of %d", lead())
	}
	s.pages[1].level(s.now.Add(window))
	if lead() != 500+lasting {
		t.Errorf("after a window: a lead of %d", lead())
	}
	p.level(s.now.Add(time.Hour))
	if lead() != lasting {
		t.Errorf("after an hour: a lead of %d", lead())
	}
}

// A process that draws is ahead meanwhile, and afterwards as if it had answered requests.
func TestDraw(t *testing.T) {
	s := newSiblings(t, 2)
	ended := s.balances[0].draw(20 * drawsPerAnswer)
	for range 3 {
		if n := s.accept(); n != 1 {
			t.Errorf("process %d accepts", n)
		}
	}
	if !s.balances[0].answered(1, s.now) || s.balances[1].answered(1, s.now) {
		t.Error("the process that draws is not ahead, or the other one is")
	}
	ended()
	if r := &s.pages[1].rows[0]; r.active.Load() != 0 || r.answers.Load() != 21 {
		t.Errorf("%d in progress, %d answers", r.active.Load(), r.answers.Load())
	}
	s.balances[0].draw(20 * drawsPerAnswer) // and is killed
	s.pages[0].join(0)
	if r := &s.pages[1].rows[0]; r.active.Load() != 0 {
		t.Errorf("%d in progress of a process that has ended", r.active.Load())
	}
}

// Nothing is left to a process that did not accept for a moment, which gets longer until it does something.
func TestSkip(t *testing.T) {
	s := newSiblings(t, 2)
	p := s.pages[0]
	p.rows[0].answers.Add(100)
	if !p.ahead(0) {
		t.Fatal("not ahead")
	}
	p.catchUp(0)
	p.rows[0].answers.Add(100)
	if p.ahead(0) || s.balances[0].answered(1, s.now) {
		t.Error("ahead of a process that accepts nothing")
	}
	for range 20 {
		p.rows[1].skip()
	}
	if until := time.Until(time.Unix(0, p.rows[1].skippedUntil.Load())); until > maxSkipTime || until < maxSkipTime/2 {
		t.Errorf("after many skips it is skipped for %v", until)
	}
	s.balances[1].answered(1, s.now)
	if !p.ahead(0) {
		t.Error("a process that answers is still skipped")
	}
}
