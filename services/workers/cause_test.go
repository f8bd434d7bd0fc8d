package workers

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"balanza/e2e/testenv"
)

func causeOf(output string) *Cause {
	c := new(Cause)
	for line := range bytes.Lines([]byte(output)) {
		c.Add(line)
	}
	return c
}

// What Node.js, Python, a shell and Go print at a crash, from the programs that are installed here. An empty want means
// that the last line counts.
func TestCauseOfRealPrograms(t *testing.T) {
	for _, c := range []struct{ name, file, program, want string }{
		{"an uncaught error", "a.js", "\nundefined.x", "TypeError: Cannot read properties of undefined (reading 'x')"},
		{"an error with its cause", "a.js", "try { null.y } catch (cause) { throw new Error('cannot start', { cause }) }",
			"Error: cannot start, caused by TypeError: Cannot read properties of null (reading 'y')"},
		{"a port that is taken", "a.js", "const net = require('net'); const s = net.createServer().listen(0, '127.0.0.1', () => " +
			"net.createServer().listen(s.address().port, '127.0.0.1'))", "Error: listen EADDRINUSE: address already in use 127.0.0.1:"},
		{"a module that does not exist", "a.js", "require('./no.js')", "Error: Cannot find module './no.js'"},
		{"an ECMAScript module that does not exist", "a.mjs", "import './no.mjs'", "Error [ERR_MODULE_NOT_FOUND]: Cannot find module"},
		{"a syntax error", "a.js", "foo bar", "SyntaxError: Unexpected identifier"},
		{"a rejected promise", "a.js", "(async () => { throw new RangeError('async') })()", "RangeError: async"},
		{"a promise rejected with a text", "a.js", "Promise.reject('why')", `rejected with the reason "why"`},
		{"a text thrown", "a.js", "throw 'text'", "text"},
		{"a message of two lines", "a.js", `throw new Error('one\ntwo')`, "Error: one"},
		{"an error with fields", "a.js", "throw Object.assign(new Error('mine'), { code: 3, nested: { at: 'x:1' } })", "Error: mine"},
		{"an error of errors", "a.js", "throw new AggregateError([new Error('a'), new Error('b')], 'all')", "AggregateError: all"},
		{"an error that the program prints", "a.js", "process.on('uncaughtException', e => { console.error(e); process.exit(1) })\nnull.z",
			"TypeError: Cannot read properties of null (reading 'z')"},
		{"a message of two lines that the program prints", "a.js", `console.error(new Error('one\ntwo')); process.exit(1)`, "Error: one"},
		{"an end that says more", "a.js", "process.on('exit', () => console.log('closed the database'))\nnull.z",
			"TypeError: Cannot read properties of null (reading 'z')"},
		{"a warning", "a.js", "new Buffer(1); process.on('exit', () => console.error('bye')); process.exitCode = 1", ""},
		{"no memory", "oom.js", "const a = []; for (;;) a.push(new Array(1000).fill(Math.random()))", "FATAL ERROR: Reached heap limit"},

		{"an uncaught exception", "a.py", "def f():\n    raise ValueError('why')\nf()", "ValueError: why"},
		{"an exception with its cause", "a.py", "try:\n    int('x')\nexcept ValueError as e:\n    raise RuntimeError('cannot start') from e",
			"RuntimeError: cannot start, caused by ValueError: invalid literal for int() with base 10: 'x'"},
		{"an exception while one is handled", "a.py", "try:\n    int('x')\nexcept ValueError:\n    {}['k']", "KeyError: 'k'"},
		{"a syntax error", "a.py", "foo bar", "SyntaxError: invalid syntax"},
		{"a group", "a.py", "raise ExceptionGroup('all', [ValueError('a'), TypeError('b')])",
			"ExceptionGroup: all (2 sub-exceptions), caused by ValueError: a"},
		{"an exception in a thread", "a.py", "import threading\nt = threading.Thread(target=lambda: {}['k'])\nt.start()\nt.join()", "KeyError: 'k'"},
		{"a module that does not exist", "a.py", "import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"},
		{"an exception that is ignored", "a.py", "class A:\n    def __del__(self): raise KeyError('late')\na = A()\nraise ValueError('real')", "ValueError: real"},
		{"a message of two lines", "a.py", `raise ValueError('one\ntwo')`, "ValueError: one"},
		{"a text", "a.py", "print('one')\nimport sys\nsys.exit('no database')", ""},
		{"a segmentation fault", "a.py", "import faulthandler, ctypes\nfaulthandler.enable()\nctypes.string_at(0)", "Fatal Python error: Segmentation fault"},

		{"a command that does not exist", "a.sh", "echo one\nno-such-command\n", ""},

		{"a panic", "a.go", `package main; func main() { panic("why") }`, "panic: why"},
		{"a panic of a nil pointer", "a.go", "package main; func main() { var p *int; *p = 1 }", "panic: runtime error: invalid memory address"},
		{"a panic again", "a.go", `package main; func main() { defer func() { panic(recover()) }(); panic("first") }`, "panic: first"},
		{"another panic after a recovered one", "a.go", `package main; func main() { defer func() { recover(); panic("second") }(); panic("first") }`, "panic: second"},
		{"a deadlock", "a.go", "package main; func main() { select {} }", "fatal error: all goroutines are asleep - deadlock!"},
		{"a signal", "a.go", `package main; import "syscall"; func main() { syscall.Kill(syscall.Getpid(), syscall.SIGQUIT); select {} }`, "SIGQUIT: quit"},
	} {
		t.Run(c.file+" "+c.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), c.file)
			if err := os.WriteFile(file, []byte(c.program), 0o600); err != nil {
				t.Fatal(err)
			}
			var command []string
			switch filepath.Ext(file) {
			case ".py":
				command = []string{"python3", file}
			case ".sh":
				command = []string{"sh", file}
			case ".go":
				command = []string{"go", "run", file}
			default:
				command = []string{"node", "--max-old-space-size=32", file}
			}
			if _, err := exec.LookPath(command[0]); err != nil && !testenv.All() {
				t.Skip(err)
			}
			output, err := exec.Command(command[0], command[1:]...).CombinedOutput()
			if _, ended := errors.AsType[*exec.ExitError](err); !ended && c.name != "an exception in a thread" {
				t.Fatalf("%v: %s", err, output)
			}
			got := causeOf(string(output))
			if c.want == "" {
				lines := strings.Split(strings.TrimSpace(string(output)), "\n")
				if last := lines[len(lines)-1]; got.String() != last || got.IsCrash() {
					t.Errorf("the cause is %q, want the last line, %q", got, last)
				}
			} else if !strings.Contains(got.String(), c.want) || !got.IsCrash() {
				t.Errorf("the cause is %q, want %q, of\n%s", got, c.want, output)
			}
		})
	}
}

