package chat

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"balanza/services/store"
)

// trySend sends a message and returns the time to wait when there are too many.
func trySend(t *testing.T, h *Hub, author store.Author, clientID string) (wait time.Duration) {
	t.Helper()
	_, err := h.Send(t.Context(), author, "hola", clientID)()
	if e, ok := errors.AsType[*TooManyError](err); ok {
		return e.Wait
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}

// An author may send so many messages in any minute, over all processes; the wait is until the first of them is a minute old.
func TestMessagesOfAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 4
		m := &memory{}
		one, stopOne := limitedProcess(t, m, limit)
		defer stopOne()
		other, stopOther := limitedProcess(t, m, limit)
		defer stopOther()
		join(t, one, "s", 0)
		join(t, other, "s", 0)
		for i := range limit {
			h := []*Hub{one, other}[i%2]
			if wait := trySend(t, h, ana, fmt.Sprint(i)); wait > 0 {
				t.Fatalf("message %d must wait for %v", i, wait)
			}
			time.Sleep(10 * time.Second)
		}
		for name, h := range map[string]*Hub{"one": one, "other": other} {
			if wait := trySend(t, h, ana, "more"); wait < 19*time.Second || wait > 21*time.Second {
				t.Errorf("%s: wait for %v, want 20 s", name, wait)
			}
			if wait := trySend(t, h, ana, "0"); wait > 0 {
				t.Errorf("%s: the repeat of a message must wait for %v", name, wait)
			}
			if wait := trySend(t, h, beto, name); wait > 0 {
				t.Errorf("%s: another author must wait for %v", name, wait)
			}
		}
		time.Sleep(21 * time.Second) // the first message is older than a minute then, and the second one is not
		if wait := trySend(t, other, ana, "more"); wait > 0 {
			t.Errorf("wait for %v after a minute", wait)
		}
		time.Sleep(time.Second) // the other process learns of it
		if wait := trySend(t, one, ana, "and more"); wait < 7*time.Second || wait > 9*time.Second {
			t.Errorf("wait for %v, want 8 s", wait)
		}
		time.Sleep(3 * time.Minute)
		send(t, one, beto, "hola", "sweeps")
		time.Sleep(time.Second)
		for _, h := range []*Hub{one, other} {
			h.rates.mu.Lock()
			if len(h.rates.times) != 1 || len(h.rates.pending) != 0 || len(h.rates.stored) != 0 {
				t.Errorf("counters of no use: %v, %v, %v", h.rates.times, h.rates.pending, h.rates.stored)
			}
			h.rates.mu.Unlock()
		}
	})
}

// Messages that are not stored because the store fails are not counted.
func TestFailedMessagesAreNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 2
		m := &memory{}
		h, stop := limitedProcess(t, m, limit)
		defer stop()
		join(t, h, "s", 0)
		m.set(func() { m.down = true })
		for i := range limit {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := h.Send(ctx, ana, "hola", fmt.Sprint("lost", i))(); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("stored in an outage: %v", err)
			}
			cancel()
		}
		m.set(func() { m.down = false })
		for i := range limit {
			if wait := trySend(t, h, ana, fmt.Sprint(i)); wait > 0 {
				t.Errorf("message %d must wait for %v", i, wait)
			}
		}
		if trySend(t, h, ana, "more") == 0 {
			t.Error("no limit")
		}
	})
}
