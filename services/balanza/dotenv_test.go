package main

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"balanza/e2e/testenv"
)

// Many tools write a .env. Lines that are none of Balanza's break no command.
func TestDotEnvOfOtherTools(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	port := testenv.FreePort(t)
	writeFile(t, filepath.Join(h.cwd, ".env"), "\ufeff# of several tools\r\nexport BALANZA_MODE=\"fork\"\r\n"+
		"[section]\r\nsome words that are no assignment\r\nkey-with-hyphens=1\r\n%%% =\r\n=value\r\nLONELY\r\n"+
		"PRIVATE_KEY=\"-----BEGIN KEY-----\r\nMIIE+/=\r\nAB CD==\r\n-----END KEY-----\"\r\nUNCLOSED='it is\r\n"+
		"  export  BALANZA_NAME = 'named-here'  # the name\r\nBALANZA_PORT: "+port+"\r\nOTHER=$UNDEFINED ${ }\r\nTITLE=\"a\" \"b\"\r\n")
	for _, args := range []string{"version", "--help", "completion bash"} {
		if _, errs, status := h.run(strings.Fields(args)...); status != 0 || errs != "" {
			t.Errorf("%s: status %d, %q", args, status, errs)
		}
	}
	const warning = "balanza: .env: lines that assign nothing (NAME=VALUE) are ignored: 3 4 8\n"
	for _, args := range []string{"ps", "logs", "stop", "save --force", "startup", "__complete reload "} {
		if _, errs, status := h.run(strings.Fields(args)...); status != 0 || strings.Count(errs, ".env") != 1 || !strings.HasPrefix(errs, warning) {
			t.Errorf("%s: status %d, %q", args, status, errs)
		}
	}
	h.must("start", "--m", "CLUSTER", "-i", "2")
	if log := h.must("logs"); strings.Contains(log, ".env") {
		t.Errorf("a process in the background repeats the warning:\n%s", log)
	}
	h.must("delete")
	h.must("start")
	if list := h.list(); len(list) != 1 || list[0].Name != "named-here" || list[0].Mode != "FORK" {
		t.Errorf("%+v", list)
	}
	h.must("restart", port)
}

// A line of .env that concerns Balanza and can't be read is one error that names the line and not the value. Commands that
// need no setting work.
func TestDotEnvErrorNamesTheLine(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	path := filepath.Join(h.cwd, ".env")
	const expected, quote = "NAME=VALUE is expected\n", "a quote is not closed, or something follows the value\n"
	for content, want := range map[string]string{
		"A=1\n\nBALANZA_PORT\n":                                 "line 3: BALANZA_PORT: " + expected,
		"A='\nB\n'\nMONGODB_URI=\"mongodb://u:secret@h\nC=1\n":  "line 4: MONGODB_URI: " + quote,
		"export BALANZA_HOME='secret\n":                         "line 1: BALANZA_HOME: " + quote,
		"BALANZA_NAME=\"secret\nBALANZA_PORT=80\nTEXT=\"more\"": "line 1: BALANZA_NAME: " + quote,
		"BALANZA_NAME='a' secret\n":                             "line 1: BALANZA_NAME: " + quote,
		"BALANZA_NAME 'secret'\n":                               "line 1: BALANZA_NAME: " + expected,
		"\nMONGODB_URI mongodb://u:secret@h\n":                  "line 2: MONGODB_URI: " + expected,
		"\xff\xfeB\x00A\x00=\x00":                               "UTF-16",
	} {
		writeFile(t, path, content)
		out, errs, status := h.run("ps")
		if status != exitUsage || out != "" || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, want) || strings.Contains(errs, "secret") {
			t.Errorf("%q: status %d, stdout %q, stderr %q, want %q", content, status, out, errs, want)
		}
		for _, args := range []string{"version", "--help", "completion bash", "help up"} {
			if _, errs, status := h.run(strings.Fields(args)...); status != 0 || errs != "" {
				t.Errorf("%s with %q: status %d, %q", args, content, status, errs)
			}
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil { // as python3 -m venv .env does
		t.Fatal(err)
	}
	h.must("ps")
}

// The command of docs/operations.md that finds lines of .env prints their numbers alone.
func TestDotEnvCommandOfTheDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`(?m)^grep .* \.env \|.*$`).Find(page)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, ".env"), "# one\r\nA=1\r\n\r\nHTTP_PORT 8000\r\n  export B = 2\nHTTP_PORT\nC/D=secret\nE='=secret'\n")
	cmd := exec.Command("sh", "-c", string(command))
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "4\n6\n7\n" {
		t.Errorf("%s: %v, %q", command, err, out)
	}
}

