package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// The columns of ps and monit, in their order.
const (
	nameColumn = iota
	modeColumn
	portColumn
	pidColumn
	uptimeColumn
	restartsColumn
	statusColumn
	cpuColumn
	memoryColumn
	watchingColumn
	rateColumn // of monit alone
	columnCount
)

// rightAligned are the columns of numbers.
var rightAligned = [columnCount]bool{
	portColumn: true, pidColumn: true, uptimeColumn: true, restartsColumn: true, cpuColumn: true, memoryColumn: true, rateColumn: true,
}

// spareColumns are those that a narrow terminal does without, the first ones first.
var spareColumns = []int{watchingColumn, modeColumn, restartsColumn, portColumn, uptimeColumn, pidColumn, cpuColumn, memoryColumn}

// row is a line of the table, a cell for each column.
type row [columnCount]string

// table prints servers and, below each, its workers; with rates, their requests a second by pid too. Below them are the
// masters that are in no server's figures, the sums, and why processes ended. width is that of the terminal in columns, 0
// where there is none: all columns are shown then, and names in full.
func table(to io.Writer, all []serverStatus, rates map[int]float64, width int) error {
	rows := []row{header()}
	var masters []*masterStatus
	var total usage
	for _, s := range all {
		rows = append(rows, serverRow(s, rates))
		if !s.InProcess() {
			for i, w := range s.Workers {
				rows = append(rows, workerRow(w, i == len(s.Workers)-1, rates))
			}
		}
		total.add(s.usage)
		if s.Master != nil && !slices.Contains(masters, s.Master) {
			masters = append(masters, s.Master)
			total.add(s.Master.usage)
		}
	}
	for _, m := range masters {
		rows = append(rows, masterRow(m))
	}
	if len(all) > 1 {
		rows = append(rows, row{nameColumn: text("total"), cpuColumn: percent(total.CPU), memoryColumn: mebibytes(total.Memory)})
	}
	var b strings.Builder
	write(&b, rows, rates != nil, width)
	for _, s := range all {
		if s.Status.Status == "unresponsive" {
			fmt.Fprintf(&b, "%s: %s\n", s.Name, text("the master does not answer; is its process stopped?"))
			continue
		}
		if s.Degraded != "" {
			fmt.Fprintf(&b, "%s: %s %s\n", s.Name, text("serves in part:"), s.Degraded)
		}
		if s.Cause != "" {
			fmt.Fprintf(&b, "%s: %s %s\n", s.Name, text("last death:"), s.Cause)
		}
	}
	_, err := io.WriteString(to, b.String())
	return err
}

func header() (r row) {
	copy(r[:], strings.Split(text("NAME\tMODE\tPORT\tPID\tUPTIME\tRESTARTS\tSTATUS\tCPU\tMEMORY\tWATCHING"), "\t"))
	r[rateColumn] = text("REQUESTS/S")
	return r
}

// serverRow is a server's line. What does not run uses nothing and answers nothing; what does not answer does not say.
func serverRow(s serverStatus, rates map[int]float64) row {
	r := row{
		nameColumn: s.Name, modeColumn: s.Mode, portColumn: strconv.Itoa(s.Port), pidColumn: strconv.Itoa(s.Pid),
		uptimeColumn: age(s.Uptime, s.Status.Status), restartsColumn: strconv.Itoa(s.Restarts), statusColumn: s.Status.Status,
		cpuColumn: "-", memoryColumn: mebibytes(s.Memory), watchingColumn: yesNo(s.Watching), rateColumn: "-",
	}
	if s.Memory > 0 {
		r[cpuColumn] = percent(s.CPU)
	}
	if s.Status.Status == "unresponsive" {
		for _, unknown := range []int{modeColumn, portColumn, restartsColumn, watchingColumn} {
			r[unknown] = "-"
		}
	} else if s.Runs() {
		sum := 0.0
		for _, w := range s.Workers {
			sum += rates[w.Pid]
		}
		r[rateColumn] = fmt.Sprintf("%.0f", sum)
	}
	return r
}

func workerRow(w processStatus, last bool, rates map[int]float64) row {
	branch := "├─ "
	if last {
		branch = "└─ "
	}
	r := row{
		nameColumn: branch + "worker " + strconv.Itoa(w.Worker), uptimeColumn: age(w.Uptime, w.WorkerStatus.Status),
		restartsColumn: strconv.Itoa(w.Restarts), statusColumn: w.WorkerStatus.Status,
		pidColumn: "-", cpuColumn: "-", memoryColumn: "-", rateColumn: "-",
	}
	if w.Pid > 0 {
		r[pidColumn], r[cpuColumn], r[memoryColumn] = strconv.Itoa(w.Pid), percent(w.CPU), mebibytes(w.Memory)
		r[rateColumn] = fmt.Sprintf("%.0f", rates[w.Pid])
	}
	return r
}

func masterRow(m *masterStatus) row {
	name := fmt.Sprintf(text("master of %d servers"), len(m.Servers))
	if len(m.Servers) == 1 {
		name = fmt.Sprintf(text("master of %s"), m.Servers[0])
	}
	return row{nameColumn: name, pidColumn: strconv.Itoa(m.Pid), cpuColumn: percent(m.CPU), memoryColumn: mebibytes(m.Memory)}
}

// write prints rows with aligned cells, two blanks apart. Where they are wider than the terminal, columns are left out, and
// names are cut when that is not enough.
func write(to *strings.Builder, rows []row, live bool, width int) {
	var widths [columnCount]int
	for _, r := range rows {
		for i, cell := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	shown := make([]int, 0, columnCount)
	for i := range columnCount {
		if i != rateColumn || live {
			shown = append(shown, i)
		}
	}
	excess := func() int {
		sum := 2 * (len(shown) - 1)
		for _, i := range shown {
			sum += widths[i]
		}
		return sum - width
	}
	if width > 0 {
		for _, spare := range spareColumns {
			if excess() > 0 {
				shown = slices.DeleteFunc(shown, func(i int) bool { return i == spare })
			}
		}
		widths[nameColumn] = max(1, widths[nameColumn]-max(0, excess()))
	}
	for _, r := range rows {
		var line strings.Builder
		for n, i := range shown {
			cell := []rune(r[i])
			if len(cell) > widths[i] {
				cell = append(cell[:widths[i]-1], '…')
			}
			blanks := strings.Repeat(" ", widths[i]-len(cell))
			if n > 0 {
				line.WriteString("  ")
			}
			if rightAligned[i] {
				line.WriteString(blanks + string(cell))
			} else {
				line.WriteString(string(cell) + blanks)
			}
		}
		to.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

// columns is the width of the terminal to which commands print, 0 where they print elsewhere.
func (p *program) columns() int {
	out, ok := p.out.(terminal)
	if !ok {
		return 0
	}
	width, _, _ := term.GetSize(int(out.Fd())) // 0 where the terminal has no size
	return width
}

func percent(n float64) string { return fmt.Sprintf("%.1f%%", n) }

// mebibytes is an amount of memory; - for none, and where it is not known.
func mebibytes(n int64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

func yesNo(yes bool) string {
	if yes {
		return text("yes")
	}
	return text("no")
}

// age is how long something has lived, in its one or two largest units; - for what does not live.
func age(seconds float64, status string) string {
	if seconds == 0 || status == "stopped" || status == "errored" {
		return "-"
	}
	d := time.Duration(seconds * float64(time.Second)).Round(time.Second)
	switch days := int(d.Hours()) / 24; {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, int(d.Hours())%24)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return d.String()
}
