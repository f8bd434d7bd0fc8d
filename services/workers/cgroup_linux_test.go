package workers

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// files writes a file system below a folder that it returns.
func files(t *testing.T, texts map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range texts {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// The kills and the limit are found in both versions of control groups, on a machine and in a container, which may see its
// own group as the highest one.
func TestKillsForMemory(t *testing.T) {
	const v1, v2 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "low 0\nhigh 0\nmax 9\noom 4\noom_kill 3\noom_group_kill 0\n"
	for _, c := range []struct {
		name   string
		texts  map[string]string
		counts string // the file of the kills
		more   string // its text after two further kills
		want   string // the cause of the next two deaths
	}{
		{"version 2 in a container", map[string]string{
			"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.events": v2, "sys/fs/cgroup/memory.max": "268435456\n",
		}, "sys/fs/cgroup/memory.events", "oom 6\noom_kill 5\n", "killed by the kernel: the memory limit of 256 MiB is reached"},
		{"version 2, the limit of a slice", map[string]string{
			"proc/self/cgroup":                                 "0::/user.slice/a.service\n",
			"sys/fs/cgroup/user.slice/memory.max":              "104857600\n",
			"sys/fs/cgroup/user.slice/a.service/memory.max":    "max\n",
			"sys/fs/cgroup/user.slice/a.service/memory.events": v2,
		}, "sys/fs/cgroup/user.slice/a.service/memory.events", "oom_kill 5\n", "killed by the kernel: the memory limit of 100 MiB is reached"},
		{"version 2 without a limit", map[string]string{
			"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.events": v2, "sys/fs/cgroup/a/memory.max": "max\n",
		}, "sys/fs/cgroup/a/memory.events", "oom_kill 5\n", "killed by the kernel: the machine has no memory left"},
		{"version 1 in a container", map[string]string{
			"proc/self/cgroup":                           "9:name=systemd:/docker/2f\n4:memory:/docker/2f\n0::/docker/2f\n",
			"sys/fs/cgroup/memory/memory.oom_control":    v1,
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "67108864\n",
		}, "sys/fs/cgroup/memory/memory.oom_control", "under_oom 0\noom_kill 5\n", "killed by the kernel: the memory limit of 64 MiB is reached"},
		{"version 1 on a machine", map[string]string{
			"proc/self/cgroup":                             "4:cpu,cpuacct:/\n3:memory:/a\n",
			"sys/fs/cgroup/memory/a/memory.oom_control":    v1,
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "9223372036854771712\n",
		}, "sys/fs/cgroup/memory/a/memory.oom_control", "oom_kill 5\n", "killed by the kernel: the machine has no memory left"},
		{"an old kernel", map[string]string{
			"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\n",
		}, "sys/fs/cgroup/memory/memory.oom_control", "under_oom 1\n", "signal: killed"},
		{"nothing", nil, "x", "", "signal: killed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := files(t, c.texts)
			group := findMemoryGroup(root)
			cause := func(p process) string {
				p.explainKill(group)
				return p.cause()
			}
			killed := process{exit: errors.New("signal: killed")}
			if got := cause(killed); got != "signal: killed" {
				t.Errorf("before any kill: %s", got)
			}
			if err := os.WriteFile(filepath.Join(root, c.counts), []byte(c.more), 0o644); err != nil {
				t.Fatal(err)
			}
			for _, other := range []process{
				{exit: errors.New("exit status 1")}, {exit: errors.New("signal: killed"), killCause: "no heartbeat for 5s"},
			} {
				if got, want := cause(other), other.exitCause(); got != want {
					t.Errorf("%s became %s", want, got)
				}
			}
			program := process{failure: "signal: killed"} // of which its parent tells
			for i, p := range []process{killed, program} {
				if got := cause(p); got != c.want {
					t.Errorf("death %d: %s, want %s", i+1, got, c.want)
				}
			}
			if got := cause(killed); got != "signal: killed" {
				t.Errorf("after the kills: %s", got)
			}
		})
	}
}
