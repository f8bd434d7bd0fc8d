package logfile

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	// tailInterval is the time between two looks for more. Where several files are merged, a line is shown at the latest at
	// the look after the one that found it.
	tailInterval = 150 * time.Millisecond
	// writeDelay is the time after which a line is expected to be in its file, so that no earlier one comes after it.
	writeDelay = 100 * time.Millisecond
	// listInterval is the time between two looks for new files.
	listInterval = time.Second
	// readSize is how many bytes of a file one look reads at most; the next one goes on there.
	readSize = 4 << 20
	// maxLine is the size in bytes above which a line is cut in two.
	maxLine = 1 << 20
)

// Tail says which lines of which log files are read.
type Tail struct {
	Files map[string]string // paths by name
	Lines int               // how many of the last lines of each file, those of its rotated files included
	// Follow goes on with the lines that are added to the files, or to those that replace them.
	Follow bool
	// Dir is a folder whose other log files are followed too, without their last lines, whenever they appear. Empty: none.
	Dir string
}

// Run shows lines without their line end. Those of several files are ordered by the time in them; a line without a time has
// that of the line before it. Followed lines are ordered among those that are written within about 200 ms, and shown at most
// 300 ms after they are written. Run returns when the last lines are shown or, if it follows, when ctx ends.
func (t Tail) Run(ctx context.Context, show func(name string, line []byte)) {
	m := merger{show: show}
	defer m.close()
	for name, path := range t.Files {
		m.add(openReader(name, path, t.Lines, t.Follow))
	}
	if t.Follow && t.Dir != "" {
		m.discover(t.Dir, true)
	}
	m.showAll()
	if !t.Follow {
		return
	}
	listed := time.Now()
	for {
		select {
		case <-ctx.Done():
			m.showAll()
			return
		case <-time.After(tailInterval):
		}
		if t.Dir != "" && time.Since(listed) >= listInterval {
			m.discover(t.Dir, false)
			listed = time.Now()
		}
		m.look()
	}
}

// entry is a line that waits to be shown.
type entry struct {
	reader *reader
	line   []byte
	at     time.Time // the time in the line, or in the last line before it that has one
}

// merger orders the lines of several files.
type merger struct {
	show    func(name string, line []byte)
	readers []*reader
	waiting []entry
}

// add reads a file from now on; lines are the first ones to show.
func (m *merger) add(r *reader, lines [][]byte) {
	m.readers = append(m.readers, r)
	slices.SortFunc(m.readers, func(a, b *reader) int { return strings.Compare(a.name, b.name) })
	m.waiting = append(m.waiting, r.entries(lines)...)
}

// discover adds the files of a folder that are not read yet: at their end, or from their begin where they are new.
func (m *merger) discover(dir string, atEnd bool) {
	files, err := List(dir)
	if err != nil {
		return
	}
	for name, path := range files {
		switch {
		case slices.ContainsFunc(m.readers, func(r *reader) bool { return r.path == path }):
		case atEnd || m.hasRead(path):
			m.add(openReader(name, path, 0, true))
		default:
			m.add(&reader{name: name, path: path}, nil)
		}
	}
}

// hasRead tells whether a file is one that was read under another name: somebody has moved it.
func (m *merger) hasRead(path string) bool {
	info, err := os.Stat(path)
	return err == nil && slices.ContainsFunc(m.readers, func(r *reader) bool {
		if r.file != nil {
			if open, err := r.file.Stat(); err == nil && os.SameFile(open, info) {
				return true
			}
		}
		// A later file may have got the number of one that was removed; it is shorter then.
		return r.before != nil && os.SameFile(r.before, info) && info.Size() >= r.before.Size()
	})
}

// look reads what is new, and shows the lines before which no other is expected: those that are older than writeDelay or
// were found by an earlier look, and all that belong before them.
func (m *merger) look() {
	found, limit := len(m.waiting), time.Now().Add(-writeDelay)
	for _, r := range m.readers {
		m.waiting = append(m.waiting, r.entries(r.next())...)
	}
	var last time.Time
	for i, e := range m.waiting {
		if e.at.After(last) && (i < found || !e.at.After(limit)) {
			last = e.at
		}
	}
	m.sort()
	due := len(m.waiting)
	if len(m.readers) > 1 {
		due = 0
		for due < len(m.waiting) && !m.waiting[due].at.After(last) {
			due++
		}
	}
	m.showFirst(due)
}

