package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/kelseyhightower/envconfig"
	"github.com/spf13/pflag"

	"balanza/services/hosts"
	"balanza/services/limits"
	"balanza/services/watch"
	"balanza/services/web"
	"balanza/services/workers"
)

// settings are those of the environment, by envconfig; flags are laid over them. .env.example describes each.
type settings struct {
	// The server.
	Host      string
	Port      port `default:"8080"`
	Mode      mode // empty: FORK, or CLUSTER where -i is given
	Instances instances
	Name      string
	Service   shortText // of its processes' records: see site.record
	Machine   shortText

	// MetricsAddress is where the master's process serves the metrics of all its servers; empty: nowhere.
	MetricsAddress address `split_words:"true"`

	// Its files: see defaultHome, openStore and openOutput. LogSize is in MiB; 0 means no log files.
	Home      string
	Data      string
	LogFormat string `split_words:"true" default:"auto"`
	LogSize   int    `split_words:"true" default:"10"`
	LogFiles  int    `split_words:"true" default:"5"`

	// Its limits: see workers.Limits and web.Config. A zero MaxMemory or MaxRequests means none.
	DrainDelay       time.Duration `split_words:"true"`
	DrainTimeout     time.Duration `split_words:"true" default:"10s"`
	ReadyTimeout     time.Duration `split_words:"true" default:"10s"`
	HeartbeatTimeout time.Duration `split_words:"true" default:"5s"`
	StopTimeout      time.Duration `split_words:"true" default:"30s"`
	MaxMemory        size          `split_words:"true"`
	MaxRequests      uint32        `split_words:"true"`
	TrustedProxies   []string      `split_words:"true"`
	ServerNames      string        `split_words:"true"`
	EdgeToken        string        `split_words:"true"`
	KeepMessages     time.Duration `split_words:"true"`
	Cookie           cookieName    `default:"balanza"`

	// What one client or one account can take.
	Limits limits.Limits `envconfig:"LIMIT"`

	// Names without the prefix are those that other programs use for the same.
	WatchPoll pollInterval `envconfig:"WATCH_POLL"`

	MongoURI          string `envconfig:"MONGODB_URI"`
	MongoPasswordFile string `envconfig:"MONGODB_PASSWORD_FILE"`

	unassigned []int // the numbers of the lines of .env that assign nothing
}

// minKeepMessages is how long the log keeps other entries, so that what is deleted is always the oldest part.
const minKeepMessages = 24 * time.Hour

// prefix is that of every variable but those that say otherwise.
const prefix = "BALANZA"

// loadSettings reads .env of the working directory, where there is one, and the environment, which wins. Paths are made
// absolute, since a server in the background must not depend on the folder that it was started in.
func loadSettings() (s settings, err error) {
	if s.unassigned, err = loadDotEnv(); err != nil {
		return s, err
	}
	s.Limits = limits.Default()
	if err := fromEnvironment(prefix, &s); err != nil {
		return s, err
	}
	if err := s.Limits.Check(); err != nil {
		return s, err
	}
	if _, err := hosts.Parse(s.ServerNames); err != nil {
		return s, fmt.Errorf("BALANZA_SERVER_NAMES: %w", err)
	}
	if err := web.CheckProxies(s.TrustedProxies); err != nil {
		return s, fmt.Errorf("BALANZA_TRUSTED_PROXIES: %w", err)
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
	if s.KeepMessages != 0 && s.KeepMessages < minKeepMessages {
		return s, errorf("BALANZA_KEEP_MESSAGES: %v is neither 0 (for ever) nor at least %v", s.KeepMessages, minKeepMessages)
	}
	if s.LogFiles < 0 || s.LogSize < 0 {
		return s, errorf("BALANZA_LOG_SIZE and BALANZA_LOG_FILES can't be negative")
	}
	switch s.LogFormat {
	case "auto", "text", "json":
	default:
		return s, errorf("BALANZA_LOG_FORMAT: %q is not auto, text or json", s.LogFormat)
	}
	return s, nil
}

// programEnv returns the environment for a program of run: that of this process without the settings of Balanza, among
// which are secrets, without what its processes tell each other (all that begins with BALANZA_), and without what a service
// manager told this process. A program that needs a variable of these names gets it by --env-file.
func programEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return isSetting(name) || slices.Contains(serviceVariables, name)
	})
}

