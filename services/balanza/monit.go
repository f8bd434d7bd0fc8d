package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"balanza/services/logfile"
)

const (
	// refreshInterval is the time between two screens.
	refreshInterval = time.Second
	// Escape sequences of the terminal (xterm's ctlseqs): alternate screen without a cursor, the normal one, first row.
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	firstRow    = "\x1b[H"
	clearLine   = "\x1b[K"
	clearRest   = "\x1b[J"
)

// monit shows what ps and logs -f do, live, until q or Ctrl-C.
func (p *program) monit() *cobra.Command {
	return p.interruptible("monit", "a live view of ps and logs", func(ctx context.Context, _ []string) error {
		out, ok := p.out.(terminal)
		if !ok {
			return errorf("monit needs a terminal; for programs there is balanza ps --json")
		}
		return p.monitOn(ctx, out.File)
	})
}

// monitOn draws on the terminal until a key or interrupted ends it. The terminal is raw meanwhile, so that q needs no
// return key; Ctrl-C arrives as a key then, and signals only from elsewhere.
func (p *program) monitOn(interrupted context.Context, out *os.File) error {
	cooked, err := term.MakeRaw(int(os.Stdin.Fd()))
	if err != nil {
		return err
	}
	defer func() { _ = term.Restore(int(os.Stdin.Fd()), cooked) }()
	fmt.Fprint(out, enterScreen)
	defer fmt.Fprint(out, leaveScreen)

	ctx, cancel := context.WithCancel(interrupted)
	defer cancel()
	go func() {
		key := make([]byte, 1)
		for {
			if _, err := os.Stdin.Read(key); err != nil || bytes.ContainsAny(key, "q\x03") {
				cancel()
				return
			}
		}
	}()
	lines := p.followLogs(ctx)
	var rates rates
	for {
		err := p.refresh(ctx, out, &rates, lines())
		if ctx.Err() != nil {
			return context.Cause(interrupted)
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(refreshInterval - cpuInterval):
		}
	}
}

// refresh draws one screen. Taking the measurements for it takes cpuInterval.
func (p *program) refresh(ctx context.Context, out *os.File, rates *rates, lines []string) error {
	all, err := p.measure(ctx, nil)
	if err != nil {
		return err
	}
	width, height, err := term.GetSize(int(out.Fd()))
	if err != nil {
		return err
	}
	var screen bytes.Buffer
	if err := table(&screen, all, rates.update(all), width); err != nil {
		return err
	}
	draw(out, screen.String(), lines, width, height)
	return nil
}

// draw fills a screen of width columns and height rows: the table above, the last lines of the logs below. Each row is
// overwritten in place, since a screen that is cleared first flickers.
func draw(to io.Writer, table string, lines []string, width, height int) {
	rows := strings.Split(strings.TrimRight(table, "\n"), "\n")
	rows = append(rows, "", text("q: leave"))
	if free := height - len(rows) - 1; free > 0 {
		rows = append(rows, lines[max(0, len(lines)-free):]...)
	}
	var b bytes.Buffer
	b.WriteString(firstRow)
	for i, row := range rows[:min(len(rows), height)] {
		if i > 0 {
			b.WriteString("\r\n")
		}
		row = visible(row)
		if letters := []rune(row); len(letters) > width {
			row = string(letters[:width])
		}
		b.WriteString(row + clearLine)
	}
	b.WriteString(clearRest)
	_, _ = to.Write(b.Bytes())
}

// maxLogLines is how many lines of the logs monit remembers.
const maxLogLines = 200

// followLogs collects what servers write, in the order of time; last returns the newest lines.
func (p *program) followLogs(ctx context.Context) (last func() []string) {
	var mu sync.Mutex
	var lines []string
	files, err := p.logFiles(ctx, nil)
	if err != nil {
		files = nil
	}
	width := 0
	for name := range files {
		width = max(width, len(name))
	}
	go logfile.Tail{Files: files, Lines: 20, Follow: true, Dir: p.settings.logsDir()}.Run(ctx, func(name string, line []byte) {
		mu.Lock()
		defer mu.Unlock()
		width = max(width, len(name))
		lines = append(lines, fmt.Sprintf("%-*s | %s", width, name, logfile.Readable(line, time.Now())))
		lines = lines[max(0, len(lines)-maxLogLines):]
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(lines)
	}
}

// rateInterval is the time over which requests a second are counted. Workers tell their number once a second, so that a
// shorter one would show now none and now twice as many.
const rateInterval = 5 * time.Second

// rates turns counts of requests into requests a second.
type rates struct{ samples []sample }

// sample is how many requests processes had answered at a time.
type sample struct {
	at    time.Time
	count map[processKey]int64
}

// processKey tells processes apart, those that had the same pid one after another too.
type processKey struct {
	pid   int
	since int64 // nanoseconds since 1970
}

// update returns the requests a second of each process, by pid, during the last rateInterval; 0 for one that is seen for the
// first time.
func (r *rates) update(all []serverStatus) map[int]float64 {
	now := sample{time.Now(), map[processKey]int64{}}
	r.samples = slices.DeleteFunc(r.samples, func(s sample) bool { return now.at.Sub(s.at) > rateInterval })
	perSecond := map[int]float64{}
	for _, s := range all {
		for _, w := range s.Workers {
			key := processKey{w.Pid, w.Since.UnixNano()}
			now.count[key] = w.Requests
			perSecond[w.Pid] = 0
			for _, before := range r.samples {
				if count, ok := before.count[key]; ok {
					perSecond[w.Pid] = max(0, float64(w.Requests-count)) / now.at.Sub(before.at).Seconds()
					break
				}
			}
		}
	}
	r.samples = append(r.samples, now)
	return perSecond
}
