package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/joho/godotenv"
	"github.com/kelseyhightower/envconfig"

	"balanza/services/workers"
)

// settings are what the environment says; flags are laid over them. .env.example describes each.
type settings struct {
	Host      string `desc:"interface to listen on"`
	Port      port   `default:"8080"`
	Mode      mode   `default:"FORK"`
	Instances instances
	Name      string

	Home      string
	Data      string
	LogFormat string `split_words:"true" default:"auto"`
	LogSize   int    `split_words:"true" default:"10"`
	LogFiles  int    `split_words:"true" default:"5"`

	DrainDelay       time.Duration `split_words:"true"`
	DrainTimeout     time.Duration `split_words:"true" default:"10s"`
	ReadyTimeout     time.Duration `split_words:"true" default:"10s"`
	HeartbeatTimeout time.Duration `split_words:"true" default:"5s"`
	StopTimeout      time.Duration `split_words:"true" default:"30s"`
	MaxMemory        size          `split_words:"true"`
	MaxRequests      int64         `split_words:"true"`
	TrustedProxies   []string      `split_words:"true"`

	WatchPoll pollEvery `envconfig:"WATCH_POLL"`

	MongoURI          string `envconfig:"MONGODB_URI"`
	MongoPasswordFile string `envconfig:"MONGODB_PASSWORD_FILE"`
}

const prefix = "BALANZA"

// loadSettings reads .env, where there is one, and the environment, which wins.
func loadSettings() (s settings, err error) {
	if err := godotenv.Load(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf(".env: %w", err)
	}
	if err := fromEnvironment(prefix, &s); err != nil {
		return s, err
	}
	if s.Home == "" {
		s.Home = defaultHome()
	}
	if s.Home, err = filepath.Abs(s.Home); err != nil {
		return s, err
	}
	if s.Data == "" {
		s.Data = filepath.Join(s.Home, "data")
	}
	if s.Data, err = filepath.Abs(s.Data); err != nil {
		return s, err
	}
	switch s.LogFormat {
	case "auto", "text", "json":
	default:
		return s, fmt.Errorf("BALANZA_LOG_FORMAT: %q is not auto, text or json", s.LogFormat)
	}
	return s, nil
}

// fromEnvironment fills a struct by envconfig, with errors of one line that name the variable.
func fromEnvironment(prefix string, into any) error {
	err := envconfig.Process(prefix, into)
	if e, ok := errors.AsType[*envconfig.ParseError](err); ok {
		return fmt.Errorf("%s: %q: %w", e.KeyName, e.Value, e.Err)
	}
	return err
}

// defaultHome is where state goes that outlives a process: the user's state folder, or, without one (a container), a
// folder for this user among the temporary files.
func defaultHome() string {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "balanza")
	}
	if dir, err := os.UserHomeDir(); err == nil && dir != "/" {
		return filepath.Join(dir, ".local", "state", "balanza")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("balanza-%d", os.Getuid()))
}

// run is the folder of the control sockets, logs that of the log files.
func (s *settings) runDir() string  { return filepath.Join(s.Home, "run") }
func (s *settings) logsDir() string { return filepath.Join(s.Home, "logs") }

func (s *settings) limits() workers.Limits {
	return workers.Limits{
		ReadyTimeout: s.ReadyTimeout, HeartbeatTimeout: s.HeartbeatTimeout,
		StopTimeout: max(s.StopTimeout, s.DrainDelay+s.DrainTimeout+5*time.Second),
		MaxMemory:   int64(s.MaxMemory), MaxRequests: s.MaxRequests,
	}
}

// serveFlags defines the flags of `balanza` itself over the settings, in every spelling that the course's commands use.
func serveFlags(f *flag.FlagSet, s *settings) {
	several := func(v flag.Value, usage string, names ...string) {
		for _, name := range names {
			f.Var(v, name, usage)
		}
	}
	several(&s.Port, "port to listen on; 0: one that is free", "p", "port")
	several(&s.Mode, "FORK (one process) or CLUSTER (a master and its workers)", "m", "mode", "modo")
	several(&s.Instances, "how many workers in CLUSTER, or max: one for each CPU", "i", "instances")
	f.StringVar(&s.Name, "name", s.Name, "what to call the server; else its mode and port")
	f.StringVar(&s.Host, "host", s.Host, "interface to listen on; else all")
	f.Var(&s.MaxMemory, "max-memory", "replace a worker above this much resident memory, like 300M")
	f.Int64Var(&s.MaxRequests, "max-requests", s.MaxRequests, "replace a worker after about this many requests")
}

