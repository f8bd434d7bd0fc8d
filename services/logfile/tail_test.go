package logfile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// day is when the lines of the tests were written.
var day = time.Date(2026, 11, 25, 14, 0, 0, 0, time.FixedZone("", -3*3600))

// at is a line of that second of day.
func at(second float64, message string) string {
	return fmt.Sprintf(`{"time":%q,"level":"INFO","msg":%q}`, day.Add(time.Duration(second*float64(time.Second))).Format(time.RFC3339Nano), message)
}

func appendTo(t *testing.T, path string, lines ...string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, line := range lines {
		if _, err := f.WriteString(line + "\n"); err != nil {
			t.Fatal(err)
		}
	}
}

// messages are the last n lines of files, each as the name of its file and its message, or as the whole line where it has none.
func messages(t *testing.T, n int, files map[string]string) (all []string) {
	t.Helper()
	Tail{Files: files, Lines: n}.Run(t.Context(), func(name string, line []byte) { all = append(all, shown(name, line)) })
	return all
}

func shown(name string, line []byte) string {
	text := string(line)
	if _, message, ok := strings.Cut(text, `"msg":"`); ok {
		text = strings.TrimSuffix(message, `"}`)
	}
	return name + " " + text
}

func expectLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestLinesOfSeveralFilesAreMergedByTime(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{"a": Path(dir, "a"), "b": Path(dir, "b"), "empty": Path(dir, "empty"), "missing": Path(dir, "missing")}
	appendTo(t, files["a"], at(0, "too old"), at(1, "one"), at(3, "three"), "panic: no time", "\tmain.go:7", at(5.001, "five"), at(5, "its worker was earlier"))
	utc := day.Add(2 * time.Second).UTC().Format(time.RFC3339Nano)
	appendTo(t, files["b"], "begins without a time", `{"time":"`+utc+`","level":"INFO","msg":"two"}`, at(4, "four"), `{"time":"no time","msg":"invalid"}`)
	appendTo(t, files["empty"])
	expectLines(t, messages(t, 6, files),
		"a one", "b begins without a time", "b two", "a three", "a panic: no time", "a \tmain.go:7", "b four", "b invalid", "a its worker was earlier", "a five")
	if got := messages(t, 0, files); len(got) != 0 {
		t.Errorf("no lines were asked for: %q", got)
	}
	if got := messages(t, 2, files); !slices.Equal(got, []string{"b four", "b invalid", "a its worker was earlier", "a five"}) {
		t.Errorf("two lines of each: %q", got)
	}
	// Alone, a file keeps its order.
	delete(files, "b")
	delete(files, "empty")
	delete(files, "missing")
	expectLines(t, messages(t, 2, files), "a five", "a its worker was earlier")
}

func TestAFileWithoutAnyTimeHasThatOfItsLastChange(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{"old": Path(dir, "old"), "json": Path(dir, "json")}
	appendTo(t, files["old"], "plain", "text")
	appendTo(t, files["json"], at(1, "before"), at(3, "after"))
	if err := os.Chtimes(files["old"], day, day.Add(2*time.Second)); err != nil {
		t.Fatal(err)
	}
	expectLines(t, messages(t, 10, files), "json before", "old plain", "old text", "json after")
}

// A line without a time keeps the time of the line before it, also where that is not shown, or in a rotated file.
func TestALineWithoutATimeIsOfTheLineBefore(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{"a": Path(dir, "a"), "b": Path(dir, "b"), "c": Path(dir, "c")}
	appendTo(t, files["a"], at(1, "1"), "panic")
	appendTo(t, files["b"], at(0, "0"), at(2, "2"))
	appendTo(t, filepath.Join(dir, "c-2026-11-25T10-00-00.000.log"), at(0, "0"), at(1.5, "1.5"), "trace")
	appendTo(t, files["c"], "more of it")
	expectLines(t, messages(t, 1, map[string]string{"a": files["a"], "b": files["b"]}), "a panic", "b 2")
	expectLines(t, messages(t, 2, files), "b 0", "a 1", "a panic", "c trace", "c more of it", "b 2")
}

func TestLastLinesBeginInRotatedFiles(t *testing.T) {
	dir := t.TempDir()
	path := Path(dir, "a")
	appendTo(t, filepath.Join(dir, "a-2026-11-25T10-00-00.000.log"), at(1, "1"), at(2, "2"))
	appendTo(t, filepath.Join(dir, "a-2026-11-25T11-00-00.000.log"), at(3, "3"))
	appendTo(t, filepath.Join(dir, "a-b-2026-11-25T12-00-00.000.log"), at(9, "another server's"))
	appendTo(t, path, at(4, "4"), at(5, "5"))
	files := map[string]string{"a": path}
	for n, want := range map[int][]string{
		1: {"a 5"}, 2: {"a 4", "a 5"}, 3: {"a 3", "a 4", "a 5"}, 4: {"a 2", "a 3", "a 4", "a 5"}, 9: {"a 1", "a 2", "a 3", "a 4", "a 5"},
	} {
		expectLines(t, messages(t, n, files), want...)
	}
}

