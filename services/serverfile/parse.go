package serverfile

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	yamlparser "github.com/goccy/go-yaml/parser"

	"balanza/services/workers"
)

// parser walks the syntax tree of one file: a decoder into structs would not tell where each value stands.
type parser struct {
	path, dir    string
	anchors      map[string]ast.Node
	ports        map[string]position   // of the servers' port, by name
	dependencies map[string][]position // of the entries of depends_on, by name
}

// value is a node with its path of keys.
type value struct {
	node  ast.Node
	where string
}

// entry is a key of a mapping with its value.
type entry struct {
	key string
	at  position
	value
}

// parse returns the servers in the file's order.
func (p *parser) parse(content []byte) (servers []Server, err error) {
	p.ports, p.dependencies = map[string]position{}, map[string][]position{}
	if !utf8.Valid(content) {
		return nil, p.errorAt(position{}, "", "the file is not UTF-8")
	}
	tree, err := yamlparser.ParseBytes(content, 0, yamlparser.AllowDuplicateMapKey()) // entries finds them, with both lines
	if err != nil {
		return nil, p.syntaxError(err)
	}
	body, err := p.document(tree)
	if err != nil {
		return nil, err
	}
	if err := p.findAnchors(body.node); err != nil {
		return nil, err
	}
	found := false
	err = p.eachEntry(body, func(e entry) error {
		if e.key != "servers" {
			return p.unknownKey(e, []string{"servers"})
		}
		found = true
		servers, err = p.servers(e.value)
		return err
	})
	if err == nil && !found {
		err = p.errorAt(p.at(body.node), "", "servers is missing")
	}
	return servers, err
}

// syntaxError is the YAML parser's error in one line.
func (p *parser) syntaxError(err error) error {
	if e, ok := errors.AsType[yaml.Error](err); ok {
		at := position{}
		if t := e.GetToken(); t != nil && t.Position != nil {
			at = position{t.Position.Line, t.Position.Column}
		}
		return p.errorAt(at, "", "%s", e.GetMessage())
	}
	return p.errorAt(position{}, "", "%v", err)
}

// document returns the mapping that is the file's only document.
func (p *parser) document(tree *ast.File) (value, error) {
	var bodies []ast.Node
	for _, d := range tree.Docs {
		if d.Body != nil {
			bodies = append(bodies, d.Body)
		}
	}
	switch len(bodies) {
	case 0:
		return value{}, p.errorAt(position{}, "", "servers is missing")
	case 1:
		return value{node: bodies[0]}, nil
	}
	return value{}, p.errorAt(p.at(bodies[1]), "", "the file has more than one document")
}

// findAnchors collects the nodes to which aliases refer.
func (p *parser) findAnchors(body ast.Node) error {
	c := anchorCollector{nodes: map[string]ast.Node{}}
	ast.Walk(&c, body)
	p.anchors = c.nodes
	if c.twice != nil {
		return p.errorAt(p.at(c.twice), "", "the anchor &%s is there twice", c.twice.Name)
	}
	return nil
}

// anchorCollector is an ast.Visitor.
type anchorCollector struct {
	nodes map[string]ast.Node
	twice *ast.AnchorNode
}

// Visit notes a node that is an anchor.
func (c *anchorCollector) Visit(n ast.Node) ast.Visitor {
	if a, ok := n.(*ast.AnchorNode); ok && a.Name != nil {
		name := a.Name.String()
		if c.nodes[name] != nil && c.twice == nil {
			c.twice = a
		}
		c.nodes[name] = a.Value
	}
	return c
}

// at is where a node begins.
func (p *parser) at(n ast.Node) position {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key // the token of such a mapping is its first colon
	}
	if n != nil && n.GetToken() != nil && n.GetToken().Position != nil {
		return position{n.GetToken().Position.Line, n.GetToken().Position.Column}
	}
	return position{}
}

// maxDepth is how many aliases and merges may lead to each other; more are a cycle.
const maxDepth = 16

// resolve returns the node itself where n is an alias or has an anchor.
func (p *parser) resolve(n ast.Node, where string) (ast.Node, error) {
	for range maxDepth {
		switch x := n.(type) {
		case *ast.AnchorNode:
			n = x.Value
		case *ast.AliasNode:
			target, ok := p.anchors[x.Value.String()]
			if !ok {
				return nil, p.errorAt(p.at(n), where, "no such anchor is in this file; a text that begins with * needs quotes")
			}
			n = target
		case *ast.TagNode:
			return nil, p.errorAt(p.at(n), where, "tags are not supported; a text that begins with ! needs quotes")
		default:
			return n, nil
		}
	}
	return nil, p.errorAt(p.at(n), where, "the aliases refer to each other")
}

