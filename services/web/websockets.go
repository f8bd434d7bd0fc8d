package web

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"balanza/services/chat"
	"balanza/services/store"
)

const (
	// holdLifetime is how long the websockets of a process that was killed still count.
	holdLifetime = 90 * time.Second
	// renewInterval is the time after which a process writes all its numbers again: two such writes may fail.
	renewInterval = 25 * time.Second
	// admitTimeout is how long a websocket waits to be admitted while its account has too many. After a reload the old
	// process may tell a little later than the page returns that it has closed its websocket.
	admitTimeout = time.Second
	// holdInterval is the time between two calls of the store: what changes meanwhile shares one call.
	holdInterval = 25 * time.Millisecond
	// retryHold is the time between two looks at what is waiting.
	retryHold = 250 * time.Millisecond
	// holdBatch is how many accounts one call writes.
	holdBatch = 500

	// Each join costs the entries that the page lacks, at least joinCost. An account can spend joinBurst at once and joinRate
	// in a second, for each websocket that it may have open: three pages that missed the most possible in a minute.
	joinCost  = 200
	joinBurst = 3000
	joinRate  = 50
)

var (
	// errTooManyWebsockets ends a websocket of an account that has as many as it may.
	errTooManyWebsockets = errors.New("too many websockets")
	// errTooManyJoins ends a websocket of an account that opens them too often.
	errTooManyJoins = errors.New("too many joins")
)

// websockets limits the websockets that an account has open in all processes, and what its pages may read again. Each process
// writes into the store how many of an account it has: one goroutine, run, does so for all accounts together, since
// thousands of pages come at once when a process was replaced.
type websockets struct {
	site   *Site
	holder string
	wakeup chan struct{} // capacity 1

	mu       sync.Mutex
	accounts map[string]*account
	changed  map[string]bool // accounts whose number is to be written
}

// account is what a process knows of the websockets of an account.
type account struct {
	open    int          // admitted
	waiting []*admission // in the order of their arrival
	joins   *rate.Limiter
}

// admission is a websocket that is not admitted yet.
type admission struct {
	until  time.Time  // afterwards it is rejected
	result chan error // capacity 1
}

func newWebsockets(s *Site) *websockets {
	return &websockets{
		site:     s,
		holder:   rand.Text(),
		wakeup:   make(chan struct{}, 1),
		accounts: make(map[string]*account),
		changed:  make(map[string]bool),
	}
}

// account returns the record of an account. mu is locked.
func (w *websockets) account(email string) *account {
	a := w.accounts[email]
	if a == nil {
		limit := w.site.config.Limits.Websockets
		a = &account{joins: rate.NewLimiter(rate.Limit(limit*joinRate), limit*joinBurst)}
		w.accounts[email] = a
	}
	return a
}

// admit counts a websocket of an account, until release. It fails with errTooManyWebsockets, or with chat.ErrClosed when the
// process stops. While the store does not answer, a process counts its own websockets only.
func (w *websockets) admit(email string) error {
	w.mu.Lock()
	a := w.account(email)
	if a.open+len(a.waiting) >= w.site.config.Limits.Websockets {
		w.mu.Unlock()
		return errTooManyWebsockets
	}
	admitted := &admission{until: time.Now().Add(admitTimeout), result: make(chan error, 1)}
	a.waiting = append(a.waiting, admitted)
	w.change(email)
	w.mu.Unlock()
	select {
	case err := <-admitted.result:
		return err
	case <-w.site.work.Done():
		return chat.ErrClosed
	}
}

// release takes a websocket that was admitted off the count.
func (w *websockets) release(email string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.account(email).open--
	w.change(email)
}

// change has an account's number written. mu is locked.
func (w *websockets) change(email string) {
	w.changed[email] = true
	select {
	case w.wakeup <- struct{}{}:
	default:
	}
}

// spend takes what a join costs off an account's budget, or returns false.
func (w *websockets) spend(email string, entries int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	joins := w.account(email).joins
	return joins.AllowN(time.Now(), min(max(joinCost, int(entries)), joins.Burst()))
}