// What runtimes print that are not on every machine, as they printed it once. A file's name begins with the version.
func TestCauseOfRecordedPrograms(t *testing.T) {
	causes := map[string]string{
		"java-17-cause": `Exception in thread "main" java.lang.IllegalStateException: cannot start, ` +
			"caused by java.lang.IllegalArgumentException: port 99999",
		"java-17-null":        `Exception in thread "main" java.lang.NullPointerException: Cannot invoke "Object.hashCode()" because "<local1>" is null`,
		"java-17-no-class":    "Error: Could not find or load main class Nothing, caused by java.lang.ClassNotFoundException: Nothing",
		"ruby-3.1-raise":      "a.rb:1:in `f': why (RuntimeError)",
		"ruby-3.1-no-method":  "nil.rb:1:in `<main>': undefined method `foo' for nil:NilClass (NoMethodError)",
		"ruby-3.1-syntax":     "syn.rb:1: syntax error, unexpected end-of-input",
		"ruby-3.1-thread":     "th.rb:1:in `block in <main>': t (RuntimeError)",
		"ruby-3.1-no-message": "un.rb:1:in `<main>': unhandled exception",
		"ruby-3.1-cause": "cause.rb:4:in `rescue in <main>': cannot start (RuntimeError), " +
			`caused by cause.rb:2:in ` + "`Integer'" + `: invalid value for Integer(): "x" (ArgumentError)`,
		"rust-1.95-index":     "thread 'main' (4418) panicked at a.rs:1:55: index out of bounds: the len is 0 but the index is 0",
		"rust-1.95-backtrace": "thread 'main' (4434) panicked at a.rs:1:55: index out of bounds: the len is 0 but the index is 0",
		"rust-1.95-thread":    "thread 'main' (4420) panicked at c.rs:1:63: called `Result::unwrap()` on an `Err` value: Any { .. }",
		"rust-1.95-overflow":  "fatal runtime error: stack overflow, aborting",
	}
	files, err := filepath.Glob("testdata/crash/*.txt")
	if err != nil || len(files) != len(causes) {
		t.Fatalf("%d files, want %d: %v", len(files), len(causes), err)
	}
	for _, file := range files {
		output, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got, want := causeOf(string(output)), causes[strings.TrimSuffix(filepath.Base(file), ".txt")]
		if got.String() != want || !got.IsCrash() {
			t.Errorf("%s: the cause is %q, want %q", file, got, want)
		}
	}
}

