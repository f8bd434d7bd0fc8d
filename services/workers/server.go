package workers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Spec says what a server is: a name, an address, and what its master runs. Config.Listener is the server's own affair.
type Spec struct {
	Config
	Mode string // FORK or CLUSTER, for people
	Host string // interface to bind; empty: all
	Port int    // 1 to 65535; 0: one that is free
	Home string // folder of the control sockets

	// Stay: the server outlives an order to stop, and can be started again.
	Stay bool
	// Facts are what a client of the control socket is told beyond the state.
	Facts Facts
}

// Facts describe a server to the client of its control socket.
type Facts struct {
	Watching bool     `json:"watching"`
	LogFile  string   `json:"logFile,omitempty"`
	Command  []string `json:"command"` // what started it: the program and its arguments
	Dir      string   `json:"dir"`     // where
	Fleet    string   `json:"fleet,omitempty"`
}

// Status is a server as `ps` shows it.
type Status struct {
	Name      string         `json:"name"`
	Mode      string         `json:"mode"`
	Host      string         `json:"host"`
	Port      int            `json:"port"`
	Pid       int            `json:"pid"`    // of the master
	Status    string         `json:"status"` // online, starting, stopping, stopped, errored or unresponsive
	Since     time.Time      `json:"since"`  // when it was started
	Restarts  int            `json:"restarts"`
	Instances int            `json:"instances"` // how many workers it is meant to have
	Cause     string         `json:"cause,omitempty"`
	Workers   []WorkerStatus `json:"workers"`
	Facts
}

// Server is a master with a name, a port and a control socket.
type Server struct {
	spec   Spec
	orders chan order

	mu       sync.Mutex
	master   *Master // nil while stopped
	ending   bool    // the master was told to stop
	listener *net.TCPListener
	stop     context.CancelFunc
	started  time.Time
	cause    error // why it is errored
}

// order is what moves a server between running and stopped; done is closed when it has.
type order struct {
	start  bool
	delete bool
	done   chan error
}

var names = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// CheckName says what is wrong with a server's name; nil when nothing is.
func CheckName(name string) error {
	if !names.MatchString(name) {
		return fmt.Errorf("name %q: use 1 to 64 letters, digits, dots, hyphens and underscores", name)
	}
	return nil
}

// NewServer binds the port, so that what is wrong with the address shows at once.
func NewServer(spec Spec) (*Server, error) {
	if err := CheckName(spec.Name); err != nil {
		return nil, err
	}
	s := &Server{spec: spec, orders: make(chan order)}
	if err := s.bind(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Server) bind() error {
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // its sockets take no filter: see quiet
	ln, err := plain.Listen(context.Background(), "tcp", net.JoinHostPort(s.spec.Host, strconv.Itoa(s.spec.Port)))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("port %d is taken by another process", s.spec.Port)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("port %d: not allowed to listen on it", s.spec.Port)
	case err != nil:
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener = ln.(*net.TCPListener)
	s.spec.Port = s.listener.Addr().(*net.TCPAddr).Port
	return nil
}

// Port is the port that is bound.
func (s *Server) Port() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spec.Port
}

// Run serves until ctx ends, or until the server is told to stop or delete itself. It returns why it could not go on.
func (s *Server) Run(ctx context.Context) error {
	control, err := s.openControl()
	if err != nil {
		s.unbind()
		return err
	}
	defer control.Close()
	for {
		err := s.live(ctx)
		if ctx.Err() != nil || !s.spec.Stay {
			return err
		}
		s.mu.Lock()
		s.cause = err
		s.mu.Unlock()
		if err != nil {
			s.spec.Logger.Error("server ended", "server", s.spec.Name, "cause", err)
		}
		if again := s.rest(ctx); !again {
			return nil
		}
	}
}

// live runs one master.
func (s *Server) live(ctx context.Context) error {
	defer s.unbind()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s.mu.Lock()
	config := s.spec.Config
	config.Listener = s.listener
	s.mu.Unlock()
	m, err := New(config)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.master, s.stop, s.ending, s.started, s.cause = m, stop, false, time.Now(), nil
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.master = nil
		s.mu.Unlock()
	}()
	return m.Run(ctx)
}

// rest waits, stopped, for the order to start; false when there will be none.
func (s *Server) rest(ctx context.Context) (again bool) {
	for {
		select {
		case <-ctx.Done():
			return false
		case o := <-s.orders:
			if !o.start {
				o.done <- nil
				if o.delete {
					return false
				}
				continue
			}
			err := s.bind()
			o.done <- err
			if err == nil {
				return true
			}
		}
	}
}

func (s *Server) unbind() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil {
		s.listener.Close()
		s.listener = nil
	}
}

// running returns the master, or the error that there is none.
func (s *Server) running() (*Master, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.master == nil {
		return nil, fmt.Errorf("%s is stopped", s.spec.Name)
	}
	return s.master, nil
}

// Reload, Restart and Scale are the master's.
func (s *Server) Reload(ctx context.Context) error {
	m, err := s.running()
	if err != nil {
		return err
	}
	return m.Reload(ctx)
}

// Restart starts a server that is stopped.
func (s *Server) Restart(ctx context.Context) error {
	m, err := s.running()
	if err != nil {
		return s.Start()
	}
	return m.Restart(ctx)
}

// Scale is the master's.
func (s *Server) Scale(ctx context.Context, count int) error {
	m, err := s.running()
	if err != nil {
		return err
	}
	if err := m.Scale(ctx, count); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spec.Count = count
	return nil
}

// Start starts a server that is stopped; one that runs stays as it is.
func (s *Server) Start() error { return s.give(order{start: true}) }

// Stop drains the server and returns when it is down.
func (s *Server) Stop() error { return s.give(order{}) }

// Delete stops the server and ends Run.
func (s *Server) Delete() error { return s.give(order{delete: true}) }

func (s *Server) give(o order) error {
	s.mu.Lock()
	m, stop := s.master, s.stop
	s.ending = s.ending || !o.start
	ending := s.ending
	s.mu.Unlock()
	if m != nil {
		if !ending {
			return nil
		}
		stop()
		<-m.over
		if !s.spec.Stay {
			return nil
		}
	}
	o.done = make(chan error, 1)
	select {
	case s.orders <- o:
		return <-o.done
	case <-time.After(5 * time.Second):
		return fmt.Errorf("%s is ending", s.spec.Name)
	}
}

// Kill ends a server that drains too slowly, at once.
func (s *Server) Kill() {
	if m, err := s.running(); err == nil {
		m.Kill()
	}
}

// Status tells how the server is.
func (s *Server) Status() Status {
	s.mu.Lock()
	m, st := s.master, Status{
		Name: s.spec.Name, Mode: s.spec.Mode, Host: s.spec.Host, Port: s.spec.Port, Pid: os.Getpid(),
		Status: "stopped", Since: s.started, Instances: s.spec.Count, Facts: s.spec.Facts,
	}
	if s.cause != nil {
		st.Status, st.Cause = "errored", s.cause.Error()
	}
	s.mu.Unlock()
	if m == nil {
		return st
	}
	var stopping bool
	st.Workers, stopping = m.Workers()
	st.Status = "starting"
	for _, w := range st.Workers {
		st.Restarts += w.Restarts
		if w.Status == "online" {
			st.Status = "online"
		}
		if w.Cause != "" && st.Cause == "" {
			st.Cause = w.Cause
		}
	}
	if stopping {
		st.Status = "stopping"
	}
	return st
}
