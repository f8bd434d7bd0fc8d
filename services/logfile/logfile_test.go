package logfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"
)

// blockedWriter is an output that nobody reads until it is released.
type blockedWriter struct {
	release chan struct{}
	mu      sync.Mutex
	writes  []string
}

func (w *blockedWriter) Write(p []byte) (int, error) {
	<-w.release
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes = append(w.writes, string(p))
	return len(p), nil
}

func (w *blockedWriter) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.writes, "")
}

// An output that is not read holds nobody up. Lines are dropped then, whole ones, and their number is written. What is
// written at once is no more than a pipe takes at once.
func TestSinkNeverWaits(t *testing.T) {
	out := &blockedWriter{release: make(chan struct{})}
	s := NewSink(out)
	const sent = 4 * maxWaiting / 100
	for i := range sent {
		fmt.Fprintf(s, "%099d\n", i)
	}
	close(out.release)
	s.Close()
	fmt.Fprintln(s, "after the end")
	written, dropped := 0, 0
	for line := range strings.Lines(out.text()) {
		if n, err := fmt.Sscanf(line[strings.LastIndexByte(line, ':')+1:], "%d}", &dropped); n == 1 && err == nil {
			continue
		}
		if written++; len(line) != 100 {
			t.Fatalf("not a whole line: %q", line)
		}
	}
	if written+dropped != sent || dropped < sent/2 {
		t.Errorf("%d lines written, %d dropped of %d", written, dropped, sent)
	}
	for _, piece := range out.writes {
		if len(piece) > maxWrite {
			t.Fatalf("%d bytes at once", len(piece))
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// A single line is written soon, a longer one than maxWrite as it is.
func TestSinkWritesSoon(t *testing.T) {
	out := &blockedWriter{release: make(chan struct{})}
	close(out.release)
	s := NewSink(out)
	defer s.Close()
	want := ""
	for _, line := range []string{"a\n", "b\n", strings.Repeat("c", 3*maxWrite) + "\n", "d\n"} {
		want += line
		fmt.Fprint(s, line)
		eventually(t, fmt.Sprintf("%.20q is written", line), func() bool { return out.text() == want })
	}
}

// failingWriter is a disk that is full until there is room.
type failingWriter struct {
	full atomic.Bool
	blockedWriter
}

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.full.Load() {
		return 0, errors.New("no space left")
	}
	return w.blockedWriter.Write(p)
}

// The lines that a full disk did not take are counted, too.
func TestSinkFullDisk(t *testing.T) {
	out := &failingWriter{blockedWriter: blockedWriter{release: make(chan struct{})}}
	close(out.release)
	out.full.Store(true)
	s := NewSink(out)
	fmt.Fprint(s, "a\nb\n")
	eventually(t, "two lines are dropped", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.dropped == 2
	})
	out.full.Store(false)
	fmt.Fprint(s, "c\n")
	s.Close()
	if got := out.text(); !strings.HasPrefix(got, "c\n") || !strings.Contains(got, `"lines":2`) {
		t.Errorf("%q", got)
	}
}

func TestTailFollowsRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	write := func(text string) {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	write("one\ntwo\nthree\n")
	lines := make(chan string, 10)
	go Tail{Files: map[string]string{"x": path}, Lines: 2, Follow: true}.Run(t.Context(), func(_ string, l []byte) { lines <- string(l) })
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-lines:
			if got != want {
				t.Fatalf("%q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no line; want %q", want)
		}
	}
	expect("two")
	expect("three")
	write("four\n")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write("five\n")
	expect("four")
	expect("five")
}

func TestTailGoesOnInAFileThatWasEmptied(t *testing.T) {
	path := Path(t.TempDir(), "x")
	f := &File{Logger: &lumberjack.Logger{Filename: path}}
	defer f.Close()
	write := func(line string) {
		t.Helper()
		if _, err := f.Write([]byte(line + "\n")); err != nil {
			t.Fatal(err)
		}
	}
	write("a long line before")
	lines := make(chan string, 10)
	go Tail{Files: map[string]string{"x": path}, Lines: 1, Follow: true}.Run(t.Context(), func(_ string, l []byte) { lines <- string(l) })
	if got := <-lines; got != "a long line before" {
		t.Fatalf("%q", got)
	}
	if err := Empty(path); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * tailInterval)
	write("after")
	select {
	case got := <-lines:
		if got != "after" {
			t.Errorf("%q", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("no line after the file was emptied")
	}
}

func TestEmptyRemovesWhatWasRotatedAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.log", "a-2026-11-25T10-00-00.000.log", "a-b.log", "a-b-2026-11-25T10-00-00.000.log"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if files, err := List(dir); err != nil || len(files) != 2 || files["a"] == "" || files["a-b"] == "" {
		t.Errorf("listed %v, %v", files, err)
	}
	if err := Empty(Path(dir, "a")); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 3 {
		t.Errorf("left: %v, %v", left, err)
	}
	if info, err := os.Stat(Path(dir, "a")); err != nil || info.Size() != 0 {
		t.Errorf("a.log: %v, %v", info, err)
	}
}