func TestAnIncompleteLastLineIsShownUnlessMoreMayCome(t *testing.T) {
	path := Path(t.TempDir(), "a")
	if err := os.WriteFile(path, []byte("one\ntwo\nfatal error: cut of"), 0o600); err != nil {
		t.Fatal(err)
	}
	expectLines(t, messages(t, 2, map[string]string{"a": path}), "a two", "a fatal error: cut of")
	lines := follow(t, Tail{Files: map[string]string{"a": path}, Lines: 2})
	lines.expect("a one", "a two")
	appendTo(t, path, "f")
	lines.expect("a fatal error: cut off")
}

// Neither a large file nor a long line is kept in memory for the last lines.
func TestLastLinesOfALargeFile(t *testing.T) {
	path := Path(t.TempDir(), "large")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(256 << 20); err != nil { // a hole: one line of zeros
		t.Fatal(err)
	}
	long := strings.Repeat("x", 3*blockSize+7)
	appendTo(t, path, "", "a", long, "b")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	expectLines(t, messages(t, 3, map[string]string{"large": path}), "large a", "large "+long, "large b")
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 16<<20 {
		t.Errorf("%d MiB allocated for lines of %d bytes", allocated>>20, len(long))
	}
}

func TestALineLongerThanTheLimitIsCut(t *testing.T) {
	path := Path(t.TempDir(), "a")
	long := strings.Repeat("0123456789", maxLine/4)
	appendTo(t, path, "before", long, "after")
	var got []string
	Tail{Files: map[string]string{"a": path}, Lines: 100}.Run(t.Context(), func(_ string, line []byte) {
		if len(line) > maxLine {
			t.Errorf("a line of %d bytes", len(line))
		}
		got = append(got, string(line))
	})
	if len(got) != 5 || strings.Join(got, "") != "before"+long+"after" {
		t.Errorf("%d lines, of which something is missing", len(got))
	}
}

// following collects what a Tail that follows shows.
type following struct {
	t     *testing.T
	lines chan string
}

func follow(t *testing.T, tail Tail) following {
	f := following{t, make(chan string, 1000)}
	tail.Follow = true
	go tail.Run(t.Context(), func(name string, line []byte) { f.lines <- shown(name, line) })
	return f
}

