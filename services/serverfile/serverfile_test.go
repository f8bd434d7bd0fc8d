package serverfile

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

func schema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile(filepath.Join("..", "..", "docs", "balanza.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// decode is the content as the schema's validator takes it.
func decode(content string) (data any, err error) {
	err = yaml.Unmarshal([]byte(content), &data)
	return data, err
}

// oneServer is a file with the server api, whose lines these are.
func oneServer(lines string) string {
	return "servers:\n  api:\n    " + strings.ReplaceAll(lines, "\n", "\n    ") + "\n"
}

// Each file is good or bad to the parser and to the schema alike.
func TestSchemaAndParserAgree(t *testing.T) {
	t.Parallel()
	s := schema(t)
	good := []string{
		"servers: {a: {command: x}}", `{"servers": {"a": {"command": ["x", "y z"]}}}`,
		"servers:\n  api: &api\n    command: x\n  b: *api", "servers:\n  api: {command: x, env: &e {A: b}}\n  b:\n    command: y\n    env:\n      <<: *e\n      C: d",
		"servers:\n  8080: {command: x}", "servers:\n  a.b_c-D:\n    command: >\n      x\n      y\n",
	}
	for _, lines := range []string{
		"port: 0", "port: 65535", "port: 9000\ninstances: max", "instances: 1", "instances: 100", "instances: 3.0", "port: 0x1f90",
		"env: {A: x, B: 1, C: 1.50, D: true, E: '', _f: -3}", "env: {}", "env_file: .env", "cwd: .", "cwd: /srv/app",
		"port: 1\nready: port", "ready: notify", "port: 1\nready: {path: /ready?x=1}", "port: 1\nhealth: {path: /}",
		"port: 1\nsocket: true", "port: 1\nsocket: true\nready: notify", "port: 1\nsocket: false\nhealth: {path: /}", "socket: false", "port: 1\nhost: 127.0.0.1", "port: 1\nhost: '::1'", "port: 1\nhost: fe80::1%eth0",
		"port: 1\nhost: localhost", "watch: true", "watch: false", "watch: ['*.log', tmp/]", "watch: []", "depends_on: []",
		"max_memory: 300M", "max_memory: 1000000", "max_memory: 5gb", "max_memory: '1024'", "stop_signal: INT", "stop_signal: SIGQUIT",
		"stop_timeout: 30s", "stop_timeout: 1.5m", "stop_timeout: 250ms", "stop_timeout: 10h",
	} {
		good = append(good, oneServer("command: node server.js\n"+lines))
	}
	for _, content := range good {
		data, err := decode(content)
		if err != nil {
			t.Fatalf("%q: %v", content, err)
		}
		if err := s.Validate(data); err != nil {
			t.Errorf("%q is good, but to the schema: %v", content, err)
		}
		if _, err := Parse("balanza.yaml", []byte(content)); err != nil {
			t.Errorf("%q is good, but to the parser: %v", content, err)
		}
	}
	bad := []string{
		"", "[]", "x", "server: {a: {command: x}}", "servers:", "servers: {}", "servers: []", "servers: {a: {command: x}}\nversion: 3",
		"servers: {a: }", "servers: {a: x}", "servers: {a: {}}", "servers: {a: {port: 1}}", "servers: {all: {command: x}}",
		"servers: {-a: {command: x}}", "servers: {a b: {command: x}}", "servers: {" + strings.Repeat("a", 65) + ": {command: x}}",
		"servers: {a: {command: }}", "servers: {a: {command: ''}}", "servers: {a: {command: []}}", "servers: {a: {command: [x, 1]}}",
		"servers: {a: {command: 1}}", "servers: {a: {command: {x: y}}}", "servers: {a: {command: ['']}}",
	}
	for _, lines := range []string{
		"port: -1", "port: 65536", "port: '80'", "port: 80.5", "port: true", "port:", "port: []", "port: 99999999999999999999",
		"instances: 0", "instances: -1", "instances: 101", "instances: 1.5", "instances: MAX", "instances: '2'", "instances: [1]",
		"env: [A=b]", "env: A=b", "env: {A: }", "env: {A: [x]}", "env: {A: {b: c}}", "env: {1A: x}", "env: {A-B: x}", `env: {A: "\0"}`,
		"env_file: 1", "env_file: [a]", "cwd: ''", "cwd: true", "port: 1\nready: yes", "port: 1\nready: true", "port: 1\nready: {}",
		"port: 1\nready: {path: x}", "port: 1\nready: {path: /a b}", "port: 1\nready: {path: /, x: 1}", "port: 1\nready: [port]",
		"ready: port", "ready: {path: /}", "health: {path: /}", "port: 1\nhealth: /", "port: 1\nhealth: {path: }",
		"socket: true", "port: 1\nsocket: true\nready: {path: /}", "port: 1\nsocket: true\nhealth: {path: /}", "port: 1\nsocket: 'true'", "host: localhost", "port: 1\nhost: ''", "port: 1\nhost: a b", "port: 1\nhost: 1",
		"watch: 'no'", "watch: 1", "watch: ['']", "watch: [1]", "watch: {a: b}", "depends_on: a", "depends_on: [1]", "depends_on: [x, x]",
		"max_memory: lots", "max_memory: 5X", "max_memory: -1", "max_memory: 1.5", "max_memory: 1.5G", "max_memory: true",
		"max_memory: 9007199254740993", "stop_signal: 9", "stop_signal: int", "stop_signal: STOP", "stop_timeout: 30", "stop_timeout: 0s",
		"stop_timeout: 0.0s", "stop_timeout: -5s", "stop_timeout: 1d", "nonsense: 1", "Port: 1",
	} {
		bad = append(bad, oneServer("command: node server.js\n"+lines))
	}
	for _, content := range bad {
		data, err := decode(content)
		if err != nil {
			t.Fatalf("%q: %v", content, err)
		}
		if s.Validate(data) == nil {
			t.Errorf("%q is bad, but not to the schema", content)
		}
		if _, err := Parse("balanza.yaml", []byte(content)); err == nil {
			t.Errorf("%q is bad, but not to the parser", content)
		}
	}
}

// The schema's keys are the parser's.
func TestSchemaHasTheParsersKeys(t *testing.T) {
	t.Parallel()
	server := schema(t).Properties["servers"].AdditionalProperties.(*jsonschema.Schema).Ref
	for key, property := range server.Properties {
		if fields[key] == nil {
			t.Errorf("the parser has no key %s", key)
		}
		if property.Description == "" {
			t.Errorf("the schema does not describe %s", key)
		}
	}
	if len(server.Properties) != len(fields) {
		t.Errorf("the schema has %d keys, the parser %d", len(server.Properties), len(fields))
	}
}

// No error shows the value of a variable, or what stands where one is expected.
func TestErrorsHaveNoSecrets(t *testing.T) {
	t.Parallel()
	for _, env := range []string{
		"env: PASSWORD=hunter2", "env: [PASSWORD=hunter2]", "env: {PASSWORD=hunter2: 1}", "env: {A: *hunter2}", "env: {A: !hunter2 x}",
		"env: {A: [hunter2]}", "env: {A: \"hunter2}", "env:\n  A: hunter2: x", "env:\n  A: hunter2\n   B: hunter2", "env:\n  A: \"a\" hunter2",
		"env: |\n  hunter2", "env: {A: @hunter2}", "env: {A: hunter2\nport: 80", "env:\n  A: \"\\qhunter2\"",
	} {
		if _, err := Parse("balanza.yaml", []byte(oneServer("command: x\n"+env))); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", env, err)
		}
	}
}

// An error is one line that begins with the file, line and column, and names the path of keys.
func TestErrorsSayWhere(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		"":                                       "balanza.yaml:1:1: servers is missing",
		"servers:\n  api:\n\tx":                  "balanza.yaml:3:1: ",
		"a: [":                                   "balanza.yaml:1:4: ",
		"servers: {a: {command: x}}\n--- \nb: c": "balanza.yaml:3:1: the file has more than one document",
		"services:\n  x: y":                      "balanza.yaml:1:1: services: unknown key; there are: servers",
		oneServer("command: x\nport: '80'"):      `balanza.yaml:4:11: servers.api.port: a whole number from 0 to 65535 is expected, not "80"`,
		oneServer("command: x\nprot: 80"):        "balanza.yaml:4:5: servers.api.prot: unknown key; there are: command, cwd, ",
		oneServer("command: x\nport: 80\nport: 81"):                                                    "balanza.yaml:5:5: servers.api.port: the key is there already, in line 4",
		oneServer("port: 80"):                                                                          "balanza.yaml:2:3: servers.api: command is missing",
		oneServer("command: 'node | tee'"):                                                             `balanza.yaml:3:14: servers.api.command: '|' has a meaning for a shell`,
		oneServer("command: x\nenv:\n  é: 1"):                                                          "balanza.yaml:5:7: servers.api.env: this is not the name of a variable",
		oneServer("command: x\nenv: {ñandú: 1, B: }"):                                                  "balanza.yaml:4:11: servers.api.env: this is not the name of a variable",
		oneServer("command: x\nenv: {B: }"):                                                            "balanza.yaml:4:13: servers.api.env.B: a string, a number, true or false is expected, not nothing",
		oneServer("command: x\nready: {path: no}"):                                                     "balanza.yaml:4:19: servers.api.ready.path: a path, like /healthz, is expected",
		oneServer("command: x\nhost: ::1"):                                                             "balanza.yaml:4:5: servers.api.host: a server without a port can't have it",
		oneServer("command: *none"):                                                                    "balanza.yaml:3:14: servers.api.command: no such anchor is in this file",
		oneServer("command: !!str x"):                                                                  "balanza.yaml:3:14: servers.api.command: tags are not supported",
		"servers:\n  api:\n    <<: [1]\n    command: x":                                                "balanza.yaml:3:9: servers.api: a mapping is expected, not a list",
		"servers:\n  a: {command: x, port: 80}\n  b: {command: x, port: 80}":                           "balanza.yaml:3:25: servers.b.port: 80 is the port of a",
		"servers:\n  a: {command: x, port: 8080}\n  8080: {command: x}":                                "balanza.yaml:3:3: servers.8080: the name is the port of a",
		"servers:\n  a: {command: x, depends_on: [b, c]}\n  b: {command: x}":                           "balanza.yaml:2:35: servers.a.depends_on[1]: no server is named c",
		"servers:\n  a: {command: x, depends_on: [a]}":                                                 "balanza.yaml:2:32: servers.a.depends_on[0]: a depends on a, and so on itself",
		"servers:\n  a: {command: x, depends_on: [b]}\n  b:\n    command: x\n    depends_on:\n    - a": "balanza.yaml:6:7: servers.b.depends_on[0]: b depends on a, and so on itself",
		"servers:\n  no/slashes: {command: x}":                                                         `balanza.yaml:2:3: servers: name "no/slashes"`,
		"servers: {a: {command: \xff}}":                                                                "balanza.yaml:1:1: the file is not UTF-8",
	} {
		_, err := Parse("balanza.yaml", []byte(content))
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q:\n got %v\nwant %s", content, err, want)
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "balanza.yaml")
	content := `
x-not: here
servers:
`
	if _, err := Parse(path, []byte(content)); err == nil || !strings.HasPrefix(err.Error(), path+":2:1: x-not") {
		t.Errorf("an unknown key: %v", err)
	}
	content = `
servers:
  web:
    command: node server.js --name "a b" 'c$d' \$5 $PORT
    port: 8080
    instances: max
    depends_on: [db, cache]
    env: &common {VERSION: 1.10, MODE: 0755, DEBUG: true, URL: "http://x/?a=b"}
    env_file: web.env
    ready: {path: /ready}
    health: {path: /healthz}
    host: 127.0.0.1
    watch: ["*.log", tmp/]
    cwd: web
    max_memory: 300M
    stop_signal: INT
    stop_timeout: 45s
  cache: {command: [cache, "--size=1 G"], depends_on: [db]}
  db:
    command: /usr/bin/db
    cwd: /srv/db
    env: {<<: *common, MODE: "x"}
`
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	port := 8080
	want := []Server{
		{
			Name: "db", Command: []string{"/usr/bin/db"}, Dir: "/srv/db", Instances: 1,
			Env: map[string]string{"VERSION": "1.10", "MODE": "x", "DEBUG": "true", "URL": "http://x/?a=b"}, at: position{19, 3},
		},
		{Name: "cache", Command: []string{"cache", "--size=1 G"}, Dir: dir, Instances: 1, DependsOn: []string{"db"}, at: position{18, 3}},
		{
			Name: "web", Command: []string{"node", "server.js", "--name", "a b", "c$d", "$5", "$PORT"}, Dir: filepath.Join(dir, "web"),
			Port: &port, Instances: Max, DependsOn: []string{"db", "cache"},
			Env:     map[string]string{"VERSION": "1.10", "MODE": "0755", "DEBUG": "true", "URL": "http://x/?a=b"},
			EnvFile: filepath.Join(dir, "web.env"), ReadyPath: "/ready", HealthPath: "/healthz", Host: "127.0.0.1", Watch: true,
			Ignore: []string{"*.log", "tmp/"}, MaxMemory: "300M", StopSignal: "INT", StopTimeout: "45s", at: position{3, 3},
		},
	}
	if f.Path != path || !reflect.DeepEqual(f.Servers, want) {
		t.Errorf("got  %+v\nwant %+v", f.Servers, want)
	}
	if f.Server("cache") != &f.Servers[1] || f.Server("none") != nil {
		t.Error("Server does not find by name")
	}
}

