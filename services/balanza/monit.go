package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

const (
	refresh = time.Second
	// The terminal's words for: other screen and no cursor, back again, and home.
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	clearLine   = "\x1b[K"
	clearRest   = "\x1b[J"
)

// monit shows what `ps` and `logs -f` do, live, until q or Ctrl-C.
func (p *program) monit(args []string) error {
	if _, err := p.parse(flags("monit"), args); err != nil {
		return err
	}
	out, ok := p.out.(*os.File)
	if !ok || !term.IsTerminal(int(out.Fd())) {
		return errors.New("monit needs a terminal; for programs there is balanza ps --json")
	}
	was, err := term.MakeRaw(int(os.Stdin.Fd()))
	if err != nil {
		return err
	}
	defer func() { _ = term.Restore(int(os.Stdin.Fd()), was) }()
	fmt.Fprint(out, enterScreen)
	defer fmt.Fprint(out, leaveScreen)

	ctx, cancel := p.untilSignal(func() {}, func() {})
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
	lines := p.follow(ctx)
	var rates rates
	for ctx.Err() == nil {
		servers, err := p.list()
		if err != nil {
			return err
		}
		all := measure(servers)
		var screen bytes.Buffer
		if err := table(&screen, all, rates.update(all)); err != nil {
			return err
		}
		width, height, err := term.GetSize(int(out.Fd()))
		if err != nil {
			return err
		}
		draw(out, screen.String(), lines(), width, height)
		select {
		case <-ctx.Done():
		case <-time.After(refresh - moment):
		}
	}
	return nil
}

// draw fills the screen: the table above, the last of what was written below.
func draw(to io.Writer, table string, lines []string, width, height int) {
	rows := strings.Split(strings.TrimRight(table, "\n"), "\n")
	rows = append(rows, "", "q: leave")
	if free := height - len(rows) - 1; free > 0 {
		rows = append(rows, lines[max(0, len(lines)-free):]...)
	}
	var b bytes.Buffer
	b.WriteString(home)
	for i, row := range rows[:min(len(rows), height)] {
		if i > 0 {
			b.WriteString("\r\n")
		}
		if letters := []rune(row); len(letters) > width {
			row = string(letters[:width])
		}
		b.WriteString(row + clearLine)
	}
	b.WriteString(clearRest)
	_, _ = to.Write(b.Bytes())
}

// keptLines is how many lines of the logs monit remembers.
const keptLines = 200

// follow collects what the servers that run now write.
func (p *program) follow(ctx context.Context) (last func() []string) {
	var mu sync.Mutex
	var kept []string
	files, err := p.logFiles(nil)
	if err != nil {
		files = nil
	}
	for name, file := range files {
		go tail(ctx, file, 5, true, func(line []byte) {
			mu.Lock()
			defer mu.Unlock()
			kept = append(kept, name+" | "+string(line))
			kept = kept[max(0, len(kept)-keptLines):]
		})
	}
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), kept...)
	}
}

// rates turns counts of requests into requests a second.
type rates struct {
	at    time.Time
	count map[int]int64 // by process
}

// update returns each process's rate since the last call.
func (r *rates) update(all []serverStatus) map[int]float64 {
	now, count, perSecond := time.Now(), map[int]int64{}, map[int]float64{}
	for _, s := range all {
		for _, w := range s.Workers {
			count[w.Pid] = w.Requests
			if before, ok := r.count[w.Pid]; ok {
				perSecond[w.Pid] = float64(w.Requests-before) / now.Sub(r.at).Seconds()
			}
		}
	}
	r.at, r.count = now, count
	return perSecond
}
