package main

import (
	"context"

	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"balanza/services/store"
)

const (
	recordedProcesses = 40
	recordsTime       = 30 * time.Second // of each measurement
	// The targets: of one idle process, and of all together beyond that while a panel is open.
	idleShare, idleWrites = 0.3, 0.3 // percent of a processor, writes a second
	panelShare            = 3        // percent of a processor
)

// records measures 40 idle workers, without a panel and with one: the processor time of all, and how often they write.
func records(ctx context.Context, b *bench) error {
	return b.onEachStore(ctx, "records", func(config storeConfig) error {
		s, err := b.startBalanza(ctx, config.env(), "--m", "CLUSTER", "-i", strconv.Itoa(recordedProcesses))
		if err != nil {
			return err
		}
		defer s.stop()
		cookie, err := s.signUp(ctx, "ana")
		if err != nil {
			return err
		}
		st, err := config.open(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = st.Close() }()
		time.Sleep(3 * restTime) // all are started, and write every five seconds
		idle, writes, err := s.recordsCost(ctx, st)
		if err != nil {
			return err
		}
		fmt.Printf("on %s, one of %d idle processes: %.2f %% of a processor, target %g %s; %.2f writes/s, target %g %s\n",
			config.name, recordedProcesses, idle/recordedProcesses, idleShare, verdict(idle/recordedProcesses <= idleShare),
			writes/recordedProcesses, idleWrites, verdict(writes/recordedProcesses <= idleWrites))

		frames, bytes, err := s.openPanel(ctx, cookie)
		if err != nil {
			return err
		}
		time.Sleep(2 * restTime) // all know of the panel
		before, sizeBefore := frames(), bytes()
		open, writes, err := s.recordsCost(ctx, st)
		if err != nil {
			return err
		}
		n := frames() - before
		fmt.Printf("with a panel, all %d: %.2f %% of a processor more, target %d %s; %.2f writes/s each; %.2f frames/s of %.0f bytes\n",
			recordedProcesses, open-idle, panelShare, verdict(open-idle <= panelShare), writes/recordedProcesses,
			float64(n)/recordsTime.Seconds(), float64(bytes()-sizeBefore)/float64(max(1, n)))
		return nil
	})
}

// recordsCost returns the percentage of a processor that a server uses, and how many records its processes write in a second.
func (s *server) recordsCost(ctx context.Context, st store.Store) (share, writes float64, err error) {
	before, err := s.cpuSeconds(ctx)
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	seen := make(map[string]time.Time) // of each process's last record
	n := 0
	for time.Since(start) < recordsTime {
		all, err := st.Processes(ctx, time.Now())
		if err != nil {
			return 0, 0, err
		}
		for _, p := range all {
			if last, known := seen[p.ID]; known && p.Seen.After(last) {
				n++
			}
			seen[p.ID] = p.Seen
		}
		time.Sleep(200 * time.Millisecond) // shorter than the time between two records of a process
	}
	seconds := time.Since(start).Seconds()
	after, err := s.cpuSeconds(ctx)
	if err == nil && len(seen) != recordedProcesses {
		err = fmt.Errorf("%d processes have a record, want %d", len(seen), recordedProcesses)
	}
	return 100 * (after - before) / seconds, float64(n) / seconds, err
}

// openPanel opens a panel until ctx ends or the server does. frames and bytes return what it has received.
func (s *server) openPanel(ctx context.Context, cookie string) (frames, bytes func() int64, err error) {
	conn, _, err := s.dialPath(ctx, cookie, "/ws?panel=1")
	if err != nil {
		return nil, nil, err
	}
	var received, size atomic.Int64
	go func() {
		defer conn.Close()
		for {
			_, frame, err := conn.ReadMessage()
			if err != nil {
				return
			}
			received.Add(1)
			size.Add(int64(len(frame)))
		}
	}()
	return received.Load, size.Load, nil
}

// verdict says whether a target is reached.
func verdict(reached bool) string {
	if reached {
		return "reached"
	}
	return "MISSED"
}
