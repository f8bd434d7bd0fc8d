package metrics

import (
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"time"

	gopsutil "github.com/shirou/gopsutil/v4/process"
)

// The names are those of Prometheus' client libraries, which dashboards for any program expect.
var (
	buildInfo    = Family{"balanza_build_info", Gauge, "Version of Balanza and of Go that a process was built with; always 1."}
	goInfo       = Family{"go_info", Gauge, "Version of Go; always 1."}
	goGoroutines = Family{"go_goroutines", Gauge, "Goroutines that exist."}
	goThreads    = Family{"go_threads", Gauge, "Threads of the operating system that Go has created."}
	goMaxProcs   = Family{"go_sched_gomaxprocs_threads", Gauge, "GOMAXPROCS: threads that may run Go code at a time."}
	goGC         = Family{"go_gc_duration_seconds", Summary, "Pauses of the garbage collector."}
	goAlloc      = Family{"go_memstats_alloc_bytes", Gauge, "Bytes of heap objects."}
	goAllocTotal = Family{"go_memstats_alloc_bytes_total", Counter, "Bytes allocated for heap objects so far, freed ones included."}
	goMallocs    = Family{"go_memstats_mallocs_total", Counter, "Heap objects allocated so far."}
	goFrees      = Family{"go_memstats_frees_total", Counter, "Heap objects freed so far."}
	goHeapInuse  = Family{"go_memstats_heap_inuse_bytes", Gauge, "Bytes of heap spans in use."}
	goHeapIdle   = Family{"go_memstats_heap_idle_bytes", Gauge, "Bytes of heap spans without objects."}
	goReleased   = Family{"go_memstats_heap_released_bytes", Gauge, "Bytes of heap returned to the operating system."}
	goHeapSys    = Family{"go_memstats_heap_sys_bytes", Gauge, "Bytes of heap obtained from the operating system."}
	goObjects    = Family{"go_memstats_heap_objects", Gauge, "Heap objects that exist."}
	goStack      = Family{"go_memstats_stack_inuse_bytes", Gauge, "Bytes of stacks in use."}
	goSys        = Family{"go_memstats_sys_bytes", Gauge, "Bytes obtained from the operating system."}
	goNextGC     = Family{"go_memstats_next_gc_bytes", Gauge, "Bytes of heap at which the garbage collector runs next."}
	goLastGC     = Family{"go_memstats_last_gc_time_seconds", Gauge, "When the garbage collector ran last, in Unix time; 0: never."}

	processCPU     = Family{"process_cpu_seconds_total", Counter, "Processor time spent so far, in user and system mode."}
	processRSS     = Family{"process_resident_memory_bytes", Gauge, "Resident memory."}
	processVirtual = Family{"process_virtual_memory_bytes", Gauge, "Virtual memory."}
	processFDs     = Family{"process_open_fds", Gauge, "File descriptors that are open."}
	processMaxFDs  = Family{"process_max_fds", Gauge, "File descriptors that may be open at a time."}
	processStart   = Family{"process_start_time_seconds", Gauge, "When the process started, in Unix time."}
)

// quantiles are those of the garbage collector's pauses.
var quantiles = []string{"0", "0.25", "0.5", "0.75", "1"}

// Runtime measures the Go runtime of this process, and names its version.
func Runtime(version string) (s Snapshot) {
	s.Set(buildInfo, 1, "version", version, "goversion", runtime.Version())
	s.Set(goInfo, 1, "version", runtime.Version())
	s.Set(goGoroutines, float64(runtime.NumGoroutine()))
	s.Set(goThreads, float64(pprof.Lookup("threadcreate").Count()))
	s.Set(goMaxProcs, float64(runtime.GOMAXPROCS(0)))

	gc := debug.GCStats{PauseQuantiles: make([]time.Duration, len(quantiles))}
	debug.ReadGCStats(&gc)
	for i, q := range quantiles {
		s.Set(goGC, gc.PauseQuantiles[i].Seconds(), "quantile", q)
	}
	s.set(goGC.Name+"_sum", gc.PauseTotal.Seconds())
	s.set(goGC.Name+"_count", float64(gc.NumGC))

	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	for _, v := range []struct {
		family Family
		value  uint64
	}{
		{goAlloc, m.Alloc}, {goAllocTotal, m.TotalAlloc}, {goMallocs, m.Mallocs}, {goFrees, m.Frees},
		{goHeapInuse, m.HeapInuse}, {goHeapIdle, m.HeapIdle}, {goReleased, m.HeapReleased}, {goHeapSys, m.HeapSys},
		{goObjects, m.HeapObjects}, {goStack, m.StackInuse}, {goSys, m.Sys}, {goNextGC, m.NextGC},
	} {
		s.Set(v.family, float64(v.value))
	}
	s.Set(goLastGC, float64(m.LastGC)/1e9)
	return s
}

// Process measures a process of this machine from outside, so that one that hangs is measured, too. What the system does
// not tell is left out.
func Process(pid int) (s Snapshot) {
	p := gopsutil.Process{Pid: int32(pid)} // NewProcess would read more
	if times, err := p.Times(); err == nil {
		s.Set(processCPU, times.User+times.System)
	}
	if memory, err := p.MemoryInfo(); err == nil {
		s.Set(processRSS, float64(memory.RSS))
		s.Set(processVirtual, float64(memory.VMS))
	}
	if n, err := p.NumFDs(); err == nil {
		s.Set(processFDs, float64(n))
	}
	if limits, err := p.Rlimit(); err == nil {
		for _, l := range limits {
			if l.Resource == gopsutil.RLIMIT_NOFILE {
				s.Set(processMaxFDs, float64(l.Soft))
			}
		}
	}
	if started, err := p.CreateTime(); err == nil { // milliseconds
		s.Set(processStart, float64(started)/1000)
	}
	return s
}