// Forms of other versions than the recorded ones, and output around a crash.
func TestCause(t *testing.T) {
	frames := "\n    at f (/x/a.js:1:2)\n    at g (/x/a.js:3:4)\n"
	long := strings.Repeat("Ñ", maxScanned)
	for _, c := range []struct {
		name, output, want string
		crash              bool
	}{
		{"nothing", "", "", false},
		{"empty lines", "\n \n\t\n", "", false},
		{"the last line", "one\ntwo\n\n", "two", false},
		{"no line end", "one\nPassword: ", "Password:", false},
		{"Rust before 1.73", "thread 'main' panicked at 'why', src/main.rs:2:5\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n",
			"thread 'main' panicked at 'why', src/main.rs:2:5", true},
		{"Rust without a message", "thread 'main' panicked at src/main.rs:2:5:\n\nnote: run with `RUST_BACKTRACE=1`\n",
			"thread 'main' panicked at src/main.rs:2:5:", true},
		{".NET", "Unhandled exception. System.InvalidOperationException: cannot start\n ---> System.ArgumentException: port\n" +
			"   at P.F() in /app/P.cs:line 3\n   --- End of inner exception stack trace ---\n   at P.Main() in /app/P.cs:line 9\n",
			"Unhandled exception. System.InvalidOperationException: cannot start, caused by System.ArgumentException: port", true},
		{".NET Framework", "\nUnhandled Exception: System.Exception: why\n   at P.Main()\n", "Unhandled Exception: System.Exception: why", true},
		{"Ruby 3.4", "a.rb:1:in 'Integer#/': divided by 0 (ZeroDivisionError)\n\tfrom a.rb:1:in '<main>'\n",
			"a.rb:1:in 'Integer#/': divided by 0 (ZeroDivisionError)", true},
		{"Java's message of two lines", "Exception in thread \"main\" E: one\ntwo\n\tat A.main(A.java:1)\nCaused by: F: three\nfour\n\tat A.f(A.java:2)\n\t... 1 more\n",
			`Exception in thread "main" E: one, caused by F: three`, true},
		{"a cause that the error repeats", "Exception in thread \"main\" E: F: why\n\tat A.main(A.java:1)\nCaused by: F: why\n\tat A.f(A.java:2)\n",
			`Exception in thread "main" E: F: why`, true},
		{"the innermost cause", "Error: a" + frames + "Caused by: B: b" + frames + "Caused by: C: c" + frames, "Error: a, caused by C: c", true},
		{"an error in a line of a log", "2026-01-01 ERROR request failed: TypeError: x" + frames, "2026-01-01 ERROR request failed: TypeError: x", true},
		{"an error long ago", "TypeError: x" + frames + strings.Repeat("GET /\n", maxAfter+1) + "no database", "no database", false},
		{"a panic with many goroutines", "panic: why\n\n" + strings.Repeat("goroutine 1 [running]:\nmain.main()\n\t/x/a.go:1 +0x1\n\n", 100) + "exit status 2\n", "panic: why", true},
		{"a panic that is only a line of a log", "panic: why\n" + strings.Repeat("GET /\n", maxAfter+1), "GET /", false},
		{"a second crash", "TypeError: x" + frames + "restarting\nRangeError: y" + frames, "RangeError: y", true},
		{"a signal that the program handles", "SIGTERM: shutting down\nclosed\n", "closed", false},
		{"an address and a drawing", "listening on http://localhost:3000\n ^^\nready\n", "ready", true}, // as Node.js prints an error
		{"colours", "\x1b[31m\x1b[1mValueError\x1b[0m: why\x1b]0;title\x07 \x1b(Bnot\n", "ValueError: why not", false},
		{"colours of a crash", "\x1b[31mTraceback (most recent call last):\x1b[0m\n  \x1b[36mFile\x1b[0m \"a.py\", line 1\n\x1b[31mValueError\x1b[0m: why\n", "ValueError: why", true},
		{"colours by C1", "\u009b31mred\u009b0m\n", "red", false},
		{"control characters", "a\x00b\x07c\td\u202ee\u0085f\n", "abc de f", false},
		{"invalid UTF-8", "caf\xe9 \xf0\n", "caf\uFFFD \uFFFD", false},
		{"carriage returns", "10 %\r50 %\rno space left\r\n", "no space left", false},
		{"a long line", "x" + long + "\n", "x" + strings.Repeat("Ñ", (maxCause-1-len("…"))/2) + "…", false},
	} {
		got := causeOf(c.output)
		if got.String() != c.want || got.IsCrash() != c.crash {
			t.Errorf("%s: %q, %v, want %q, %v", c.name, got, got.IsCrash(), c.want, c.crash)
		}
	}
}

