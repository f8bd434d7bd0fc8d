// Package control is the control socket of a running server: HTTP with JSON over a Unix socket, NAME.sock in a folder
// that only the user can read. Serve answers on it; a Client gives orders; List finds every server of a folder.
package control

import (
	"context"
	"encoding/json"
	"time"
)

// Orders that a server takes.
const (
	Reload  = "reload"  // replace the workers one at a time by ones of the code that is installed now
	Restart = "restart" // end all workers and start new ones; start a stopped server
	Scale   = "scale"   // change the number of workers to a count
	Start   = "start"   // start a stopped server; one that runs stays as it is
	Stop    = "stop"    // drain the workers; a stopped server stays as it is
	// Update replaces the workers one at a time by ones that are started in another way, and changes their number. It has a
	// method of its own, since it carries a change.
	Update = "update"
	Delete = "delete" // stop, and end the server's process where it is the last server in it
)

var orders = []string{Reload, Restart, Scale, Start, Stop, Delete}

// Server is what a control socket gives access to.
type Server interface {
	Status() Status
	// Order returns when the order is carried out, or with the reason why it cannot be. count is for Scale.
	Order(ctx context.Context, order string, count int) error
	// Update is Order for Update. The server alone knows what a change is.
	Update(ctx context.Context, change json.RawMessage) error
}

// Status is a server as `ps` shows it. Its JSON is the answer of GET /status.
type Status struct {
	Name      string         `json:"name"`
	Mode      string         `json:"mode"` // FORK, CLUSTER or EDGE
	Host      string         `json:"host"` // interface it listens on; empty: all
	Port      int            `json:"port"`
	Pid       int            `json:"pid"`    // of the master
	Status    string         `json:"status"` // online, starting, stopping, stopped, errored or unresponsive
	Since     time.Time      `json:"since"`  // of the last start
	Uptime    float64        `json:"uptime"` // seconds since then by the monotonic clock; 0: it does not run
	Restarts  int            `json:"restarts"`
	Instances int            `json:"instances"` // configured number of workers
	Cause     string         `json:"cause,omitempty"`
	Degraded  string         `json:"degraded,omitempty"` // that of the first worker that has one
	Workers   []WorkerStatus `json:"workers"`
	Metadata
}

// WorkerStatus is one process of a server.
type WorkerStatus struct {
	Worker     int             `json:"worker"` // 1, 2 …
	Pid        int             `json:"pid"`    // 0: there is no process at the moment
	Status     string          `json:"status"` // starting, online, draining, backoff or errored
	Since      time.Time       `json:"since"`  // of the process's start
	Uptime     float64         `json:"uptime"` // seconds since then by the monotonic clock; 0: there is no process
	Restarts   int             `json:"restarts"`
	Generation int             `json:"generation"`         // how often the server's code was loaded, this time included
	Requests   int64           `json:"requests"`           // answered by this process
	Cause      string          `json:"cause,omitempty"`    // why the previous process ended
	Degraded   string          `json:"degraded,omitempty"` // what keeps the process, which serves, from a part of its work
	Details    json.RawMessage `json:"details,omitempty"`  // what the process reports of itself beyond that
	// Processes are the pids of a program, of all that it has started and of its small parent; empty for a worker that is
	// one process.
	Processes []int `json:"processes,omitempty"`
}

// Metadata is what a server tells its clients about itself beyond its state. The server does not interpret it.
type Metadata struct {
	Watching bool     `json:"watching"`
	LogFile  string   `json:"logFile,omitempty"`
	Command  []string `json:"command"` // that started it: the program and its arguments
	Dir      string   `json:"dir"`     // working directory of that command
	Fleet    string   `json:"fleet,omitempty"`
	Spec     string   `json:"spec,omitempty"` // a digest of how it is started, but for the number of workers
	Origin   *Origin  `json:"origin,omitempty"`
}

// Origin is the environment that a server was started in, as far as it may be told: what starting it again needs besides
// its command.
type Origin struct {
	Environment map[string]string `json:"environment,omitempty"` // without secrets
	Unsaved     []string          `json:"unsaved,omitempty"`     // names of the variables whose values may be secrets
	// Stores are the variables that named a database, with its address, without users and passwords; empty where that is
	// not known. They may have come from .env.
	Stores map[string]string `json:"stores,omitempty"`
}