// sort orders the lines that wait. Those of one file keep their order: it is the order in which they were written.
func (m *merger) sort() {
	if len(m.readers) > 1 {
		slices.SortStableFunc(m.waiting, func(a, b entry) int { return a.at.Compare(b.at) })
	}
}

func (m *merger) showAll() {
	m.sort()
	m.showFirst(len(m.waiting))
}

func (m *merger) showFirst(n int) {
	for _, e := range m.waiting[:n] {
		m.show(e.reader.name, e.line)
	}
	m.waiting = slices.Delete(m.waiting, 0, n)
}

func (m *merger) close() {
	for _, r := range m.readers {
		r.close()
	}
}

// reader reads the lines of one log file, and of those that replace it.
type reader struct {
	name, path string
	file       *os.File    // nil: there is none yet
	before     os.FileInfo // the file that this one replaced; nil: none
	incomplete []byte      // the begin of a line
	tail       []byte      // the bytes before the current offset, at most tailSize
	at         time.Time
}

// openReader opens a log file and returns its last n lines; where it has fewer, they begin in the files that were rotated.
// A line that is not complete is among them unless the file is followed.
func openReader(name, path string, n int, follow bool) (*reader, [][]byte) {
	r := &reader{name: name, path: path}
	var err error
	if r.file, err = os.Open(path); err != nil {
		r.file = nil
		return r, nil
	}
	lines := r.last(n)
	if !follow && len(r.incomplete) > 0 {
		lines = append(lines, r.incomplete)
	}
	before := rotated(path)
	for i := len(before) - 1; i >= 0 && len(lines) < n; i-- {
		old := &reader{path: before[i]}
		if old.file, err = os.Open(old.path); err != nil {
			continue // removed meanwhile
		}
		if !sameFile(old.file, r.file) { // else it was rotated meanwhile
			lines = append(old.last(n-len(lines)), lines...)
			r.at = old.at
		}
		old.close()
	}
	return r, lines[max(0, len(lines)-n):]
}

func (r *reader) close() {
	if r.file != nil {
		r.file.Close()
	}
}

// last returns the last n complete lines, and notes the time of the line before them. Nothing before them is kept in memory.
func (r *reader) last(n int) (lines [][]byte) {
	info, err := r.file.Stat()
	if err != nil {
		return nil
	}
	begin := lastLines(r.file, info.Size(), n)
	r.at = lastTime(r.file, begin)
	if _, err := r.file.Seek(begin, io.SeekStart); err != nil {
		return nil
	}
	for {
		more, full := r.read()
		lines = append(lines, more...)
		if !full {
			return lines[max(0, len(lines)-n):] // some may have been added meanwhile
		}
	}
}

// blockSize is how many bytes lastLines reads at a time.
const blockSize = 64 << 10

// lastLines returns the offset at which the last n complete lines of a file of that size begin.
func lastLines(f io.ReaderAt, size int64, n int) int64 {
	block := make([]byte, min(size, blockSize))
	for end, found := size, 0; end > 0; {
		begin := max(0, end-blockSize)
		part := block[:end-begin]
		if read, err := f.ReadAt(part, begin); read < len(part) || err != nil && !errors.Is(err, io.EOF) {
			return size // it became shorter
		}
		for i := bytes.LastIndexByte(part, '\n'); i >= 0; i = bytes.LastIndexByte(part[:i], '\n') {
			if found++; found > n {
				return begin + int64(i) + 1
			}
		}
		end = begin
	}
	return 0
}

// lastTime returns the last time in a block of lines before an offset; zero where there is none.
func lastTime(f io.ReaderAt, end int64) (last time.Time) {
	block := make([]byte, min(end, blockSize))
	n, _ := f.ReadAt(block, end-int64(len(block)))
	for line := range bytes.Lines(block[:n]) {
		if at, ok := lineTime(line); ok {
			last = at
		}
	}
	return last
}