func (f following) expect(want ...string) {
	f.t.Helper()
	var got []string
	for range want {
		select {
		case line := <-f.lines:
			got = append(got, line)
		case <-time.After(10 * time.Second):
			f.t.Fatalf("no line after\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	expectLines(f.t, got, want...)
}

// now is a line of this moment.
func now(message string) string {
	return fmt.Sprintf(`{"time":%q,"level":"INFO","msg":%q}`, time.Now().Format(time.RFC3339Nano), message)
}

func TestFollowedFilesAreMergedByTime(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{"a": Path(dir, "a"), "b": Path(dir, "b")}
	appendTo(t, files["a"], at(1, "begin"))
	appendTo(t, files["b"], at(2, "begin"))
	lines := follow(t, Tail{Files: files, Lines: 1})
	lines.expect("a begin", "b begin")
	var want []string
	for n := range 200 { // each line is in its file before the next one is made
		name := []string{"a", "b"}[n%2]
		appendTo(t, files[name], now(fmt.Sprint(n)))
		want = append(want, fmt.Sprintf("%s %d", name, n))
		time.Sleep(time.Millisecond)
	}
	lines.expect(want...)
	// A clock that is wrong, and lines without a time, delay nothing for ever.
	appendTo(t, files["a"], fmt.Sprintf(`{"time":%q,"level":"INFO","msg":"tomorrow"}`, time.Now().Add(24*time.Hour).Format(time.RFC3339Nano)), "plain")
	lines.expect("a tomorrow", "a plain")
	appendTo(t, files["b"], now("today"))
	lines.expect("b today")
}

func TestFilesThatAppearLaterAreFollowed(t *testing.T) {
	dir := t.TempDir()
	stopped := Path(dir, "stopped")
	appendTo(t, stopped, at(1, "long ago"))
	lines := follow(t, Tail{Files: map[string]string{"named": Path(dir, "named")}, Lines: 5, Dir: dir})
	time.Sleep(2 * tailInterval)
	appendTo(t, stopped, now("it runs again"))
	lines.expect("stopped it runs again")
	appendTo(t, Path(dir, "named"), now("first line"))
	lines.expect("named first line")
	appendTo(t, Path(dir, "new"), now("a new server"), now("is ready"))
	lines.expect("new a new server", "new is ready")
}

// A file that grows while it is rotated and emptied again and again is shown whole, and once.
func TestNothingIsMissedByRotation(t *testing.T) {
	dir := t.TempDir()
	path := Path(dir, "a")
	appendTo(t, path)
	lines := follow(t, Tail{Files: map[string]string{"a": path}})
	time.Sleep(2 * tailInterval)
	var want []string
	for n := range 60 {
		if n%10 == 5 {
			if err := os.Rename(path, filepath.Join(dir, fmt.Sprintf("a-2026-11-25T10-00-0%d.000.log", n/10))); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(n) * time.Millisecond) // there is no file for a while
		}
		appendTo(t, path, fmt.Sprint(n))
		want = append(want, fmt.Sprintf("a %d", n))
		if n%10 == 5 {
			time.Sleep(2 * tailInterval)
		}
	}
	lines.expect(want...)
}

func TestReadableLines(t *testing.T) {
	local := day.Add(time.Hour)
	before := day.Add(-24 * time.Hour)
	for line, want := range map[string]string{
		at(1.5, "listening"): "14:00:01 INFO  listening",
		`{"time":"2026-11-25T17:00:01Z","level":"ERROR","msg":"reload failed","cause":"open \"x\": no","n":1.5,"on":true,"none":null,"list":[1,"a b"]}`:                                                                                                                    `14:00:01 ERROR reload failed cause="open \"x\": no" n=1.5 on=true none=null list=[1,"a b"]`,
		`{"time":"` + before.Format(time.RFC3339) + `","level":"WARN","msg":"yesterday","path":"/a?b=c"}`:                                                                                                                                                                  "2026-11-24 14:00:00 WARN  yesterday path=/a?b=c",
		`{"time":"2026-11-25T14:00:00-03:00","level":"INFO","msg":"log-in","email":"a\u001b[31m` + "\u009b\u202e" + `\nb"}`:                                                                                                                                                `14:00:00 INFO  log-in email="a\x1b[31m\u009b\u202e\nb"`,
		`{"time":"2026-11-25T14:00:00-03:00","level":"INFO","msg":"m\u0007","k\u0007":{"a":"` + "\u202e" + `"}}`:                                                                                                                                                           `14:00:00 INFO  "m\a" "k\a"="{\"a\":\"\u202e\"}"`,
		`{"time":"2026-11-25T14:00:00-03:00","level":"INFO","msg":"request","request":"4f2a","client":"127.0.0.1","method":"GET","path":"/api/randoms?cant=1000","status":200,"bytes":12034,"seconds":0.0031,"server":"host:8081","pid":1234,"upstream":"127.0.0.1:8081"}`: "14:00:00 INFO  GET /api/randoms?cant=1000 200 3.1ms 11.8KiB server=host:8081 pid=1234 request=4f2a client=127.0.0.1",
		`{"time":"2026-11-25T14:00:00-03:00","level":"INFO","msg":"request","request":"4f2a","client":"::1","method":"POST","path":"/a b","status":502,"bytes":0,"seconds":12.5,"server":"","pid":"","upstream":"127.0.0.1:8081"}`:                                         `14:00:00 INFO  POST "/a b" 502 12.50s 0B request=4f2a client=::1 upstream=127.0.0.1:8081`,
		`{"time":"2026-11-25T14:00:00-03:00","level":"INFO","msg":"request","id":7}`:                                                                                                                                                                                       "14:00:00 INFO  request id=7",
	} {
		if got := string(Readable([]byte(line), local)); got != want {
			t.Errorf("%s\nis shown as %s\n      want %s", line, got, want)
		}
	}
	for _, line := range []string{
		"", "panic: x", "goroutine 1 [running]:", "{", `{"msg":"no time"}`, at(1, "x") + " and more", at(1, "x") + at(2, "y"), at(1, "x")[:40],
		`{"time":"2026-11-25T14:00:00Z","level":"INFO"}`, `{"time":"soon","msg":"x"}`, `[1]`, "\x1b[31mcolour",
	} {
		if got := Readable([]byte(line), local); !bytes.Equal(got, []byte(line)) {
			t.Errorf("%q is shown as %q", line, got)
		}
	}
}

// What a Sink writes about lines that it dropped is a line of JSON like others, and a line without its end gets one.
func TestSinkKeepsLinesApart(t *testing.T) {
	path := Path(t.TempDir(), "a")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := NewSink(f)
	s.mu.Lock()
	s.dropped = 3
	s.mu.Unlock()
	_, _ = s.Write([]byte("panic: without its end"))
	_, _ = s.Write([]byte("next\n"))
	s.Close()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(content), "\n")
	// The note about the dropped lines follows those that are written together.
	note := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "{") })
	if len(lines) != 4 || lines[0] != "panic: without its end" || note < 1 || lines[3-note] != "next" {
		t.Fatalf("%q", content)
	}
	if got := string(Readable([]byte(lines[note]), time.Now())); !strings.HasSuffix(got, "WARN  lines dropped: they could not be written in time lines=3") {
		t.Errorf("%q is shown as %q", lines[note], got)
	}
}
