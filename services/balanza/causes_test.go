package main

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"balanza/e2e/testenv"
)

// needProgram skips a test without a program that it runs, unless every test must run.
func needProgram(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil && !testenv.All() {
		t.Skip(err)
	}
}

// What start says of a program that crashes is the error of its runtime, in one line. The last line of Node.js is its version.
func TestStartSaysTheErrorOfACrash(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	for _, c := range []struct{ program, file, text, want string }{
		{"node", "crash.js", "null.z\n", "TypeError: Cannot read properties of null (reading 'z')\n"},
		{"python3", "crash.py", "try:\n    int('x')\nexcept ValueError as e:\n    raise RuntimeError('no port') from e\n", "RuntimeError: no port, caused by ValueError: "},
		{"sh", "crash.sh", "echo starting\nno-such-command\n", "no-such-command: not found\n"},
	} {
		needProgram(t, c.program)
		file := filepath.Join(h.cwd, c.file)
		writeFile(t, file, c.text)
		_, errs, status := h.run("run", "-d", "--name", "crash", "--port", testenv.FreePort(t), "--", c.program, file)
		if status != exitFailure || !strings.Contains(errs, c.want) || strings.Count(errs, "\n") != 1 {
			t.Errorf("%s: status %d, %q, want %q", c.file, status, errs, c.want)
		}
	}
}

// A crash of a program that served is shown by ps and describe, and is in the log, as its error. A prompt without a line
// end is in the log while the program goes on.
func TestCrashIsShownAsItsError(t *testing.T) {
	t.Parallel()
	needProgram(t, "node")
	h := newHome(t)
	writeFile(t, filepath.Join(h.cwd, "server.js"), `
require('http').createServer((request, response) => {
  if (request.url === '/crash') setTimeout(() => { throw new RangeError('too far') })
  if (request.url === '/prompt') process.stdout.write('Password: ')
  response.end()
}).listen(process.env.LISTEN_FDS ? { fd: 3 } : { port: process.env.PORT, host: '127.0.0.1' })
`)
	port := testenv.FreePort(t)
	h.must("run", "-d", "--name", "site", "--port", port, "--", "node", "server.js")
	get := func(path string) {
		t.Helper()
		response, err := http.Get("http://127.0.0.1:" + port + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
	log := func() string {
		text, err := os.ReadFile(filepath.Join(h.dir, "logs", "site.log"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	get("/prompt")
	eventually(t, "the prompt is in the log", func() bool { return strings.Contains(log(), "Password: \n") })
	get("/crash")
	const cause = "exit status 1: RangeError: too far"
	eventually(t, "the crash is in the log", func() bool { return strings.Contains(log(), `"cause":"`+cause+`"`) })
	for _, command := range []string{"ps", "describe"} {
		eventually(t, command+" shows the crash", func() bool { return strings.Contains(h.must(command, "site"), cause) })
	}
}