// serviceVariables are for the process that a service manager started, and for no child of it: sd_listen_fds(3),
// sd_notify(3), sd_watchdog_enabled(3).
var serviceVariables = []string{
	"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID",
}

// isSetting tells whether Balanza reads a variable of this name, or may do so in another version.
func isSetting(name string) bool {
	return strings.HasPrefix(name, prefix+"_") || slices.Contains(unprefixed(), name)
}

// unprefixed are the names of the settings that other programs use for the same.
func unprefixed() (names []string) {
	for field := range reflect.TypeFor[settings]().Fields() {
		if name := field.Tag.Get("envconfig"); field.Type.Kind() != reflect.Struct && name != "" {
			names = append(names, name)
		}
	}
	return names
}

// fromEnvironment fills a struct by envconfig, with errors of one line that name the variable, and its value unless that may be
// a secret.
func fromEnvironment(prefix string, into any) error {
	err := envconfig.Process(prefix, into)
	if e, ok := errors.AsType[*envconfig.ParseError](err); ok {
		if maySecret(e.KeyName, e.Value) {
			return errorf("%s: the value can't be used", e.KeyName)
		}
		return fmt.Errorf("%s: %q: %w", e.KeyName, e.Value, e.Err)
	}
	return err
}

// defaultHome is the folder of state that outlives a process: in the user's state folder, or, without one (a container),
// a folder for this user among the temporary files.
func defaultHome() string {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "balanza")
	}
	if dir, err := os.UserHomeDir(); err == nil && dir != "/" {
		return filepath.Join(dir, ".local", "state", "balanza")
	}
	return temporaryHome()
}

// temporaryHome is the home of a user without one.
func temporaryHome() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("balanza-%d", os.Getuid()))
}

// checkHome rejects folders in which another user could plant control sockets or read secrets. Among the temporary
// files, where anybody can make a folder, it makes the home itself.
func (s *settings) checkHome() error {
	if s.Home == temporaryHome() {
		if err := os.Mkdir(s.Home, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return checkPrivate(s.Home, 0o077)
	}
	if os.Getuid() == 0 { // who may look after the servers of other users
		return nil
	}
	return checkPrivate(s.runDir(), 0o022)
}

// checkPrivate fails when a folder belongs to another user, or gives others any of the permissions in denied. A folder
// that does not exist is no error.
func checkPrivate(dir string, denied fs.FileMode) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	uid, owner := os.Getuid(), int(info.Sys().(*syscall.Stat_t).Uid)
	if !info.IsDir() || owner != uid || info.Mode().Perm()&denied != 0 {
		return errorf("%s (mode %v, user %d) must be a folder that only user %d can use; set BALANZA_HOME to another one",
			dir, info.Mode().Perm(), owner, uid)
	}
	return nil
}

// runDir is the folder of the control sockets, logsDir that of the log files.
func (s *settings) runDir() string  { return filepath.Join(s.Home, "run") }
func (s *settings) logsDir() string { return filepath.Join(s.Home, "logs") }

// limits are those of the masters. A worker may always take as long as its own drain does, and 5 s to end.
func (s *settings) limits() workers.Limits {
	return workers.Limits{
		ReadyTimeout: s.ReadyTimeout, HeartbeatTimeout: s.HeartbeatTimeout,
		StopTimeout: max(s.StopTimeout, s.DrainDelay+s.DrainTimeout+5*time.Second),
		MaxMemory:   int64(s.MaxMemory), MaxRequests: int64(s.MaxRequests),
	}
}