// name is what the server is called, given or not.
func (s *settings) name() string {
	if s.Name != "" {
		return s.Name
	}
	return fmt.Sprintf("%s-%d", strings.ToLower(string(s.Mode)), s.Port)
}

// label is the value of X-Balanza-Server, one for each server wherever it runs.
func (s *settings) label(bound int) string {
	if s.Name != "" {
		return s.Name
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return net.JoinHostPort(host, strconv.Itoa(bound))
}

// workers is how many workers the server has: all CPUs that the process may use, by affinity and by cgroup quota, unless
// told otherwise.
func (s *settings) workers() int {
	switch {
	case s.Mode == forkMode:
		return 1
	case s.Instances > 0:
		return int(s.Instances)
	}
	return min(runtime.GOMAXPROCS(0), workers.MaxWorkers)
}

// mongoURI is the URI with the password of the file in it, if one is named.
func (s *settings) mongoURI() (string, error) {
	if s.MongoURI == "" || s.MongoPasswordFile == "" {
		return s.MongoURI, nil
	}
	password, err := os.ReadFile(s.MongoPasswordFile)
	if err != nil {
		return "", fmt.Errorf("MONGODB_PASSWORD_FILE: %w", err)
	}
	return withPassword(s.MongoURI, string(bytes.TrimSpace(password))), nil
}

type port int

func (p *port) String() string { return strconv.Itoa(int(*p)) }

// Set takes a decimal number.
func (p *port) Set(v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 || n > 65535 {
		return errors.New("a port is a whole number from 1 to 65535, or 0 for a free one")
	}
	*p = port(n)
	return nil
}

func (p *port) Decode(v string) error { return p.Set(v) }

type mode string

const (
	forkMode    mode = "FORK"
	clusterMode mode = "CLUSTER"
)

func (m *mode) String() string { return string(*m) }

// Set takes FORK and CLUSTER in any case.
func (m *mode) Set(v string) error {
	switch u := mode(strings.ToUpper(v)); u {
	case forkMode, clusterMode:
		*m = u
		return nil
	}
	return errors.New("the mode is FORK or CLUSTER")
}

func (m *mode) Decode(v string) error { return m.Set(v) }

// instances is a number of workers; 0 is one for each CPU.
type instances int

func (i *instances) String() string { return strconv.Itoa(int(*i)) }

// Set takes a number or max.
func (i *instances) Set(v string) error {
	n, err := strconv.Atoi(v)
	switch {
	case strings.EqualFold(v, "max"):
		n = 0
	case err != nil || n < 1 || n > workers.MaxWorkers:
		return fmt.Errorf("the number of workers is from 1 to %d, or max", workers.MaxWorkers)
	}
	*i = instances(n)
	return nil
}

func (i *instances) Decode(v string) error { return i.Set(v) }

// size is a number of bytes.
type size int64

func (z *size) String() string { return strconv.FormatInt(int64(*z), 10) }

// Set takes bytes, or a number with K, M or G (1024, its square, its cube).
func (z *size) Set(v string) error {
	number, unit := strings.ToUpper(strings.TrimSuffix(strings.ToUpper(v), "B")), int64(1)
	if i := len(number) - 1; i > 0 {
		if p := strings.IndexByte("KMG", number[i]); p >= 0 {
			number, unit = number[:i], 1<<(10*(p+1))
		}
	}
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil && unit == 1 {
		n, err = strconv.ParseInt(number, 10, 64)
	}
	if err != nil || n < 0 {
		return errors.New("a size is a number of bytes, or one with K, M or G, like 300M")
	}
	*z = size(n * unit)
	return nil
}

func (z *size) Decode(v string) error { return z.Set(v) }

// pollEvery is how often to look for changes; 0: the kernel tells.
type pollEvery time.Duration

// Decode takes a duration, true or false.
func (e *pollEvery) Decode(v string) error {
	if yes, err := strconv.ParseBool(v); err == nil {
		*e = 0
		if yes {
			*e = pollEvery(standardPoll)
		}
		return nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		return errors.New("true, or how often to look, like 2s")
	}
	*e = pollEvery(d)
	return nil
}
