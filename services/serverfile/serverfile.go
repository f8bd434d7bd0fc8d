// Package serverfile reads balanza.yaml: a file that declares servers of any program, which `balanza up -f` starts or
// brings up to date. docs/balanza.schema.json describes the same format; a test compares the two.
package serverfile

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// File is what a file declares. It is valid: see Parse.
type File struct {
	Path    string   // absolute
	Servers []Server // each after those that it depends on; otherwise in the file's order
}

// Server is a server of the file. A zero value means that the file does not say, unless the comment says otherwise.
type Server struct {
	Name       string
	Command    []string          // the program and its arguments, at least one
	Dir        string            // absolute working folder; the file's by default
	Port       *int              // 0: a free one; nil: the server has no port
	Instances  int               // 1 to workers.MaxWorkers; Max: one for each CPU; 1 by default
	Env        map[string]string // added to the environment
	EnvFile    string            // absolute
	Ready      string            // port or notify
	ReadyPath  string
	HealthPath string
	Socket     bool
	Host       string
	Watch      bool
	Ignore     []string // patterns of files that are not watched
	DependsOn  []string
	MaxMemory  string // as --max-memory has it
	StopSignal string // a name, like INT
	// StopTimeout is a duration, like 30s.
	StopTimeout string

	at position // of its name
}

// Max as Instances means one instance for each CPU.
const Max = 0

// Read reads and parses a file. The errors of its content begin with its path as it is given here, line and column.
func Read(path string) (*File, error) {
	content, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	return Parse(path, content)
}

// Parse parses the content of a file and checks all of it: keys, types and values, ports and names that are there twice,
// unknown names and cycles in depends_on. Its error is one line, that of the first mistake: PATH:LINE:COLUMN: WHERE: WHAT.
func Parse(path string, content []byte) (*File, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	p := parser{path: path, dir: filepath.Dir(absolute)}
	servers, err := p.parse(content)
	if err == nil {
		err = p.checkPorts(servers)
	}
	if err == nil {
		servers, err = p.order(servers)
	}
	if err != nil {
		return nil, err
	}
	return &File{Path: absolute, Servers: servers}, nil
}

// Server returns the server of that name, nil when the file has none.
func (f *File) Server(name string) *Server {
	if i := slices.IndexFunc(f.Servers, func(s Server) bool { return s.Name == name }); i >= 0 {
		return &f.Servers[i]
	}
	return nil
}

// checkPorts rejects two servers on one port, and a name that is another server's port: commands take either.
func (p *parser) checkPorts(servers []Server) error {
	byPort := map[string]string{}
	for _, s := range servers {
		if s.Port == nil || *s.Port == 0 {
			continue
		}
		port := fmt.Sprint(*s.Port)
		if other := byPort[port]; other != "" {
			return p.errorAt(p.ports[s.Name], "servers."+s.Name+".port", "%s is the port of %s", port, other)
		}
		byPort[port] = s.Name
	}
	for _, s := range servers {
		if other := byPort[s.Name]; other != "" && other != s.Name {
			return p.errorAt(s.at, "servers."+s.Name, "the name is the port of %s", other)
		}
	}
	return nil
}

// order returns the servers so that each comes after those that it depends on.
func (p *parser) order(servers []Server) (ordered []Server, err error) {
	f := File{Servers: servers}
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(s *Server) error
	visit = func(s *Server) error {
		state[s.Name] = visiting
		for i, name := range s.DependsOn {
			other, where := f.Server(name), fmt.Sprintf("servers.%s.depends_on[%d]", s.Name, i)
			switch {
			case other == nil:
				return p.errorAt(p.dependencies[s.Name][i], where, "no server is named %s", name)
			case state[name] == visiting:
				return p.errorAt(p.dependencies[s.Name][i], where, "%s depends on %s, and so on itself", s.Name, name)
			case state[name] == done:
				continue
			}
			if err := visit(other); err != nil {
				return err
			}
		}
		state[s.Name] = done
		ordered = append(ordered, *s)
		return nil
	}
	for i := range servers {
		if state[servers[i].Name] != done {
			if err := visit(&servers[i]); err != nil {
				return nil, err
			}
		}
	}
	return ordered, nil
}

// position is a place in the file; lines and columns (in characters) begin at 1.
type position struct{ line, column int }

// errorAt returns an error of one line. where is the path of keys to the mistake; empty: the whole file.
func (p *parser) errorAt(at position, where, format string, args ...any) error {
	if where != "" {
		where += ": "
	}
	message := strings.Map(func(c rune) rune {
		if unicode.IsControl(c) { // keys may have line ends
			return ' '
		}
		return c
	}, where+fmt.Sprintf(format, args...))
	return fmt.Errorf("%s:%d:%d: %s", p.path, cmp.Or(at.line, 1), cmp.Or(at.column, 1), message)
}
