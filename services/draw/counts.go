package draw

import "strconv"

// Counts is a histogram: Counts[7] is how often 7 was drawn. Counts[0] is always 0.
type Counts [Numbers + 1]int64

// Draws is the number of draws that were counted.
func (c *Counts) Draws() int64 {
	var sum int64
	for _, times := range c {
		sum += times
	}
	return sum
}

// AppendJSON appends a JSON object to b: each number that was drawn, in ascending order, and how often it came.
func (c *Counts) AppendJSON(b []byte) []byte {
	b = append(b, '{')
	for number, times := range c {
		if times == 0 {
			continue
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = strconv.AppendInt(b, int64(number), 10)
		b = append(b, `":`...)
		b = strconv.AppendInt(b, times, 10)
	}
	return append(b, '}')
}

// MarshalJSON gives what AppendJSON appends, and no error.
func (c *Counts) MarshalJSON() ([]byte, error) {
	return c.AppendJSON(make([]byte, 0, 16*Numbers)), nil
}
