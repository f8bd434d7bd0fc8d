package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"balanza/services/workers/control"
)

// Pauses before a process that has died is started again. The pause begins anew for one that has run for stableAfter.
const (
	minPause    = time.Second
	maxPause    = time.Minute
	stableAfter = time.Minute
)

// keepAll starts what was saved and stays: it starts again what dies, and ends what it has started when a signal ends it.
// HUP reloads. Servers that ran already are left alone, and one whose process ends without an error, as after an order to
// delete it, stays ended.
func (p *program) keepAll(state saved) error {
	k := &keeper{program: p}
	ctx, cancel := p.untilSignal(k.reload, func() {})
	defer cancel()
	var failed []error
	var keeping sync.WaitGroup
	for _, l := range state.Launches {
		ended, err := p.relaunch(ctx, l)
		if err != nil && ctx.Err() == nil {
			k.report(err)
			failed = append(failed, err)
		}
		if _, otherStore := errors.AsType[otherStoreError](err); !otherStore && (err != nil || ended != nil) {
			k.add(l)
			keeping.Go(func() { k.keep(ctx, l, ended) })
		}
		if ctx.Err() != nil {
			break
		}
	}
	switch {
	case len(failed) == 0:
		p.service.ready()
	case len(failed) == len(state.Launches) && len(k.all()) == 0:
		return errors.New(text("nothing could be started")) // each reason has been reported
	default:
		p.service.degraded(errors.Join(failed...).Error())
	}
	<-ctx.Done()
	p.service.stopping()
	keeping.Wait()
	return nil
}

// keeper keeps the processes of saved commands running.
type keeper struct {
	*program
	mu       sync.Mutex
	launches []launch // that this process keeps
}

// add adds a command to those that reload and end reach.
func (k *keeper) add(l launch) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.launches = append(k.launches, l)
}

// remove takes a command off again.
func (k *keeper) remove(l launch) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.launches = slices.DeleteFunc(k.launches, func(other launch) bool { return other.title() == l.title() })
}

// all returns the commands that are kept.
func (k *keeper) all() []launch {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.launches)
}

// report prints an error in one line.
func (k *keeper) report(err error) {
	fmt.Fprintf(k.err, "balanza: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
}

// keep waits for the end of a command's process, whose start has failed where ended is nil, and starts it again. It returns
// when the process ends without an error, and when ctx ends, which ends the process.
func (k *keeper) keep(ctx context.Context, l launch, ended <-chan error) {
	defer k.remove(l)
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		if ended != nil {
			began := time.Now()
			select {
			case <-ctx.Done():
				k.end(l, ended)
				return
			case err := <-ended:
				if err == nil {
					return
				}
				k.report(fmt.Errorf("%s: %w", l.title(), err))
			}
			if time.Since(began) > stableAfter {
				pause = minPause
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		var err error
		if ended, err = k.relaunch(ctx, l); err != nil && ctx.Err() == nil {
			k.report(err)
		} else if err == nil && ended == nil { // somebody else has started it
			return
		}
	}
}

// end ends the process of a command. One that starts does not answer yet, so that the order is given until it has ended.
func (k *keeper) end(l launch, ended <-chan error) {
	for {
		if err := k.orderTo(l, control.Delete); err != nil {
			k.report(err)
		}
		select {
		case <-ended:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// reload reloads all servers that are kept.
func (k *keeper) reload() {
	k.service.reload(true)
	defer k.service.reload(false)
	var reloads sync.WaitGroup
	for _, l := range k.all() {
		reloads.Go(func() {
			if err := k.orderTo(l, control.Reload); err != nil {
				k.report(err)
			}
		})
	}
	reloads.Wait()
}

// orderTo gives an order to the servers of a command that answer.
func (k *keeper) orderTo(l launch, order string) error {
	servers, err := k.list(context.Background())
	servers = slices.DeleteFunc(servers, func(st control.Status) bool {
		_, ours := l.Servers[st.Name]
		return !ours
	})
	if err != nil || len(servers) == 0 {
		return err
	}
	return k.order(context.Background(), servers, order, 0)
}