// run writes the numbers that change, and all of them every renewInterval, until ctx ends. Then it deletes those of this process.
func (w *websockets) run(ctx context.Context) {
	retry, renew := time.NewTicker(retryHold), time.NewTicker(renewInterval)
	defer retry.Stop()
	defer renew.Stop()
	for {
		select {
		case <-ctx.Done():
			w.releaseAll()
			return
		case <-w.wakeup:
			w.writeChanges(ctx)
		case <-retry.C:
			if w.touchWaiting() {
				w.writeChanges(ctx)
			}
		case <-renew.C:
			w.touchAll()
			w.writeChanges(ctx)
		}
		select {
		case <-ctx.Done():
		case <-time.After(holdInterval):
		}
	}
}

// releaseAll deletes the numbers of this process, which ends: the last websockets are being closed.
func (w *websockets) releaseAll() {
	ctx, cancel := context.WithTimeout(context.Background(), store.CallTimeout)
	defer cancel()
	w.mu.Lock()
	for email, a := range w.accounts {
		if a.open > 0 {
			w.changed[email] = true
		}
		a.open, a.waiting = 0, nil
	}
	w.mu.Unlock()
	w.writeChanges(ctx)
}

// touchWaiting has the numbers of accounts with waiting websockets written again, and reports whether there are any.
func (w *websockets) touchWaiting() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for email, a := range w.accounts {
		if len(a.waiting) > 0 {
			w.changed[email] = true
		}
	}
	return len(w.changed) > 0
}

// touchAll has all numbers written again, and forgets the accounts without websockets whose budget is full.
func (w *websockets) touchAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for email, a := range w.accounts {
		switch {
		case a.open > 0:
			w.changed[email] = true
		case len(a.waiting) == 0 && !w.changed[email] && a.joins.Tokens() >= float64(a.joins.Burst()):
			delete(w.accounts, email)
		}
	}
}

// writeChanges writes the numbers that have changed, and admits the websockets that wait for it.
func (w *websockets) writeChanges(ctx context.Context) {
	w.mu.Lock()
	emails := slices.Collect(maps.Keys(w.changed))
	w.mu.Unlock()
	for batch := range slices.Chunk(emails, holdBatch) {
		w.write(ctx, batch)
	}
}

// write writes the numbers of some accounts.
func (w *websockets) write(ctx context.Context, emails []string) {
	w.mu.Lock()
	counts, waiting := make(map[string]int, len(emails)), make(map[string]int, len(emails))
	for _, email := range emails {
		a := w.account(email)
		counts[email], waiting[email] = a.open+len(a.waiting), len(a.waiting)
		delete(w.changed, email)
	}
	w.mu.Unlock()
	totals, err := w.hold(ctx, counts)

	w.mu.Lock()
	defer w.mu.Unlock()
	for _, email := range emails {
		others := totals[email] - counts[email]
		if err != nil {
			others = 0
		}
		a := w.accounts[email]
		a.decide(waiting[email], w.site.config.Limits.Websockets-others)
		if err != nil || a.open+len(a.waiting) != counts[email] {
			w.changed[email] = true // written with the next change, or retryHold later
		}
	}
}

// hold writes numbers and returns those of all processes.
func (w *websockets) hold(ctx context.Context, counts map[string]int) (map[string]int, error) {
	now, err := w.site.now(ctx)
	if err != nil {
		return nil, err
	}
	return w.site.config.Store.Hold(ctx, w.holder, counts, now, now.Add(holdLifetime))
}

// decide admits or rejects the first n of the websockets that wait, when so many may be open in this process. Others go on
// waiting until they are rejected.
func (a *account) decide(n, most int) {
	var undecided []*admission
	for _, w := range a.waiting[:n] {
		switch {
		case a.open < most:
			a.open++
			w.result <- nil
		case time.Now().After(w.until):
			w.result <- errTooManyWebsockets
		default:
			undecided = append(undecided, w)
		}
	}
	a.waiting = append(undecided, a.waiting[n:]...)
}
