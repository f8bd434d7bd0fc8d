package main

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

// help prints the flags of a command, and for `balanza` itself what else there is.
func (p *program) help(f *flag.FlagSet) {
	if f.Name() != "balanza" {
		for _, c := range commands() {
			if c.word == f.Name() {
				fmt.Fprintf(p.out, "balanza %s %s\n  %s\n", c.word, c.arguments, c.help)
			}
		}
		printFlags(p.out, f)
		return
	}
	fmt.Fprint(p.out, `Balanza serves the site, alone or as a cluster, and manages the processes that do.

  balanza up                         a whole balanced topology here: http://localhost:8000
  balanza --p 8080 --m FORK          one process
  balanza --p 8081 --m CLUSTER       a master and a worker for each CPU
  balanza ps                         what runs

Flags of a server:
`)
	printFlags(p.out, f)
	fmt.Fprintln(p.out, "\nCommands (balanza COMMAND --help):")
	for _, c := range commands() {
		if c.help != "" { // else it is for other commands
			fmt.Fprintf(p.out, "  %-12s %s\n", c.word, c.help)
		}
	}
	fmt.Fprintln(p.out, "\nEvery flag has a variable of the environment behind it, and .env is read where there is one: see .env.example.")
}

// printFlags prints one line a flag, its spellings together.
func printFlags(to io.Writer, f *flag.FlagSet) {
	var order []string
	spellings := map[string][]string{}
	f.VisitAll(func(g *flag.Flag) {
		if spellings[g.Usage] == nil {
			order = append(order, g.Usage)
		}
		hyphens := "--"
		if len(g.Name) == 1 {
			hyphens = "-"
		}
		spellings[g.Usage] = append(spellings[g.Usage], hyphens+g.Name)
	})
	for _, usage := range order {
		fmt.Fprintf(to, "  %-28s %s\n", strings.Join(spellings[usage], ", "), usage)
	}
}
