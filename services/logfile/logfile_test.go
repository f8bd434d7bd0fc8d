package logfile

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"
)

func TestSinkNeverWaits(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close() // nobody reads
	s := NewSink(writer)
	line := bytes.Repeat([]byte("x"), 1000)
	for range 3 * queueLines {
		_, _ = s.Write(line) // would hang here
	}
	if s.dropped.Load() == 0 {
		t.Error("a pipe that nobody reads took everything")
	}
	s.Close()
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