// read returns the lines from the current offset on, as far as one look may read; full tells that there may be more.
func (r *reader) read() (lines [][]byte, full bool) {
	content, _ := io.ReadAll(io.LimitReader(r.file, readSize))
	full = len(content) == readSize
	if len(content) > 0 || r.tail == nil {
		r.keepTail()
	}
	lines = bytes.Split(append(r.incomplete, content...), []byte("\n"))
	r.incomplete = slices.Clone(lines[len(lines)-1])
	lines = lines[:len(lines)-1]
	for i := 0; i < len(lines); i++ {
		if len(lines[i]) > maxLine {
			lines = slices.Insert(lines, i+1, lines[i][maxLine:])
			lines[i] = lines[i][:maxLine]
		}
	}
	for len(r.incomplete) > maxLine {
		lines = append(lines, r.incomplete[:maxLine])
		r.incomplete = r.incomplete[maxLine:]
	}
	return lines, full
}

// tailSize is how many bytes before the current offset tell whether a file is still the one that was read. The time is in
// them, unless a line is very long.
const tailSize = 1 << 10

// keepTail notes the bytes before the current offset.
func (r *reader) keepTail() {
	r.tail = make([]byte, 0, tailSize)
	if at, err := r.file.Seek(0, io.SeekCurrent); err == nil {
		n, _ := r.file.ReadAt(r.tail[:min(at, tailSize)], max(0, at-tailSize))
		r.tail = r.tail[:n]
	}
}

// wasEmptied tells whether the file was emptied since the last read. It may have got as many lines again since.
func (r *reader) wasEmptied() bool {
	at, err := r.file.Seek(0, io.SeekCurrent)
	if err != nil || len(r.tail) == 0 {
		return false
	}
	now := make([]byte, len(r.tail))
	n, err := r.file.ReadAt(now, at-int64(len(now)))
	return n < len(now) && errors.Is(err, io.EOF) || n == len(now) && !bytes.Equal(now, r.tail)
}

// next returns the lines that were added since the last call.
func (r *reader) next() (lines [][]byte) {
	if r.file == nil {
		var err error
		if r.file, err = os.Open(r.path); err != nil {
			r.file = nil
			return nil
		}
	}
	if r.wasEmptied() {
		_, _ = r.file.Seek(0, io.SeekStart)
		r.incomplete, r.tail = nil, nil
	}
	lines, full := r.read()
	current, err := os.Stat(r.path)
	if full || err != nil { // between two files there is none
		return lines
	}
	open, err := r.file.Stat()
	if err == nil && !os.SameFile(open, current) { // rotated; the old file may have got lines since
		for full = true; full; {
			var more [][]byte
			more, full = r.read()
			lines = append(lines, more...)
		}
		if next, err := os.Open(r.path); err == nil {
			if len(r.incomplete) > 0 {
				lines = append(lines, r.incomplete)
			}
			r.file.Close()
			r.file, r.before, r.incomplete, r.tail = next, open, nil, nil
			more, _ := r.read()
			lines = append(lines, more...)
		}
	}
	return lines
}

// entries gives lines their times. Where no line before them has one, they have that of the first one after them, or else
// that of the file's last change.
func (r *reader) entries(lines [][]byte) []entry {
	all := make([]entry, len(lines))
	undated := 0
	for i, line := range lines {
		if at, ok := lineTime(line); ok {
			if r.at.IsZero() {
				for j := range i {
					all[j].at = at
				}
			}
			r.at = at
		} else if r.at.IsZero() {
			undated++
		}
		all[i] = entry{r, line, r.at}
	}
	if undated == len(all) && undated > 0 {
		changed := time.Now()
		if info, err := r.file.Stat(); err == nil {
			changed = info.ModTime()
		}
		for i := range all {
			all[i].at = changed
		}
	}
	return all
}

// timePrefix is how slog's JSON begins.
var timePrefix = []byte(`{"time":"`)

// lineTime returns the time in a line that slog wrote as JSON.
func lineTime(line []byte) (at time.Time, ok bool) {
	rest, ok := bytes.CutPrefix(line, timePrefix)
	if !ok {
		return at, false
	}
	text, _, ok := bytes.Cut(rest, []byte(`"`))
	if !ok {
		return at, false
	}
	at, err := time.Parse(time.RFC3339Nano, string(text))
	return at, err == nil
}

// sameFile tells whether two open files are the same.
func sameFile(a, b *os.File) bool {
	x, err1 := a.Stat()
	y, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}