// Whatever a program prints, the cause is one line of printable characters, and short.
func FuzzCause(f *testing.F) {
	files, _ := filepath.Glob("testdata/crash/*.txt")
	for _, file := range files {
		output, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(output)
	}
	f.Add([]byte("  + Exception Group Traceback (most recent call last):\n  | E\n  | \n  |x\n  +-+---\n    | F\nPC=\n/a:1\n^\n\x1b[\n"))
	f.Fuzz(func(t *testing.T, output []byte) {
		text := causeOf(string(output)).String()
		if len(text) > maxCause || !utf8.ValidString(text) || strings.TrimSpace(text) != text || printable([]byte(text)) != text {
			t.Errorf("%q", text)
		}
	})
}

// copied is what copyLines passes on of an output. end closes the output and returns the cause.
func copied(t *testing.T, capacity int) (in *os.File, out <-chan string, end func() *Cause) {
	t.Helper()
	output, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	l := &lines{make(chan string, capacity)}
	s, p := &Server{Config: Config{Output: l}}, &process{}
	ended := make(chan struct{})
	go func() {
		s.copyLines(p, output)
		close(ended)
	}()
	return in, l.all, func() *Cause {
		in.Close()
		<-ended
		output.Close()
		return &p.output
	}
}

// Output with lines of any length, or without an end of line, reaches the log unchanged.
func TestCopyLines(t *testing.T) {
	in, out, end := copied(t, 20)
	want := "one\n" + strings.Repeat("y", 2*maxLine+10) + "\npanic: why\n\ngoroutine 1\nexit status 2"
	if _, err := in.WriteString(want); err != nil {
		t.Fatal(err)
	}
	if cause := end(); cause.String() != "panic: why" {
		t.Errorf("the cause is %q", cause)
	}
	var all string
	for len(out) > 0 {
		all += <-out
	}
	if all != want {
		t.Errorf("%d bytes arrived in the log", len(all))
	}
}

// Of a line that is longer than the buffer, the beginning counts.
func TestCauseOfALongLine(t *testing.T) {
	in, _, end := copied(t, 20)
	if _, err := in.WriteString("begin " + strings.Repeat("y", 2*maxLine) + " end"); err != nil {
		t.Fatal(err)
	}
	if cause := end().String(); !strings.HasPrefix(cause, "begin yyy") {
		t.Errorf("the cause is %q", cause)
	}
}

// A prompt reaches the log while its program waits, and what follows it is a line of its own.
func TestCopyPrompt(t *testing.T) {
	in, out, end := copied(t, 20)
	next := func(want string) {
		t.Helper()
		select {
		case got := <-out:
			if got != want {
				t.Fatalf("%q, want %q", got, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("there is no %q", want)
		}
	}
	for _, c := range []struct{ write, want string }{{"Password: ", "Password: "}, {"wrong\nAgain: ", "wrong\n"}, {"", "Again: "}} {
		if _, err := in.WriteString(c.write); err != nil {
			t.Fatal(err)
		}
		next(c.want)
	}
	if cause := end(); cause.String() != "Again:" {
		t.Errorf("the cause is %q", cause)
	}
}

// A successor is told why the process died, and of its output only the error of a crash.
func TestPredecessor(t *testing.T) {
	long := "panic: " + strings.Repeat("Ñ", maxPredecessorCause)
	for _, c := range []struct{ line, killCause, want string }{
		{"", "", "exit status 2"},
		{"a line of its log", "", "exit status 2"},
		{"panic: why", "", "exit status 2: panic: why"},
		{"fatal error: stack overflow", "", "exit status 2: fatal error: stack overflow"},
		{"a line of its log", "no heartbeat for 5s", "no heartbeat for 5s"},
		{long, "", cut("exit status 2: "+long, maxPredecessorCause)},
	} {
		p := &process{exit: errors.New("exit status 2"), killCause: c.killCause}
		p.output.Add([]byte(c.line))
		if got := p.asPredecessor(); got.Cause != c.want || len(got.Cause) > maxPredecessorCause || got.PID != os.Getpid() {
			t.Errorf("%+v, want %q", got, c.want)
		}
	}
}