// completeMode decides the mode where none is named: -i asks for workers, so it means CLUSTER.
func (s *settings) completeMode(f *pflag.FlagSet) error {
	instancesGiven := f.Changed("instances")
	switch {
	case s.Mode == forkMode && instancesGiven:
		return usagef("-i needs --m CLUSTER: a FORK server is one process")
	case s.Mode == "" && instancesGiven:
		s.Mode = clusterMode
	case s.Mode == "":
		s.Mode = forkMode
	}
	return nil
}

// name is the server's name, given or not.
func (s *settings) name() string {
	if s.Name != "" {
		return s.Name
	}
	return fmt.Sprintf("%s-%d", strings.ToLower(string(s.Mode)), s.Port)
}

// checkName rejects a name that no server can have.
func checkName(name string) error {
	if name == allServers {
		return usagef("no server can be named %s: that stands for all servers", name)
	}
	if err := workers.CheckName(name); err != nil {
		return usageError{err}
	}
	return nil
}

// label is the value of X-Balanza-Server, a different one for each server wherever it runs.
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

// workers is the number of workers: all CPUs that the process may use, by affinity and by cgroup quota, unless told
// otherwise.
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

// The flags that several commands have follow. Each lays its value over the setting of the environment. A command gets
// those that take effect in it and no others, so that none is ignored silently.

// portFlag is -p.
func (s *settings) portFlag(f *pflag.FlagSet) {
	f.VarP(&s.Port, "port", "p", "`PORT` of the server; 0: a free one (also --p)")
}

// instancesFlag is -i.
func (s *settings) instancesFlag(f *pflag.FlagSet) {
	f.VarP(&s.Instances, "instances", "i", "`N` workers of a CLUSTER, or max: one for each CPU (also --i)")
}

// hostFlag is --host.
func (s *settings) hostFlag(f *pflag.FlagSet) {
	f.StringVar(&s.Host, "host", s.Host, "`ADDRESS` of the interface to listen on")
}

// metricsFlag is --metrics.
func (s *settings) metricsFlag(f *pflag.FlagSet) {
	f.Var(&s.MetricsAddress, "metrics", "serve the metrics of all servers of this process at `HOST:PORT`, for Prometheus")
}

// processFlags are those of a server of any program, besides the port.
func (s *settings) processFlags(f *pflag.FlagSet) {
	s.instancesFlag(f)
	f.StringVar(&s.Name, "name", s.Name, "`NAME` of the server")
	s.hostFlag(f)
	s.metricsFlag(f)
	f.Var(&s.MaxMemory, "max-memory", "replace a worker above this resident `SIZE`, like 300M")
}

// siteFlags are those of a server of the site. What those of --watch say, which is no setting, is returned.
func (s *settings) siteFlags(f *pflag.FlagSet) *watching {
	s.portFlag(f)
	f.VarP(&s.Mode, "mode", "m", "`MODE`: FORK (one process) or CLUSTER (a master and workers) (also --m, --modo)")
	s.processFlags(f)
	f.Uint32Var(&s.MaxRequests, "max-requests", s.MaxRequests, "replace a worker after about `N` requests")
	return watchFlags(f, "rebuild and reload when the source changes")
}

// shortText is a text for the list of processes.
type shortText string

// UnmarshalText takes up to 64 printable characters.
func (s *shortText) UnmarshalText(text []byte) error {
	unprintable := func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }
	if n := utf8.RuneCount(text); n > 64 || bytes.ContainsFunc(text, unprintable) {
		return errorf("a text of up to 64 printable characters")
	}
	*s = shortText(text)
	return nil
}

// cookieName is the name of a session cookie.
type cookieName string

