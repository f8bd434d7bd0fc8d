package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"balanza/e2e/testenv"
)

// hostile is what a program may write to take over the terminal of whoever reads its log: a title, an answer as if typed,
// a colour by C1, a reversed line, and a byte that is no UTF-8.
const hostile = "evil \x1b]0;owned\x07\x1b[6n\x08\r\u009b31m\u202eabc\u2066\x7f\xffñ😀\tend"

// shownHostile is how it is shown, but for its end, which the control socket and tables change; shownCause is how it is shown
// as the cause of a death.
const (
	shownHostile = `evil \x1b]0;owned\x07\x1b[6n\x08\x0d\u009b31m\u202eabc\u2066\x7f`
	shownCause   = "exit status 3: abc\ufffdñ😀 end"
)

// onTerminal runs a command on a terminal of its own until it ends, or until done accepts what it has printed, and returns that.
func (h *home) onTerminal(done func(printed string) bool, args ...string) string {
	h.t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	defer master.Close()
	number, err := unix.IoctlGetUint32(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 300})
	}
	if err != nil {
		h.t.Fatal(err)
	}
	screen, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := h.command(args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = screen, screen, screen
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	screen.Close()
	var mu sync.Mutex
	var printed bytes.Buffer
	read := make(chan bool)
	go func() {
		defer close(read)
		piece := make([]byte, 4096)
		for {
			n, err := master.Read(piece) // EIO when the command has ended
			mu.Lock()
			printed.Write(piece[:n])
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	all := func() string {
		mu.Lock()
		defer mu.Unlock()
		return printed.String()
	}
	if done != nil {
		eventually(h.t, strings.Join(args, " "), func() bool { return done(all()) })
		_, _ = io.WriteString(master, "q")
	}
	_ = cmd.Wait()
	<-read
	return all()
}

// ours are the sequences that monit sends.
var ours = regexp.MustCompile(`\x1b\[(\?1049[hl]|\?25[hl]|H|K|J)`)

// Commands print nothing on a terminal that it interprets, whatever servers have written; into a pipe they print it as it is.
func TestTerminalInterpretsNothing(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	script := filepath.Join(h.cwd, "hostile")
	writeFile(t, script, hostile+"\n")
	cmd := h.command("run", "-d", "-i", "1", "--name", "evil", "--",
		"/bin/sh", "-c", `cat "$1"; sleep 5; exit 3`, hostile, script)
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	eventually(t, "a death", func() bool {
		out, _, _ := h.run("ps", "evil")
		return strings.Contains(out, "last death")
	})
	for _, test := range []struct {
		args string
		done func(string) bool
	}{
		{"logs -n 1000 evil", nil},
		{"logs -n 1000 all", nil},
		{"ps", nil},
		{"ps --json", nil},
		{"describe evil", nil},
		{"monit", func(printed string) bool { return strings.Contains(printed, `owned\x07`) }},
	} {
		printed := h.onTerminal(test.done, strings.Fields(test.args)...)
		left := strings.ReplaceAll(ours.ReplaceAllString(printed, ""), "\r\n", "\n") // the terminal's own line ends
		shown := shownHostile
		if strings.HasPrefix(test.args, "ps") {
			shown = shownCause
		}
		if !strings.Contains(left, shown) {
			t.Errorf("%s does not show the line: %q", test.args, printed)
		}
		for i, r := range left {
			if r != '\n' && r != '\t' && (r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e || r == 0x2066) {
				t.Errorf("%s prints %U: %.80q", test.args, r, left[max(0, i-40):])
				break
			}
		}
	}
	if printed := h.onTerminal(nil, "logs", "-n", "1000", "evil"); !strings.Contains(printed, shownHostile+`\xffñ😀`+"\tend") &&
		!strings.Contains(printed, shownHostile+`\xffñ😀 `) { // the terminal may turn the tab into blanks
		t.Errorf("the end of the line: %q", printed)
	}
	if out := h.must("logs", "-n", "1000", "evil"); !strings.Contains(out, hostile) {
		t.Errorf("into a pipe: %q", out)
	}
}

// textLine is how people see the line of a worker that is ready.
var textLine = regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d INFO  worker ready server=`)

// Log files have JSON whether a terminal starts the server or not, in the background too; people see text, and programs JSON.
func TestFormatOfLogsOnATerminal(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	printed := h.onTerminal(func(printed string) bool {
		if !strings.Contains(printed, "worker ready") {
			return false
		}
		h.must("delete", "front")
		return true
	}, "--name", "front", "--m", "CLUSTER", "-i", "1", "--p", testenv.FreePort(t))
	if !textLine.MatchString(printed) || strings.Contains(printed, "{") {
		t.Errorf("a server on a terminal: %q", printed)
	}
	expectJSONLines(t, filepath.Join(h.dir, "logs", "front.log"), "listening", "worker ready")

	h.onTerminal(nil, "start", "--name", "back", "--m", "CLUSTER", "-i", "1", "--p", testenv.FreePort(t))
	expectJSONLines(t, filepath.Join(h.dir, "logs", "back.log"), "listening", "worker ready")
	if printed := h.onTerminal(nil, "logs", "back"); !textLine.MatchString(printed) || strings.Contains(printed, "{") {
		t.Errorf("logs on a terminal: %q", printed)
	}
	if printed := h.onTerminal(nil, "logs", "--format", "json", "back"); !strings.Contains(printed, `"msg":"worker ready"`) {
		t.Errorf("logs --format json: %q", printed)
	}
	if out := h.must("logs", "back"); !strings.HasPrefix(out, `{"time":"`) {
		t.Errorf("logs into a pipe: %q", out)
	}
	printed = h.onTerminal(func(printed string) bool { return strings.Contains(printed, "worker ready") }, "monit")
	if !regexp.MustCompile(`back  *\| \d\d:\d\d:\d\d INFO  worker ready server=back`).MatchString(printed) {
		t.Errorf("monit: %q", printed)
	}
}