// eachEntry calls f for each key of a mapping, those that << merges first. It ends at the first error.
func (p *parser) eachEntry(v value, f func(entry) error) error {
	entries, err := p.entries(v, 0)
	for i := 0; err == nil && i < len(entries); i++ {
		err = f(entries[i])
	}
	return err
}

// entries returns the keys of a mapping; what stands in the mapping itself overrides what << merges into it.
func (p *parser) entries(v value, depth int) (entries []entry, err error) {
	n, err := p.resolve(v.node, v.where)
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, p.errorAt(p.at(v.node), v.where, "the merges refer to each other")
	}
	var pairs []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		pairs = m.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{m}
	default:
		return nil, p.errorAt(p.at(v.node), v.where, "a mapping is expected, not %s", kind(n))
	}
	own := map[string]position{}
	for _, pair := range pairs {
		at := p.at(pair.Key)
		if _, merge := pair.Key.(*ast.MergeKeyNode); merge {
			merged, err := p.entries(value{pair.Value, v.where}, depth+1)
			if err != nil {
				return nil, err
			}
			for _, e := range merged {
				if !slices.ContainsFunc(entries, func(x entry) bool { return x.key == e.key }) {
					entries = append(entries, e)
				}
			}
			continue
		}
		key, ok := scalar(pair.Key)
		if !ok {
			return nil, p.errorAt(at, v.where, "a key is a plain word")
		}
		if first, twice := own[key]; twice {
			return nil, p.errorAt(at, join(v.where, key), "the key is there already, in line %d", first.line)
		}
		own[key] = at
		entries = slices.DeleteFunc(entries, func(e entry) bool { return e.key == key })
		entries = append(entries, entry{key, at, value{pair.Value, join(v.where, key)}})
	}
	return entries, nil
}

func join(where, key string) string { return strings.TrimPrefix(where+"."+key, ".") }

func (p *parser) unknownKey(e entry, known []string) error {
	return p.errorAt(e.at, e.where, "unknown key; there are: %s", strings.Join(known, ", "))
}

