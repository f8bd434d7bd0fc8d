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
	f := &File{Path: path, MaxSize: 1 << 20}
	defer f.close()
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
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-lines:
			if got != want {
				t.Errorf("%q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("no line; want %q", want)
		}
	}
	expect("after")
	// It is as long as before, and longer, when the reader looks again.
	for _, line := range []string{"again", "a longer one"} {
		if err := os.Truncate(path, 0); err != nil {
			t.Fatal(err)
		}
		write(line)
		expect(line)
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

// lines returns the lines of a file, nil when there is none.
func lines(t *testing.T, path string) []string {
	t.Helper()
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(content))
}

// patternDir is a folder whose path is a pattern that does not match it.
func patternDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "[a] *b? ñ")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Whatever somebody does to the file, the next line is in the one that the path names, and no line is missing.
func TestFileGoesOnWhereThePathLeads(t *testing.T) {
	dir := patternDir(t)
	path := Path(dir, "x")
	f := &File{Path: path, MaxSize: 1 << 20}
	defer f.close()
	write := func(line string) {
		t.Helper()
		if _, err := fmt.Fprintln(f, line); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(path string, want ...string) {
		t.Helper()
		if got := lines(t, path); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Fatalf("%s: %q, want %q", path, got, want)
		}
	}
	write("one")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write("moved")
	expect(path+".1", "one")
	expect(path, "moved")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write("removed")
	expect(path, "removed")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	write("truncated")
	expect(path, "truncated")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	write("folder-removed")
	expect(path, "folder-removed")
	// logrotate's create: the new file is there before the first line.
	if err := os.Rename(path, path+".2"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	write("created")
	expect(path, "created")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	// Nothing can be made at the path: the file that is open goes on.
	if err := os.Rename(path, path+".3"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	write("kept")
	expect(path+".3", "created", "kept")
}

// Several writers of one file rotate it once for each time that it is full, lose no line, and keep as many as they should.
func TestSeveralWritersRotateOneFile(t *testing.T) {
	path := Path(patternDir(t), "x")
	const writers, each = 4, 500
	const size = 100 * int64(len("w0-0000\n"))
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			f := &File{Path: path, MaxSize: size, Backups: 1000}
			defer f.close()
			for i := range each {
				if _, err := fmt.Fprintf(f, "w%d-%04d\n", w, i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	found := map[string]int{}
	backups := rotated(path)
	for _, file := range append(backups, path) {
		all := lines(t, file)
		for _, line := range all {
			found[line]++
		}
		// Writers that looked at the size at the same time may exceed it by one line each.
		if n := len(all); n > 100+writers || n < 100 && file != path {
			t.Errorf("%s has %d lines", file, n)
		}
	}
	if len(found) != writers*each {
		t.Errorf("%d lines of %d are there", len(found), writers*each)
	}
	for line, n := range found {
		if n != 1 {
			t.Errorf("%s is there %d times", line, n)
		}
	}
	f := &File{Path: path, MaxSize: 1, Backups: 2}
	defer f.close()
	for range 3 {
		if _, err := fmt.Fprintln(f, "more"); err != nil {
			t.Fatal(err)
		}
	}
	if left := rotated(path); len(left) != 2 || left[0] <= backups[len(backups)-1] {
		t.Errorf("backups: %q", left)
	}
}

// A file that was moved within the folder is no new one for logs -f: its lines were shown.
func TestTailDoesNotRepeatAFileThatWasMoved(t *testing.T) {
	dir := patternDir(t)
	path := Path(dir, "x")
	f := &File{Path: path, MaxSize: 1 << 20}
	defer f.close()
	fmt.Fprintln(f, "one")
	shown := make(chan string, 10)
	go Tail{Files: map[string]string{"x": path}, Lines: 10, Follow: true, Dir: dir}.Run(t.Context(), func(name string, l []byte) {
		shown <- name + " " + string(l)
	})
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-shown:
			if got != want {
				t.Fatalf("%q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no line; want %q", want)
		}
	}
	expect("x one")
	if err := os.Rename(path, Path(dir, "x-old")); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(f, "two")
	expect("x two")
	time.Sleep(listInterval + 2*tailInterval)
	if err := os.WriteFile(Path(dir, "y"), []byte("three\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("y three")
}