func TestParseDotEnv(t *testing.T) {
	for content, want := range map[string]map[string]string{
		"":           {},
		"BALANZA_A=": {"BALANZA_A": ""},
		"HOST=db\nMONGODB_URI=mongodb://$HOST/x\n":                      {"MONGODB_URI": "mongodb://db/x"},
		"BALANZA_A=1\nBALANZA_A=2 # two\n#BALANZA_B=3\n":                {"BALANZA_A": "2"},
		"BALANZA_A='two\nlines'\nBALANZA_B=\"a\\\"b\"\n":                {"BALANZA_A": "two\nlines", "BALANZA_B": `a"b`},
		"X='open\nBALANZA_A=1\nY='closed'\nBALANZA_B=2\n":               {"BALANZA_A": "1", "BALANZA_B": "2"},
		"X=\"a\nNOT_BALANZA_A=1\nb\"\nWATCH_POLL=2s\nBALANZAS=1\nA=B=C": {"WATCH_POLL": "2s"},
	} {
		if got, _, err := parseDotEnv([]byte(content)); err != nil || !maps.Equal(got, want) {
			t.Errorf("%q: %v, %v, want %v", content, got, err, want)
		}
	}
}

// A file of --env-file, also one that balanza.yaml names, that can't be read is one error with the number of the line, and
// nothing of its text.
func TestEnvFileErrorNamesTheLine(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	writeFile(t, filepath.Join(h.cwd, "balanza.yaml"), "servers: {a: {command: sleep 60, env_file: app.env}}")
	for content, want := range map[string]string{
		"A=1\nAPI_KEY/2=secret\nPASSWORD=secret\n": "app.env, line 2: NAME=VALUE is expected\n",
		"A=1\n\nsecret\nPASSWORD=secret\n":         "app.env, line 3: NAME=VALUE is expected\n",
		"PASSWORD=\"secret\nB=secret\n":            "app.env, line 1: a quote is not closed, or something follows the value\n",
		"# one\nPASSWORD='a' secret\n":             "app.env, line 2: a quote is not closed, or something follows the value\n",
		"\xff\xfeB\x00A\x00=\x00s\x00":             "app.env is UTF-16; save it as UTF-8\n",
	} {
		writeFile(t, filepath.Join(h.cwd, "app.env"), content)
		for _, args := range []string{"run --env-file app.env -- true", "up -f balanza.yaml -d"} {
			out, errs, status := h.run(strings.Fields(args)...)
			if status != exitUsage || out != "" || strings.Count(errs, "\n") != 1 || !strings.HasSuffix(errs, want) || strings.Contains(errs, "secret") {
				t.Errorf("%s with %q: status %d, stdout %q, stderr %q, want %q", args, content, status, out, errs, want)
			}
		}
	}
}

func TestParseEnvFile(t *testing.T) {
	got, err := parseEnvFile("app.env", []byte("\ufeff# one\r\nexport A=1\r\nB: two\r\n\r\nC=\"x\r\ny\"\r\nD=$A # A\r\n9=nine\r\nmy.key='a\\'b'\r\n"))
	want := map[string]string{"A": "1", "B": "two", "C": "x\ny", "D": "1", "9": "nine", "my.key": "a\\'b"}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}

// A relative home means a folder seen from that of the command, also for what resurrect starts in another one, and the
// settings in the .env of the one folder are not those of the other.
func TestResurrectKeepsHomeAndSettingsApart(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	writeFile(t, filepath.Join(h.cwd, ".env"), "BALANZA_PORT="+testenv.FreePort(t)+"\nBALANZA_NAME=one\n")
	h.must("start")
	h.must("save")
	h.must("delete")
	elsewhere := t.TempDir()
	writeFile(t, filepath.Join(elsewhere, ".env"), "BALANZA_PORT=1\nBALANZA_NAME=wrong\nBALANZA_MODE=CLUSTER\n")
	relative, err := filepath.Rel(elsewhere, h.dir)
	if err != nil {
		t.Fatal(err)
	}
	cmd := h.command("resurrect")
	cmd.Dir = elsewhere
	cmd.Env = append(cmd.Env, "BALANZA_HOME="+relative)
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	if list := h.list("one"); len(list) != 1 || list[0].Mode != "FORK" {
		t.Errorf("%+v", list)
	}
}
