package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

const (
	socketSuffix = ".sock"
	lockSuffix   = ".lock"
	// maxSocketPath is the longest path of a Unix socket in bytes: 107 on Linux, 103 elsewhere.
	maxSocketPath = 103
	// lockTimeout is how long a server that starts or ends may hold its name's lock without a socket.
	lockTimeout      = 2 * time.Second
	lockPollInterval = 5 * time.Millisecond
)

func socketPath(dir, name string) string { return filepath.Join(dir, name+socketSuffix) }
func lockPath(dir, name string) string   { return filepath.Join(dir, name+lockSuffix) }

// Serve answers on the control socket of the server called name until stop is called. It creates dir (mode 0700) where
// it is missing. It fails when a server of that name runs already and when the socket's path is too long.
func Serve(dir, name string, s Server) (stop func(), err error) {
	path := socketPath(dir, name)
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("control socket %s: the path is longer than %d bytes; set BALANZA_HOME to a shorter one", path, maxSocketPath)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	// The kernel releases the lock when its holder ends, however it ends. A socket without a lock is a killed server's, a
	// lock without a socket one of a server that starts or ends.
	lock, err := acquireLock(lockPath(dir, name))
	for deadline := time.Now().Add(lockTimeout); errors.Is(err, syscall.EWOULDBLOCK) && !listens(path) && time.Now().Before(deadline); {
		time.Sleep(lockPollInterval)
		lock, err = acquireLock(lockPath(dir, name))
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("a server named %s is running already", name)
	} else if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	ln, err := listenUnix(path)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	server := &http.Server{Handler: handler(s), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(persistentListener{ln}) }()
	return func() {
		// The name is free before the clients have their answers, since one of them may start a server of that name.
		ln.Close()
		lock.Close()
		// A short grace, so that the client that ordered the end gets its answer.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
	}, nil
}

// acceptPause is the time between two attempts to accept.
const acceptPause = 50 * time.Millisecond

// persistentListener goes on after any error but its own end: used-up descriptors or memory must not leave a server without
// its control socket.
type persistentListener struct{ net.Listener }

// Accept returns the next connection, or net.ErrClosed.
func (l persistentListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err == nil || errors.Is(err, net.ErrClosed) {
			return conn, err
		}
		time.Sleep(acceptPause)
	}
}

// handler routes the requests. An order is carried out to its end even when its client disconnects.
func handler(s Server) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(s.Status())
	})
	for _, order := range orders {
		mux.HandleFunc("POST /"+order, func(w http.ResponseWriter, r *http.Request) {
			count, err := strconv.Atoi(r.FormValue("count"))
			if err != nil && order == Scale {
				err = fmt.Errorf("count: %q is not a whole number", r.FormValue("count"))
			} else {
				err = s.Order(context.WithoutCancel(r.Context()), order, count)
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusConflict)
			}
		})
	}
	mux.HandleFunc("POST /"+Update, func(w http.ResponseWriter, r *http.Request) {
		if err := s.Update(context.WithoutCancel(r.Context()), json.RawMessage(r.FormValue("change"))); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	})
	return mux
}

// acquireLock locks a file and writes this process's pid into it; EWOULDBLOCK means that another process has the lock.
func acquireLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteString(strconv.Itoa(os.Getpid()))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// listens tells whether a process listens on the socket at path.
func listens(path string) bool {
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
	}
	return !notRunning(err)
}

// listenUnix listens on a path, in place of a socket that was left there.
func listenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}