// cookieNamePattern matches part of what a cookie may be called (RFC 6265, 4.1.1): every project name of Compose. Names
// that begin with __Host- or __Secure- have a meaning for browsers, and the device cookie's name has a dot.
var cookieNamePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,254}$`)

// Set takes a name that cookieNamePattern matches.
func (n *cookieName) Set(v string) error {
	if !cookieNamePattern.MatchString(v) {
		return errorf("the name of a cookie has up to 255 letters, digits, hyphens and underscores, and begins with a letter or digit")
	}
	*n = cookieName(v)
	return nil
}

// port is a TCP port; 0 is a free one.
type port uint16

// Type is pflag's name of the type.
func (p *port) Type() string { return "port" }

// String is the number.
func (p *port) String() string { return strconv.Itoa(int(*p)) }

// Set takes a decimal number.
func (p *port) Set(v string) error {
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil {
		return errorf("a port is a whole number from 1 to 65535, or 0 for a free one")
	}
	*p = port(n)
	return nil
}

// address is where to listen: a host, which may be empty for all interfaces, and a port; empty: nowhere.
type address string

// Type is pflag's name of the type.
func (a *address) Type() string { return "address" }

// String is what Set takes.
func (a *address) String() string { return string(*a) }

// Set takes HOST:PORT.
func (a *address) Set(v string) error {
	_, number, err := net.SplitHostPort(v)
	var p port
	if v != "" && (err != nil || p.Set(number) != nil) {
		return errorf("an address is HOST:PORT, like 127.0.0.1:9091")
	}
	*a = address(v)
	return nil
}

// mode is how many processes a server has; empty until completeMode decides.
type mode string

const (
	forkMode    mode = "FORK"
	clusterMode mode = "CLUSTER"
	edgeMode    mode = "EDGE" // of the balancer; no flag can name it
)

// Type is pflag's name of the type.
func (m *mode) Type() string { return "mode" }

// String is the mode as the course writes it.
func (m *mode) String() string { return string(*m) }

// Set takes FORK and CLUSTER in any case.
func (m *mode) Set(v string) error {
	switch u := mode(strings.ToUpper(v)); u {
	case forkMode, clusterMode:
		*m = u
		return nil
	}
	return errorf("the mode is FORK or CLUSTER")
}

// instances is a number of workers; 0 is one for each CPU.
type instances int

// Type is pflag's name of the type.
func (i *instances) Type() string { return "instances" }

// String is what Set takes.
func (i *instances) String() string {
	if *i == 0 {
		return "max"
	}
	return strconv.Itoa(int(*i))
}

// Set takes a number or max.
func (i *instances) Set(v string) error {
	n, err := strconv.Atoi(v)
	switch {
	case strings.EqualFold(v, "max"):
		n = 0
	case err != nil || n < 1 || n > workers.MaxWorkers:
		return errorf("the number of workers is from 1 to %d, or max", workers.MaxWorkers)
	}
	*i = instances(n)
	return nil
}

// size is a number of bytes.
type size int64

// Type is pflag's name of the type.
func (z *size) Type() string { return "size" }

// String is the number of bytes.
func (z *size) String() string { return strconv.FormatInt(int64(*z), 10) }

// Set takes bytes, or a number with K, M or G (1024, its square, its cube).
func (z *size) Set(v string) error {
	number, unit := strings.TrimSuffix(strings.ToUpper(v), "B"), int64(1)
	if i := len(number) - 1; i > 0 {
		if p := strings.IndexByte("KMG", number[i]); p >= 0 {
			number, unit = number[:i], 1<<(10*(p+1))
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return errorf("a size is a number of bytes, or one with K, M or G, like 300M")
	}
	*z = size(n * unit)
	return nil
}

// pollInterval is the time between two scans for changes; 0: the kernel reports them.
type pollInterval time.Duration

// Set takes a duration, true or false.
func (p *pollInterval) Set(v string) error {
	d, err := time.ParseDuration(v)
	if yes, notBool := strconv.ParseBool(v); notBool == nil {
		d, err = 0, nil
		if yes {
			d = watch.DefaultPoll
		}
	} else if err != nil || d <= 0 {
		return errorf("true, or how often to look, like 2s")
	}
	*p = pollInterval(d)
	return nil
}
