package store

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

const (
	checkInterval  = 2 * time.Second // between two checks of a store that has not worked yet, or rejects this process
	repeatInterval = time.Minute     // after which the log repeats a reason
)

// Access tells whether a store lets this process in. It checks the store until that has worked once, and again after a call
// was refused. The log has a line at the first failure, at a refusal and when the reason changes, and when the store works.
type Access struct {
	store   Store
	log     *slog.Logger
	changed func(reason string)
	wake    chan struct{} // has a token when the store is to be checked again

	mu      sync.Mutex
	worked  bool                 // at least once
	warned  bool                 // that the store cannot be reached
	refusal string               // the reason; empty: none
	logged  map[string]time.Time // reasons of refusals
}

// NewAccess returns the access to a store. changed, unless nil, gets the reason when the store refuses this process, another
// one when that changes, and an empty one when the store works again.
func NewAccess(s Store, log *slog.Logger, changed func(reason string)) *Access {
	if changed == nil {
		changed = func(string) {}
	}
	return &Access{store: s, log: log, changed: changed, wake: make(chan struct{}, 1), logged: map[string]time.Time{}}
}

// Check asks the store once for what needs a log-in and the permission to read, for CallTimeout at most. It returns the
// store's error.
func (a *Access) Check(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	_, err := a.store.Last(call)
	if ctx.Err() == nil && !a.Refused(err) {
		a.record(err)
	}
	return err
}

// record notes a check that was not refused.
func (a *Access) record(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err != nil:
		if !a.worked && !a.warned && a.refusal == "" {
			a.warned = true
			a.log.Warn("the database can't be reached; the server goes on trying", "error", err)
		}
	default:
		if a.warned || a.refusal != "" {
			a.log.Info("the database works")
		}
		if a.refusal != "" {
			a.changed("")
		}
		a.worked, a.warned, a.refusal = true, false, ""
	}
}

// Refused tells whether a call failed with a RefusedError, and notes the reason.
func (a *Access) Refused(err error) bool {
	refused, ok := errors.AsType[*RefusedError](err)
	if !ok {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refusal == refused.Reason {
		return true
	}
	if now := time.Now(); now.Sub(a.logged[refused.Reason]) > repeatInterval {
		a.logged[refused.Reason] = now
		a.log.Error("the database refuses this server", "reason", refused.Reason, "error", refused.Err)
	}
	a.refusal = refused.Reason
	a.changed(a.refusal)
	select {
	case a.wake <- struct{}{}:
	default:
	}
	return true
}

// Blocked returns why the store refuses this process, if it does and has never worked, and else an empty text.
func (a *Access) Blocked() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.worked {
		return ""
	}
	return a.refusal
}

// Run checks the store every 2 s while it has not worked yet or refuses this process, until ctx ends.
func (a *Access) Run(ctx context.Context) {
	for {
		var due <-chan time.Time // never
		a.mu.Lock()
		if !a.worked || a.refusal != "" {
			due = time.After(checkInterval)
		}
		a.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
			continue
		case <-due:
			_ = a.Check(ctx) // it notes the error
		}
	}
}