func TestSplitWords(t *testing.T) {
	t.Parallel()
	for line, want := range map[string][]string{
		"a":                           {"a"},
		"  a\t b\n":                   {"a", "b"},
		`a "b c" 'd e'f`:              {"a", "b c", "d ef"},
		`a '' ""`:                     {"a", "", ""},
		`a\ b c\\d`:                   {"a b", `c\d`},
		`"a\"b" "a\nb" '\n'`:          {`a"b`, `a\nb`, `\n`},
		`"\$HOME" '$HOME'`:            {"$HOME", "$HOME"},
		"x $PORT --p=${PORT} $PORT/a": {"x", "$PORT", "--p=${PORT}", "$PORT/a"},
		`x "$PORT"`:                   {"x", "$PORT"},
		"x a=b a#b a~b {a,b}":         {"x", "a=b", "a#b", "a~b", "{a,b}"},
		"a b\\\nc":                    {"a", "bc"},
		"x cost$":                     {"x", "cost$"},
	} {
		if got, err := splitWords(line); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v, want %q", line, got, err, want)
		}
	}
	for line, want := range map[string]string{
		"a 'b": "quote ' is not closed", `a "b`: `quote " is not closed`, `a \`: `ends with \`, "a | b": "'|'", "a && b": "'&'", "a; b": "';'",
		"a > b": "'>'", "a < b": "'<'", "a $HOME": "'$'", `a "$HOME"`: "'$'", "a $PORTS": "'$'", "a $(b)": "'$'", "a `b`": "'`'", "a *.js": "'*'", "a x?": "'?'",
		"a [b]": "'['", "a # b": "'#'", "~/a": "'~'", "A=b c": "use env", "(a)": "'('",
	} {
		if got, err := splitWords(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v, want an error with %q", line, got, err, want)
		}
	}
}

// No content makes the parser panic, and what it takes the schema takes too.
func FuzzParse(f *testing.F) {
	s := schema(f)
	for _, seed := range []string{
		"servers:\n  a: {command: x, port: 80, depends_on: [b]}\n  b: {command: [y], env: {A: 1}}\n", "a: &a {<<: *a}", "servers: &s {a: *s}",
		"servers: {a: &a {command: x, <<: *a}}", "? a\n: b", "* |\n0", "\"a\\nb\": 1", "- - -", "!!x", "servers:\n  a:\n    command: |\n      x\n", "a: &a *a", "--- ---", "%YAML 1.2\n---\nservers: {}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		_, err := Parse("f", content)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f:") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: %v", content, err)
			}
			return
		}
		if data, err := decode(string(content)); err == nil && s.Validate(data) != nil {
			t.Errorf("%q: %v", content, s.Validate(data))
		}
	})
}
