package web

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	gopsutil "github.com/shirou/gopsutil/v4/process"
)

// Info is the answer of /info.
type Info struct {
	Arguments  []string `json:"arguments"`  // without the program's name
	Executable string   `json:"executable"` // path
	Platform   string   `json:"platform"`   // operating system
	Pid        int      `json:"pid"`
	Version    string   `json:"version"` // of the Go runtime
	Folder     string   `json:"folder"`  // working directory
	RSS        int64    `json:"rss"`     // reserved memory, bytes; 0 when it cannot be read
	CPUs       int      `json:"cpus"`
	Mode       string   `json:"mode"`   // FORK or CLUSTER
	Worker     int      `json:"worker"` // 0 in FORK
	Server     string   `json:"server"`
	Uptime     int64    `json:"uptime"` // seconds
}

// sampleInterval is how old the memory and the uptime that /info shows may be: reading them costs more than the rest of
// the request.
const sampleInterval = 250 * time.Millisecond

// info caches the answer of /info. Load tests ask for it thousands of times a second.
type info struct {
	fixed       Info
	started     time.Time
	pid, server []byte // values of the headers
	current     atomic.Pointer[sample]
}

// sample is the answer at one moment, as JSON and, by language, as a page.
type sample struct {
	Info
	json  []byte
	pages sync.Map // language to rendered page
	taken time.Time
}

// newInfo collects what does not change while the process lives.
func newInfo(p Process) *info {
	executable, _ := os.Executable()
	folder, _ := os.Getwd()
	pid := os.Getpid()
	return &info{
		fixed: Info{
			Arguments:  append([]string{}, os.Args[1:]...),
			Executable: executable,
			Platform:   runtime.GOOS,
			Pid:        pid,
			Version:    runtime.Version(),
			Folder:     folder,
			CPUs:       runtime.NumCPU(),
			Mode:       p.Mode,
			Worker:     p.Worker,
			Server:     p.Server,
		},
		started: p.Started,
		pid:     strconv.AppendInt(nil, int64(pid), 10),
		server:  []byte(p.Server),
	}
}

// sample returns the last sample while it is recent enough, else a new one.
func (i *info) sample() *sample {
	now := time.Now()
	if s := i.current.Load(); s != nil && now.Sub(s.taken) < sampleInterval {
		return s
	}
	s := &sample{Info: i.fixed, taken: now}
	self := gopsutil.Process{Pid: int32(i.fixed.Pid)} // NewProcess would read when the process began, too
	if memory, err := self.MemoryInfo(); err == nil {
		s.RSS = int64(memory.RSS)
	}
	s.Uptime = int64(now.Sub(i.started).Seconds())
	s.json, _ = json.Marshal(s.Info) // strings and numbers: cannot fail
	i.current.Store(s)
	return s
}

// infoPage is an Info in the words of a reader.
type infoPage struct {
	Info
	lang string
}

// platforms are the names of the operating systems that Balanza runs on.
var platforms = map[string]string{"linux": "Linux", "darwin": "macOS"}

// PlatformName is the platform's usual name.
func (i infoPage) PlatformName() string { return cmp.Or(platforms[i.Platform], i.Platform) }

// GoVersion is the version's number, without the "go" before it.
func (i infoPage) GoVersion() string { return strings.TrimPrefix(i.Version, "go") }

// Memory is the reserved memory in MiB, empty when it is not known.
func (i infoPage) Memory() string {
	if i.RSS == 0 {
		return ""
	}
	mebibytes := strconv.FormatFloat(float64(i.RSS)/(1<<20), 'f', 1, 64) + " MiB"
	if i.lang == "es" {
		return strings.Replace(mebibytes, ".", ",", 1)
	}
	return mebibytes
}

// UptimeText is the uptime in days, hours, minutes and seconds. The units are the same in both languages.
func (i infoPage) UptimeText() string {
	var parts []string
	rest := i.Uptime
	for _, unit := range []struct {
		seconds int64
		name    string
	}{{24 * 3600, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}} {
		if n := rest / unit.seconds; n > 0 || len(parts) > 0 || unit.seconds == 1 {
			parts = append(parts, fmt.Sprintf("%d %s", n, unit.name))
		}
		rest %= unit.seconds
	}
	return strings.Join(parts, " ")
}

// showInfo answers /info as a page or as JSON. It encodes neither more than once for each sample and language.
func (s *Site) showInfo(c *fiber.Ctx) error {
	if !wantsJSON(c, false) && c.Query("format") != "json" {
		now, l := s.info.sample(), lang(c)
		page, cached := now.pages.Load(l)
		if !cached {
			rendered, err := s.render(l, "info", Page{Data: infoPage{now.Info, l}})
			if err != nil {
				return err
			}
			page, _ = now.pages.LoadOrStore(l, rendered)
		}
		return sendPage(c, page.([]byte))
	}
	c.Response().Header.SetContentType(fiber.MIMEApplicationJSON)
	c.Response().Header.Set(fiber.HeaderCacheControl, "no-store")
	c.Response().Header.Set(fiber.HeaderVary, fiber.HeaderAccept)
	c.Response().SetBodyRaw(s.info.sample().json)
	return nil
}