// scalar returns the text of a string, number or boolean as the file has it.
func scalar(n ast.Node) (string, bool) {
	switch x := n.(type) {
	case *ast.StringNode:
		return x.Value, true
	case *ast.LiteralNode:
		return x.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// describe names the value of a node, or its kind where it has no short one.
func describe(n ast.Node) string {
	switch x := n.(type) {
	case *ast.StringNode:
		return strconv.Quote(x.Value)
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value
	}
	return kind(n)
}

// kind names the kind of a node. Errors about variables show no more: a value may be a secret.
func kind(n ast.Node) string {
	switch n.(type) {
	case *ast.StringNode, *ast.LiteralNode:
		return "a text"
	case *ast.IntegerNode, *ast.FloatNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	case *ast.NullNode:
		return "nothing"
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	}
	return "this"
}

// servers parses the mapping of names to servers.
func (p *parser) servers(v value) (servers []Server, err error) {
	err = p.eachEntry(v, func(e entry) error {
		if e.key == "all" {
			return p.errorAt(e.at, e.where, "no server can be named all: that stands for all servers")
		}
		if err := workers.CheckName(e.key); err != nil {
			return p.errorAt(e.at, "servers", "%v", err)
		}
		s, err := p.server(e)
		servers = append(servers, s)
		return err
	})
	if err == nil && len(servers) == 0 {
		err = p.errorAt(p.at(v.node), v.where, "there is no server in it")
	}
	return servers, err
}

// server parses one server.
func (p *parser) server(e entry) (Server, error) {
	s := Server{Name: e.key, Dir: p.dir, Instances: 1, at: e.at}
	given := map[string]entry{}
	err := p.eachEntry(e.value, func(f entry) error {
		parse, ok := fields[f.key]
		if !ok {
			return p.unknownKey(f, slices.Sorted(maps.Keys(fields)))
		}
		given[f.key] = f
		return parse(p, &s, f.value)
	})
	switch {
	case err != nil:
		return s, err
	case len(s.Command) == 0:
		return s, p.errorAt(e.at, e.where, "command is missing")
	case s.Socket && s.ReadyPath != "":
		return s, p.errorAt(given["ready"].at, given["ready"].where, "a server with socket can't have a path: its instances have no port of their own")
	case s.Socket && s.HealthPath != "":
		return s, p.errorAt(given["health"].at, given["health"].where, "a server with socket can't have it: its instances have no port of their own")
	case s.Port != nil:
		return s, nil
	}
	for _, key := range []string{"host", "health", "socket", "ready"} {
		f, ok := given[key]
		if ok && (key != "socket" || s.Socket) && (key != "ready" || s.Ready != "notify") {
			return s, p.errorAt(f.at, f.where, "a server without a port can't have it")
		}
	}
	return s, nil
}

// fields are the keys of a server.
var fields = map[string]func(p *parser, s *Server, v value) error{
	"command": func(p *parser, s *Server, v value) (err error) { s.Command, err = p.command(v); return err },
	"port": func(p *parser, s *Server, v value) error {
		n, err := p.integer(v, 0, math.MaxUint16)
		s.Port, p.ports[s.Name] = &n, p.at(v.node)
		return err
	},
	"instances": func(p *parser, s *Server, v value) (err error) {
		n, err := p.resolve(v.node, v.where)
		if err != nil {
			return err
		}
		if x, ok := n.(*ast.StringNode); ok && x.Value == "max" {
			s.Instances = Max
			return nil
		}
		s.Instances, err = p.integer(v, 1, workers.MaxWorkers)
		return err
	},
	"env":      func(p *parser, s *Server, v value) (err error) { s.Env, err = p.env(v); return err },
	"env_file": func(p *parser, s *Server, v value) (err error) { s.EnvFile, err = p.file(v); return err },
	"cwd":      func(p *parser, s *Server, v value) (err error) { s.Dir, err = p.file(v); return err },
	"ready": func(p *parser, s *Server, v value) (err error) {
		n, err := p.resolve(v.node, v.where)
		if err != nil {
			return err
		}
		if _, ok := n.(*ast.StringNode); ok {
			s.Ready, err = p.match(v, readyWord, "port, notify or a path, as in {path: /ready}, is expected")
			return err
		}
		s.ReadyPath, err = p.onlyPath(v)
		return err
	},
	"health": func(p *parser, s *Server, v value) (err error) { s.HealthPath, err = p.onlyPath(v); return err },
	"socket": func(p *parser, s *Server, v value) (err error) { s.Socket, err = p.boolean(v); return err },
	"host": func(p *parser, s *Server, v value) (err error) {
		s.Host, err = p.match(v, hostPattern, "an address, like 127.0.0.1, is expected")
		return err
	},
	"watch": func(p *parser, s *Server, v value) (err error) {
		n, err := p.resolve(v.node, v.where)
		if err != nil {
			return err
		}
		if _, ok := n.(*ast.SequenceNode); !ok {
			s.Watch, err = p.boolean(v)
			return err
		}
		s.Watch = true
		s.Ignore, _, err = p.strings(v)
		return err
	},
	"depends_on": func(p *parser, s *Server, v value) (err error) {
		s.DependsOn, p.dependencies[s.Name], err = p.strings(v)
		for i, name := range s.DependsOn {
			if err == nil && slices.Contains(s.DependsOn[:i], name) {
				err = p.errorAt(p.dependencies[s.Name][i], v.where, "%s is there twice", name)
			}
		}
		return err
	},
	"max_memory": func(p *parser, s *Server, v value) (err error) {
		if n, err := p.resolve(v.node, v.where); err == nil {
			if _, ok := n.(*ast.IntegerNode); ok {
				bytes, err := p.integer(v, 0, maxBytes)
				s.MaxMemory = strconv.Itoa(bytes)
				return err
			}
		}
		s.MaxMemory, err = p.match(v, sizePattern, "a number of bytes, or one with K, M or G, like 300M, is expected")
		return err
	},
	"stop_signal": func(p *parser, s *Server, v value) (err error) {
		s.StopSignal, err = p.match(v, signalPattern, "the name of a signal, like INT or QUIT, is expected")
		return err
	},
	"stop_timeout": func(p *parser, s *Server, v value) (err error) {
		const what = "a time, like 30s or 2m, is expected"
		if s.StopTimeout, err = p.match(v, durationPattern, what); err == nil && !strings.ContainsAny(s.StopTimeout, "123456789") {
			err = p.errorAt(p.at(v.node), v.where, what)
		}
		return err
	},
}

// The schema has the same patterns.
var (
	readyWord       = regexp.MustCompile(`^(port|notify)$`)
	hostPattern     = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.-]*$|^[0-9A-Fa-f.:]*:[0-9A-Fa-f.:]*(%[0-9A-Za-z._-]+)?$`)
	pathPattern     = regexp.MustCompile(`^/[!-~]*$`)
	namePattern     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	sizePattern     = regexp.MustCompile(`^([0-9]{1,18}|[0-9]{1,9}[KMGkmg])[Bb]?$`)
	signalPattern   = regexp.MustCompile(`^(SIG)?(TERM|INT|QUIT|HUP|USR1|USR2|WINCH|KILL)$`)
	durationPattern = regexp.MustCompile(`^[0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m|h)$`)
	textPattern     = regexp.MustCompile(`^[^\x00]+$`)
)

// maxBytes is the largest number that JSON has exactly.
const maxBytes = 1<<53 - 1

// command parses a list of strings, or a string that is split as a shell would.
func (p *parser) command(v value) ([]string, error) {
	n, err := p.resolve(v.node, v.where)
	if err != nil {
		return nil, err
	}
	var words []string
	if _, list := n.(*ast.SequenceNode); list {
		words, _, err = p.strings(v)
	} else {
		var line string
		if line, err = p.match(v, textPattern, "a command, or a list of the program and its arguments, is expected"); err == nil {
			if words, err = splitWords(line); err != nil {
				err = p.errorAt(p.at(v.node), v.where, "%v", err)
			}
		}
	}
	if err == nil && (len(words) == 0 || words[0] == "") {
		err = p.errorAt(p.at(v.node), v.where, "the program is missing")
	}
	return words, err
}

// env parses a mapping of names to strings, numbers and booleans; these keep the spelling that they have in the file.
func (p *parser) env(v value) (map[string]string, error) {
	env := map[string]string{}
	err := p.eachEntry(v, func(e entry) error {
		if !namePattern.MatchString(e.key) {
			return p.errorAt(e.at, v.where, "this is not the name of a variable, which has letters, digits and underscores")
		}
		n, err := p.resolve(e.node, e.where)
		if err != nil {
			return err
		}
		text, ok := scalar(n)
		if !ok {
			return p.errorAt(p.at(e.node), e.where, "a string, a number, true or false is expected, not %s", kind(n))
		}
		if strings.ContainsRune(text, 0) {
			return p.errorAt(p.at(e.node), e.where, "no variable can hold a NUL byte")
		}
		env[e.key] = text
		return nil
	})
	return env, err
}

// file parses a path, which is relative to the file's folder.
func (p *parser) file(v value) (string, error) {
	path, err := p.match(v, textPattern, "a path is expected")
	if err == nil && !filepath.IsAbs(path) {
		path = filepath.Join(p.dir, path)
	}
	return path, err
}

// onlyPath parses a mapping with the single key path: that of a URL.
func (p *parser) onlyPath(v value) (path string, err error) {
	err = p.eachEntry(v, func(e entry) (err error) {
		if e.key != "path" {
			return p.unknownKey(e, []string{"path"})
		}
		path, err = p.match(e.value, pathPattern, "a path, like /healthz, is expected")
		return err
	})
	if err == nil && path == "" {
		err = p.errorAt(p.at(v.node), v.where, "path is missing")
	}
	return path, err
}

// strings parses a list of strings, none of which is empty.
func (p *parser) strings(v value) (all []string, places []position, err error) {
	n, err := p.resolve(v.node, v.where)
	if err != nil {
		return nil, nil, err
	}
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		return nil, nil, p.errorAt(p.at(v.node), v.where, "a list is expected, not %s", describe(n))
	}
	for i, item := range list.Values {
		text, err := p.match(value{item, fmt.Sprintf("%s[%d]", v.where, i)}, textPattern, "a string is expected")
		if err != nil {
			return nil, nil, err
		}
		all, places = append(all, text), append(places, p.at(item))
	}
	return all, places, nil
}

// match parses a string that has a pattern; what says what is expected.
func (p *parser) match(v value, pattern *regexp.Regexp, what string) (string, error) {
	n, err := p.resolve(v.node, v.where)
	if err != nil {
		return "", err
	}
	var text string
	switch x := n.(type) {
	case *ast.StringNode:
		text = x.Value
	case *ast.LiteralNode:
		text = x.Value.Value
	default:
		return "", p.errorAt(p.at(v.node), v.where, "%s, not %s", what, describe(n))
	}
	if !pattern.MatchString(text) {
		return "", p.errorAt(p.at(v.node), v.where, "%s, not %q", what, text)
	}
	return text, nil
}

func (p *parser) boolean(v value) (bool, error) {
	n, err := p.resolve(v.node, v.where)
	if err != nil {
		return false, err
	}
	b, ok := n.(*ast.BoolNode)
	if !ok {
		return false, p.errorAt(p.at(v.node), v.where, "true or false is expected, not %s", describe(n))
	}
	return b.Value, nil
}

// integer parses a whole number; JSON schema has 8080.0 as one, too.
func (p *parser) integer(v value, least, most int) (int, error) {
	n, err := p.resolve(v.node, v.where)
	if err != nil {
		return 0, err
	}
	number := math.NaN()
	switch x := n.(type) {
	case *ast.IntegerNode:
		switch i := x.Value.(type) {
		case int64:
			number = float64(i)
		case uint64:
			number = float64(i)
		}
	case *ast.FloatNode:
		number = x.Value
	}
	if number != math.Trunc(number) || number < float64(least) || number > float64(most) { // NaN is not equal to itself
		return 0, p.errorAt(p.at(v.node), v.where, "a whole number from %d to %d is expected, not %s", least, most, describe(n))
	}
	return int(number), nil
}
