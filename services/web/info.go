package web

import (
	"bytes"
	"encoding/json"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
)

// Info is what /info tells.
type Info struct {
	Arguments  []string `json:"arguments"`  // without the program's name
	Executable string   `json:"executable"` // path
	Platform   string   `json:"platform"`   // operating system
	Pid        int      `json:"pid"`
	Version    string   `json:"version"` // of the Go runtime
	Folder     string   `json:"folder"`  // working directory
	RSS        int64    `json:"rss"`     // reserved memory, bytes
	CPUs       int      `json:"cpus"`
	Mode       string   `json:"mode"`   // FORK or CLUSTER
	Worker     int      `json:"worker"` // 0 in FORK
	Server     string   `json:"server"`
	Uptime     int64    `json:"uptime"` // seconds
}

// sampling is how old the memory and the uptime that /info shows may be: reading them costs more than the rest of a
// request.
const sampling = 250 * time.Millisecond

type info struct {
	fixed       Info
	started     time.Time
	pid, server []byte // as the headers have them
	current     atomic.Pointer[sample]
}

type sample struct {
	Info
	json  []byte
	pages sync.Map // language to rendered page
	taken time.Time
}

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

func (i *info) now() *sample {
	now := time.Now()
	if s := i.current.Load(); s != nil && now.Sub(s.taken) < sampling {
		return s
	}
	s := &sample{Info: i.fixed, taken: now}
	s.RSS = residentMemory()
	s.Uptime = int64(now.Sub(i.started).Seconds())
	s.json, _ = json.Marshal(s.Info) // strings and numbers: cannot fail
	i.current.Store(s)
	return s
}

func (s *Site) showInfo(c *fiber.Ctx) error {
	if !wantsJSON(c, false) && c.Query("format") != "json" {
		now, l := s.info.now(), lang(c)
		page, known := now.pages.Load(l)
		if !known {
			made, err := s.render(l, "info", Page{Data: now.Info})
			if err != nil {
				return err
			}
			page, _ = now.pages.LoadOrStore(l, made)
		}
		return sendPage(c, page.([]byte))
	}
	c.Response().Header.SetContentType(fiber.MIMEApplicationJSON)
	c.Response().Header.Set(fiber.HeaderCacheControl, "no-store")
	c.Response().Header.Set(fiber.HeaderVary, fiber.HeaderAccept)
	c.Response().SetBodyRaw(s.info.now().json)
	return nil
}

// residentMemory returns the process's resident set in bytes; where there is no /proc, what the Go runtime holds.
func residentMemory() int64 {
	statm, err := os.ReadFile("/proc/self/statm")
	if fields := bytes.Fields(statm); err == nil && len(fields) > 1 {
		if pages, err := strconv.ParseInt(string(fields[1]), 10, 64); err == nil {
			return pages * int64(os.Getpagesize())
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.Sys)
}
