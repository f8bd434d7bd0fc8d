package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// record is what an Access has logged and told.
type record struct {
	mu   sync.Mutex
	log  bytes.Buffer
	told []string
}

// Write takes lines of the log.
func (r *record) Write(lines []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(lines)
}

func (r *record) tell(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, reason)
}

// take returns the levels of the lines, and the reasons, since the last call.
func (r *record) take() (levels string, told []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for line := range strings.Lines(r.log.String()) {
		all = append(all, strings.SplitN(line, " ", 3)[1])
	}
	told, r.told = r.told, nil
	r.log.Reset()
	return strings.Join(all, " "), told
}

// answeringStore answers Last with an error that the test sets, and counts the calls.
type answeringStore struct {
	Store
	err   atomic.Value // of type *error
	calls atomic.Int64
}

func (s *answeringStore) set(err error) { s.err.Store(&err) }

func (s *answeringStore) Last(context.Context) (int64, error) {
	s.calls.Add(1)
	return 0, *s.err.Load().(*error)
}

func refusedFor(reason string) error {
	return fmt.Errorf("in a call: %w", &RefusedError{Reason: reason, Err: errors.New("code 18")})
}

// The log and the master learn of a refusal at once, once for each reason, and of its end; the store is asked until it has
// worked, and again only after a call was refused.
func TestAccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var shown record
		s, away := &answeringStore{}, fmt.Errorf("%w: no server", ErrUnavailable)
		s.set(away)
		a := NewAccess(s, slog.New(slog.NewTextHandler(&shown, nil)), shown.tell)
		pass := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}
		check := func(moment, log, blocked string, toldNow ...string) {
			t.Helper()
			levels, told := shown.take()
			if levels != log {
				t.Errorf("%s: log %q, want %q", moment, levels, log)
			}
			if got := a.Blocked(); got != blocked {
				t.Errorf("%s: blocked %q, want %q", moment, got, blocked)
			}
			if !slices.Equal(told, toldNow) {
				t.Errorf("%s: told %q, want %q", moment, told, toldNow)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := a.Check(ctx); err != away {
			t.Errorf("error %v", err)
		}
		go a.Run(ctx)
		pass(10*time.Second + time.Millisecond)
		check("away", "level=WARN", "")
		if s.calls.Load() != 6 {
			t.Errorf("%d calls in 10 s", s.calls.Load())
		}
		s.set(refusedFor("wrong password"))
		pass(10 * time.Second)
		check("refused", "level=ERROR", "wrong password", "wrong password")
		s.set(refusedFor("no permission"))
		pass(10 * time.Second)
		check("refused for another reason", "level=ERROR", "no permission", "no permission")
		s.set(away)
		pass(10 * time.Second)
		check("refused and then away", "", "no permission")
		s.set(nil)
		pass(2 * time.Second)
		check("it works", "level=INFO", "", "")
		s.calls.Store(0)
		pass(time.Hour)
		check("an hour later", "", "")
		if s.calls.Load() != 0 {
			t.Errorf("%d calls without a cause", s.calls.Load())
		}

		for range 3 {
			if !a.Refused(refusedFor("wrong password")) || a.Refused(ErrUnavailable) || a.Refused(nil) {
				t.Error("a refusal is not told from other errors")
			}
		}
		check("a call is refused", "level=ERROR", "", "wrong password")
		pass(2 * time.Second)
		check("the next check works", "level=INFO", "", "")
		a.Refused(refusedFor("wrong password"))
		check("refused again within a minute", "", "", "wrong password")
		cancel()
		pass(time.Minute)
		if err := a.Check(ctx); err != nil {
			t.Error(err)
		}
	})
}

// A check that ends with its context tells nothing about the store.
func TestAccessCancelled(t *testing.T) {
	var log bytes.Buffer
	s := &answeringStore{}
	s.set(ErrUnavailable)
	a := NewAccess(s, slog.New(slog.NewTextHandler(&log, nil)), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Check(ctx); !errors.Is(err, ErrUnavailable) || log.Len() > 0 {
		t.Errorf("%v, log %s", err, log.String())
	}
}
