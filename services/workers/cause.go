package workers

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Cause finds in the output of a program the line that says why it ended: the error of a crash, as the runtimes of Go,
// Node.js, Python, Ruby, Java, .NET and Rust print it, or else the last line that is not empty. It keeps a few lines,
// however many it is given. The zero value is ready for the first one.
type Cause struct {
	last     string // line that is not empty
	expected expectation

	crash  string // the error of the last crash; empty: none
	inner  string // the error that caused it
	kind   crashKind
	frames bool // a line of its stack trace was seen
	after  int  // lines that are not part of it

	candidate string // a line that begins with the name of an error, for the stack trace that may follow
	age       int    // lines since then
	location  int    // Node.js: lines within which a caret may follow the file and line of a crash
	chained   string // Python: what caused the error of the next traceback
	ignored   bool   // Python: the traceback is of an exception that has no effect
	thread    string // Rust: the line before the message
}

// expectation is what the lines so far say about the next one.
type expectation int

const (
	anyLine      expectation = iota
	nodeError                // the error, after the caret
	pythonFrames             // frames until the first line that is not indented, the error
	pythonGroup              // the same in a drawing of + and |
	rustMessage              // the message, after the line of the thread
)

// crashKind tells crashes apart that have further lines of a form of their own.
type crashKind int

const (
	anyCrash  crashKind = iota
	goCrash             // its stack trace may follow
	goTrace             // the rest of the output is its stack trace
	rubyCrash           // the error that caused it may follow, in the same form
)

const (
	// maxCause is how many bytes of a cause are kept. Node.js's error of an unhandled rejection has 200 before the reason.
	maxCause = 500
	// maxScanned is how many bytes of a line are read.
	maxScanned = 4096
	// maxAfter is how many lines may follow a crash: what a wrapper, a handler of the program's end, or further lines of the
	// message add. After more of them the program has gone on, and the crash is not why it ended.
	maxAfter = 10
)

var (
	escapeSequence = regexp.MustCompile(`(?:\x1b\[|\x{9b})[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]`)
	frame          = regexp.MustCompile(`^at .*(?:\(|:\d|<anonymous>)`)
	namedError     = regexp.MustCompile(`^(?:Uncaught )?(?:[A-Za-z_$][\w.$]*)?(?:Error|Exception)(?: \[\w+\])?(?::|$)`)
	goSignal       = regexp.MustCompile(`^SIG[A-Z0-9]+: `)
	goStack        = regexp.MustCompile(`^(?:goroutine \d+ |runtime stack:|\[signal )`)
	nodeLocation   = regexp.MustCompile(`^\S.*:\d+$`)
	nodeNative     = regexp.MustCompile(`^\d+: 0x[0-9a-f]+ `)
	pythonSource   = regexp.MustCompile(`^File ".*", line \d+$`)
	rubyError      = regexp.MustCompile("^\\S.*:\\d+:(?:in [`'].*': (?:.*\\([A-Z][\\w:]*\\)|unhandled exception)$| syntax error)")
	rustPanic      = regexp.MustCompile(`^thread '.*'(?: \(\d+\))? panicked at `)
)

const (
	pythonTraceback = "Traceback (most recent call last):"
	pythonChain     = "The above exception was the direct cause of the following exception:"
)

// Add takes the next line of the output, with or without its end.
func (c *Cause) Add(line []byte) {
	text := printable(line)
	trimmed := strings.TrimSpace(text)
	if trimmed == "" {
		return
	}
	before, indented := c.last, text[0] == ' '
	c.last = cut(trimmed, maxCause)
	c.location = max(0, c.location-1)
	if !c.isExpected(trimmed, indented) && !c.begins(trimmed, indented, before) && !c.continues(trimmed) && !indented {
		c.ordinary(trimmed)
	}
}

// isExpected takes a line of which those before it said what it is.
func (c *Cause) isExpected(line string, indented bool) bool {
	switch c.expected {
	case nodeError:
		c.found(line, anyCrash)
	case rustMessage:
		if strings.HasPrefix(line, "note: ") { // the message is empty
			line = ""
		}
		c.found(strings.TrimSpace(c.thread+" "+line), anyCrash)
	case pythonFrames:
		if indented || line == pythonTraceback {
			return true
		}
		if chained := c.chained; !c.ignored {
			c.found(line, anyCrash)
			c.inner = chained
		}
		c.chained = ""
	case pythonGroup:
		if line[0] == '|' || line[0] == '+' {
			c.addGroup(line)
			return true
		}
		c.expected = anyLine
		return false
	default:
		return false
	}
	c.expected = anyLine
	return true
}

// addGroup takes a line of Python's exception group: its own error comes first, then those in it, the first of which is kept.
func (c *Cause) addGroup(line string) {
	text, ok := strings.CutPrefix(line, "| ")
	switch {
	case !ok, text[0] == ' ', strings.HasSuffix(text, pythonTraceback):
	case !c.frames:
		c.found(text, anyCrash)
		c.frames = true
	case c.inner == "":
		c.inner = cut(text, maxCause)
	}
}

