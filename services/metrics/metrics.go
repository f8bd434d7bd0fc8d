// Package metrics is the text that Prometheus reads: families of series with their type and help, and the standard ones
// of a process and of the Go runtime. Prometheus' own client takes 2 MB in every worker.
package metrics

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// ContentType is the media type of Snapshot.Text: version 0.0.4 of the text format.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// The kinds of families, as a TYPE line names them.
const (
	Counter   = "counter"
	Gauge     = "gauge"
	Histogram = "histogram"
	Summary   = "summary"
)

// Family describes the series of one name. Its JSON is part of the messages between a master and its workers, so the
// names of its fields must stay.
type Family struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
	Help string `json:"help"` // one line
}

// Values maps series, as Series writes them, to their values, which must be finite.
type Values map[string]float64

// Snapshot is what was measured at one moment. The zero value is empty.
type Snapshot struct {
	Families []Family `json:"families,omitempty"`
	Values   Values   `json:"values,omitempty"`
}

// escaper writes a label's value as the text format wants it. Go's %q would escape more.
var escaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// Series writes the name of a series; labels are pairs of a name and a value.
func Series(name string, labels ...string) string {
	if len(labels) == 0 {
		return name
	}
	return name + "{" + joinLabels(labels) + "}"
}

// joinLabels writes pairs of a name and a value as they stand between braces.
func joinLabels(labels []string) string {
	var b strings.Builder
	for i := 0; i+1 < len(labels); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(labels[i] + `="` + escaper.Replace(labels[i+1]) + `"`)
	}
	return b.String()
}

// Describe adds a family without series.
func (s *Snapshot) Describe(f Family) {
	if !slices.ContainsFunc(s.Families, func(known Family) bool { return known.Name == f.Name }) {
		s.Families = append(s.Families, f)
	}
}

// Set adds a family with one more series.
func (s *Snapshot) Set(f Family, value float64, labels ...string) {
	s.Describe(f)
	s.set(Series(f.Name, labels...), value)
}

// SetHistogram adds a family with one more histogram: bounds are the upper bounds of all buckets but the last, which has none,
// counts the values in each bucket, and sum is the sum of all values.
func (s *Snapshot) SetHistogram(f Family, bounds []float64, counts []int64, sum float64, labels ...string) {
	s.Describe(f)
	var total int64
	for i, n := range counts {
		total += n
		end := "+Inf"
		if i < len(bounds) {
			end = strconv.FormatFloat(bounds[i], 'g', -1, 64)
		}
		s.set(Series(f.Name+"_bucket", slices.Concat(labels, []string{"le", end})...), float64(total))
	}
	s.set(Series(f.Name+"_count", labels...), float64(total))
	s.set(Series(f.Name+"_sum", labels...), sum)
}

func (s *Snapshot) set(series string, value float64) {
	if s.Values == nil {
		s.Values = make(Values)
	}
	s.Values[series] = value
}

// Merge adds all of another snapshot; its series get the labels in front of their own.
func (s *Snapshot) Merge(other Snapshot, labels ...string) {
	for _, f := range other.Families {
		s.Describe(f)
	}
	added := joinLabels(labels)
	for series, value := range other.Values {
		if added != "" {
			name, own, _ := strings.Cut(series, "{")
			series = name + "{" + added
			if own == "" {
				series += "}"
			} else {
				series += "," + own
			}
		}
		s.set(series, value)
	}
}

// Text writes the snapshot for Prometheus, families by name, buckets by their bounds. Series of no known family, which
// processes of another version may have, are left out.
func (s *Snapshot) Text() string {
	byFamily := make(map[string][]line, len(s.Families))
	for _, f := range s.Families {
		byFamily[f.Name] = nil
	}
	for series, value := range s.Values {
		l := parse(series, value)
		family := l.name
		if _, ok := byFamily[family]; !ok {
			family, l.part = cutPart(l.name)
			if _, ok = byFamily[family]; !ok {
				continue
			}
		}
		byFamily[family] = append(byFamily[family], l)
	}
	var b strings.Builder
	for _, f := range slices.SortedFunc(slices.Values(s.Families), func(x, y Family) int { return cmp.Compare(x.Name, y.Name) }) {
		lines := byFamily[f.Name]
		if len(lines) == 0 {
			continue
		}
		slices.SortFunc(lines, compareLines)
		b.WriteString("# HELP " + f.Name + " " + f.Help + "\n# TYPE " + f.Name + " " + f.Kind + "\n")
		for _, l := range lines {
			b.WriteString(l.series + " " + strconv.FormatFloat(l.value, 'g', -1, 64) + "\n")
		}
	}
	return b.String()
}

// line is one series of the text.
type line struct {
	series, name string
	group        string  // its labels without the bound
	part         int     // 0: a bucket, a quantile or the only one; 1: the sum; 2: the count
	bound        float64 // of a bucket or quantile
	value        float64
}

// parts are the ends of the names of a histogram's and a summary's series, in their order.
var parts = []string{"_bucket", "_sum", "_count"}

// cutPart splits such an end off a name.
func cutPart(name string) (family string, part int) {
	for i, end := range parts {
		if before, ok := strings.CutSuffix(name, end); ok {
			return before, i
		}
	}
	return name, 0
}

// parse splits a series. A quote within a label's value is escaped, so that the two names of bounds, with what stands
// around them, are found only where they are labels.
func parse(series string, value float64) line {
	name, labels, _ := strings.Cut(series, "{")
	l := line{series: series, name: name, group: labels, value: value}
	for _, label := range []string{`le="`, `quantile="`} {
		at := strings.Index(labels, ","+label) + 1
		if at == 0 && !strings.HasPrefix(labels, label) {
			continue
		}
		bound, rest, _ := strings.Cut(labels[at+len(label):], `"`)
		l.bound, _ = strconv.ParseFloat(bound, 64) // "+Inf" is infinite
		l.group = strings.TrimSuffix(labels[:at], ",") + strings.TrimPrefix(rest, ",")
		if rest == "}" && at == 0 {
			l.group = "" // as the sum and the count, which have no labels at all
		}
	}
	return l
}

func compareLines(x, y line) int {
	return cmp.Or(cmp.Compare(x.group, y.group), cmp.Compare(x.part, y.part), cmp.Compare(x.bound, y.bound),
		cmp.Compare(x.series, y.series))
}
