package draw

import (
	"os"
	"path/filepath"
	"testing"
)

func TestQuota(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  float64
	}{
		{"no control groups", nil, 0},
		{"version 2", map[string]string{"cpu.max": "150000 100000\n"}, 1.5},
		{"version 2, no limit", map[string]string{"cpu.max": "max 100000\n"}, 0},
		{"version 1", map[string]string{"cpu/cpu.cfs_quota_us": "25000\n", "cpu/cpu.cfs_period_us": "50000\n"}, 0.5},
		{"version 1, no limit", map[string]string{"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0},
		{"no number", map[string]string{"cpu.max": "?\n"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			for name, text := range c.files {
				path := filepath.Join(root, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := quota(root); got != c.want {
				t.Errorf("%g processors, want %g", got, c.want)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		processors, cores int
		quota             float64
		threads           int
		busy              float64 // part of its time that a thread draws
	}{
		{4, 4, 0, 4, 1},
		{4, 2, 0, 2, 1},
		{2, 2, 2, 2, 1},
		{8, 2, 2, 2, 0.75},
		{8, 2, 4, 2, 1},
		{2, 2, 1, 1, 0.75},
		{8, 2, 0.5, 1, 0.375},
		{8, 2, 1.5, 2, 0.5625},
	} {
		threads, rest := limits(c.processors, c.cores, c.quota)
		if threads != c.threads || 1/(1+rest) != c.busy {
			t.Errorf("%d of %d processors, quota %g: %d threads, busy %g; want %d, %g",
				c.cores, c.processors, c.quota, threads, 1/(1+rest), c.threads, c.busy)
		}
	}
}