// begins takes a line that begins a crash. before is the line above it.
func (c *Cause) begins(line string, indented bool, before string) bool {
	switch {
	case c.location > 0 && strings.Trim(line, "^") == "":
		c.expected, c.location = nodeError, 0
	case indented && c.kind == goCrash && strings.HasPrefix(line, "panic: "): // in a deferred function
		if strings.HasSuffix(c.crash, " [recovered]") {
			c.found(line, goCrash)
		}
	case indented && line == "+ Exception Group "+pythonTraceback:
		c.expected, c.frames = pythonGroup, false
	case indented && pythonSource.MatchString(line): // a syntax error has no traceback
		c.expected, c.ignored = pythonFrames, false
	case indented:
		return c.beginsAtFrame(line, before)
	case line[0] == '{': // a line of a log, as most are
		return false
	case hasPrefix(line, "panic: ", "fatal error: "):
		c.found(line, goCrash)
	case strings.HasPrefix(line, "PC=") && goSignal.MatchString(before):
		c.found(before, goCrash)
	case hasPrefix(line, `Exception in thread "`, "Unhandled exception. ", "Unhandled Exception: ", // Java; .NET and its predecessor
		"FATAL ERROR: ", "Fatal Python error: ", "fatal runtime error: "): // Node.js's heap; Python; Rust
		c.found(line, anyCrash)
	case strings.HasPrefix(line, "Caused by:") && strings.HasPrefix(before, "Error: "): // Java's launcher, Rust's anyhow
		c.found(before, anyCrash)
		c.inner = strings.TrimSpace(strings.TrimPrefix(c.last, "Caused by:"))
	case line == pythonTraceback:
		c.expected, c.ignored = pythonFrames, strings.HasPrefix(before, "Exception ignored in")
	case line == pythonChain:
		c.chained = c.inner
		if c.chained == "" {
			c.chained = c.crash
		}
	case rustPanic.MatchString(line):
		if strings.HasSuffix(line, ":") {
			c.expected, c.thread = rustMessage, cut(line, maxCause)
		} else { // before Rust 1.73, the message is in the line
			c.found(line, anyCrash)
		}
	case rubyError.MatchString(line):
		if c.crash != "" && c.kind == rubyCrash && c.after == 0 {
			c.inner = c.last
		} else {
			c.found(line, rubyCrash)
		}
	default:
		if nodeLocation.MatchString(line) {
			c.location = 4
		}
		return false
	}
	return true
}

// beginsAtFrame takes a line of a stack trace of Node.js, Java or .NET. One that follows no crash is of an error that the
// program printed itself: the line above it or, when its message has more lines, one that begins with an error's name.
func (c *Cause) beginsAtFrame(line, before string) bool {
	if !frame.MatchString(line) {
		return false
	}
	switch {
	case c.crash != "" && (c.after == 0 || !c.frames):
	case before == "", frame.MatchString(before), strings.HasPrefix(before, "(node:"): // of a warning
		return true
	case c.candidate != "":
		c.found(c.candidate, anyCrash)
	default:
		c.found(before, anyCrash)
	}
	c.frames = true
	return true
}

// continues takes a line that is part of a crash.
func (c *Cause) continues(line string) bool {
	if c.crash == "" {
		return false
	}
	for _, prefix := range []string{"Caused by: ", "---> ", "[cause]: "} { // Java, .NET, Node.js
		if inner, ok := strings.CutPrefix(line, prefix); ok {
			c.inner, c.frames, c.after = cut(inner, maxCause), false, 0
			return true
		}
	}
	if c.kind == goCrash && goStack.MatchString(line) {
		c.kind = goTrace
	}
	return c.kind == goTrace || nodeNative.MatchString(line) ||
		hasPrefix(line, "Node.js v", "Emitted 'error' event", "Thrown at:", "stack backtrace:")
}

// ordinary takes a line that is not part of a crash.
func (c *Cause) ordinary(line string) {
	c.age++
	if namedError.MatchString(line) {
		c.candidate, c.age = c.last, 0
	} else if c.age > maxAfter {
		c.candidate = ""
	}
	if c.after++; c.after > maxAfter {
		c.crash = ""
	}
}

// found begins a crash with its error.
func (c *Cause) found(line string, kind crashKind) {
	c.crash, c.inner, c.kind, c.frames, c.after, c.candidate = cut(line, maxCause), "", kind, false, 0, ""
}

// String returns the cause in one line of at most maxCause bytes of printable characters; empty where there was no output.
func (c *Cause) String() string {
	switch {
	case c.crash == "":
		return c.last
	case c.inner == "" || strings.Contains(c.crash, c.inner): // Java repeats it
		return strings.TrimSuffix(c.crash, " [recovered, repanicked]")
	}
	return cut(c.crash+", caused by "+c.inner, maxCause)
}

// IsCrash reports whether the cause is the error of a crash, and not just the last line.
func (c *Cause) IsCrash() bool { return c.crash != "" }

func hasPrefix(line string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(line, p) })
}

// printable returns a line as a terminal shows it: without escape sequences and control characters, with U+FFFD for invalid
// UTF-8, and of what carriage returns write over each other the last. White space is spaces.
func printable(line []byte) string {
	line = bytes.TrimRight(line, "\r\n")
	line = line[:min(len(line), maxScanned)]
	if !bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
		return string(line)
	}
	line = bytes.TrimRight(escapeSequence.ReplaceAll(line, nil), "\r")
	line = line[bytes.LastIndexByte(line, '\r')+1:]
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return -1
	}, string(line))
}

// cut returns a text, or its beginning and an ellipsis where it has more than n bytes.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	n -= len("…")
	for !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + "…"
}
