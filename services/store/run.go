package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	maxBatch = 500  // entries of one Append, and of one After
	kept     = 1000 // entries kept in memory, at least, once there are so many
	portion  = 100  // entries read at the start
	compared = 50   // entries compared at a time after a failure

	activePace = 10 * time.Millisecond // between questions for the next entry while a page is open and something happens
	openPace   = 50 * time.Millisecond // while a page is open and nothing happens
	idlePace   = time.Second           // while no page is open
	activeFor  = 3 * time.Second       // how long after an entry something still happens

	minBackoff = 20 * time.Millisecond // after ErrUnavailable
	maxBackoff = time.Second
	maxCrowd   = 6 // which makes up to 64 ms between two turns
)

// Run appends and follows until ctx ends, through any outage of the store, and returns nil then. It can be run once.
func (l *Log) Run(ctx context.Context) error {
	defer close(l.ended)
	known, backoff := false, minBackoff
	var begun sync.Once
	for ctx.Err() == nil {
		more, err := l.turn(ctx, known)
		known = err == nil
		if known {
			begun.Do(func() { close(l.ready) })
		}
		switch {
		case err != nil:
			sleep(ctx, backoff)
			backoff = min(2*backoff, maxBackoff)
		case more:
			backoff = minBackoff
		default:
			backoff = minBackoff
			l.wait(ctx)
		}
	}
	return nil
}

// turn does one step of everything and tells whether more is to be done at once. When what was read last is not known
// to be still there, as at the start and after a failure, that comes first.
func (l *Log) turn(ctx context.Context, known bool) (more bool, err error) {
	if !known {
		if err := l.settle(ctx); err != nil {
			return false, err
		}
	}
	l.gather()
	if !l.due() || l.crowd > 0 { // in a crowd a look is cheaper than a lost append
		if more, err = l.follow(ctx); err != nil {
			return false, err
		}
		l.prune()
	}
	if l.due() {
		err = l.append(ctx)
		l.prune()
	}
	behind, deliverErr := l.deliver(ctx)
	return more || behind || l.due(), errors.Join(err, deliverErr)
}

// due tells whether there is something to append and its time has come.
func (l *Log) due() bool { return len(l.queue) > 0 && !time.Now().Before(l.turnAt) }

// settle makes sure that the log still holds what was read from it, and forgets what it does not hold: a server that is
// killed can lose entries that were read before they were durable.
func (l *Log) settle(ctx context.Context) error {
	recent, sure := l.Recent(), int64(0)
	if len(recent) > 0 {
		sure = recent[0].N - 1
	}
	for end := len(recent); end > 0; { // backwards, for it is the last ones that are lost
		start := max(0, end-compared)
		there, err := l.Read(ctx, recent[start].N-1, end-start)
		if err != nil {
			return err
		}
		same := start
		for same < end && same-start < len(there) && there[same-start].N == recent[same].N && there[same-start].id() == recent[same].id() {
			same++
		}
		switch {
		case same == len(recent):
			return nil
		case same > start:
			l.restart(slices.Clone(recent[:same]), recent[same-1].N)
			return nil
		}
		end = start
	}
	last, err := l.store.Last(ctx)
	if err != nil {
		return err
	}
	entries, err := l.Read(ctx, max(0, last-portion), portion)
	if err != nil {
		return err
	}
	l.restart(entries, min(sure, last))
	return nil
}

// Read returns count entries of the store above n, fewer only when there are no more.
func (l *Log) Read(ctx context.Context, n int64, count int) ([]Entry, error) {
	var entries []Entry
	for len(entries) < count {
		more, err := l.store.After(ctx, n+int64(len(entries)), count-len(entries))
		if err != nil {
			return nil, err
		}
		if len(more) == 0 {
			break
		}
		entries = append(entries, more...)
	}
	return entries, nil
}

// restart makes recent all that is known of the log. Subscribers get again what is above sure.
func (l *Log) restart(recent []Entry, sure int64) {
	known := len(l.recent) > 0
	l.mu.Lock()
	l.recent = recent
	if known {
		for _, s := range l.subs {
			s.after = min(s.after, sure)
		}
	}
	l.mu.Unlock()
	for _, e := range recent {
		l.answer(e.id(), result{entry: e})
	}
}

// position is the number up to which the log was followed.
func (l *Log) position() int64 {
	if len(l.recent) == 0 {
		return 0
	}
	return l.recent[len(l.recent)-1].N
}

// gather moves what callers have handed in to the queue and forgets what nobody waits for any more.
func (l *Log) gather() {
	for {
		select {
		case r := <-l.requests:
			l.enqueue(r)
			continue
		default:
		}
		break
	}
	for id, w := range l.waiting {
		if !slices.ContainsFunc(w.requests, func(r *request) bool { return r.ctx.Err() == nil }) {
			delete(l.waiting, id)
		}
	}
	l.prune()
}

// prune takes from the queue what is not waited for any more.
func (l *Log) prune() {
	l.queue = slices.DeleteFunc(l.queue, func(w *waiting) bool { return l.waiting[w.entry.id()] != w })
}

func (l *Log) enqueue(r *request) {
	// Pages that lost their process repeat what it did not answer, all at once: the store need not be asked about each.
	isIt := func(e Entry) bool { return e.ClientID == r.entry.ClientID && e.Author == r.entry.Author }
	if i := slices.IndexFunc(l.recent, isIt); i >= 0 {
		r.result <- result{entry: l.recent[i]}
		return
	}
	w := l.waiting[r.entry.id()]
	if w == nil {
		w = &waiting{entry: r.entry}
		l.waiting[r.entry.id()] = w
		l.queue = append(l.queue, w)
	}
	w.requests = append(w.requests, r)
}

// append writes the first batch of the queue. What did not go in stays queued, unless it turns out to be stored already.
func (l *Log) append(ctx context.Context) error {
	batch := make([]Entry, min(len(l.queue), maxBatch))
	for i := range batch {
		batch[i] = l.queue[i].entry
	}
	n, err := l.store.Append(ctx, l.position(), batch)
	switch {
	case errors.Is(err, ErrUnavailable):
		return err
	case err != nil: // the store will never take these
		for _, e := range batch {
			l.answer(e.id(), result{err: err})
		}
		return nil
	}
	for i := range batch[:n] {
		batch[i].N = l.position() + int64(i) + 1
	}
	refused := batch[n:]
	l.take(batch[:n:n])
	if len(refused) == 0 {
		l.won()
		return nil
	}
	return l.refused(ctx, refused[0])
}

// won and lost share the log among processes that append at the same time: who won waits for longer than who lost, and
// who lost often for less. So it goes round, and what gathers meanwhile makes the batches larger. Otherwise who won last
// knows the next number first, and wins again.
func (l *Log) won() {
	if l.losses == 0 {
		l.crowd = max(l.crowd-1, 0)
	}
	l.losses = 0
	if l.crowd > 0 {
		l.turnAt = time.Now().Add(rand.N(time.Millisecond << l.crowd))
	}
}

func (l *Log) lost() {
	l.crowd = min(l.crowd+1, maxCrowd)
	l.losses++
	l.turnAt = time.Now().Add(rand.N(time.Millisecond<<l.crowd) / time.Duration(l.losses+1))
}

// refused finds out why the store did not take an entry: somebody was faster, or it is there already.
func (l *Log) refused(ctx context.Context, e Entry) error {
	before := l.position()
	if _, err := l.follow(ctx); err != nil {
		return err
	}
	if l.position() > before {
		l.lost()
		return nil
	}
	stored, err := l.store.Said(ctx, e.Author, e.ClientID)
	switch {
	case errors.Is(err, ErrNotFound): // then the position itself may be wrong
		l.lost()
		return l.settle(ctx)
	case err != nil:
		return err
	}
	l.answer(e.id(), result{entry: stored})
	return nil
}

// follow reads what came after the position and tells whether there may be more.
func (l *Log) follow(ctx context.Context) (more bool, err error) {
	limit := maxBatch
	if !l.behind && l.crowd == 0 { // what comes alone is delivered before a store that looks up one by one looks for more
		limit = 1
	}
	entries, err := l.store.After(ctx, l.position(), limit)
	if err != nil {
		return false, err
	}
	l.take(entries)
	l.behind = len(entries) > 0
	return l.behind, nil
}

// take moves the position over entries that follow it, and answers those who asked for them.
func (l *Log) take(entries []Entry) {
	if len(entries) == 0 {
		return
	}
	l.active = time.Now()
	l.mu.Lock()
	l.recent = append(l.recent, entries...)
	if len(l.recent) > 2*kept {
		l.recent = slices.Clone(l.recent[len(l.recent)-kept:])
	}
	l.mu.Unlock()
	for _, e := range entries {
		l.answer(e.id(), result{entry: e})
	}
}

// answer ends the wait for an entry, if somebody waits for it.
func (l *Log) answer(id entryID, res result) {
	w := l.waiting[id]
	if w == nil {
		return
	}
	delete(l.waiting, id)
	for _, r := range w.requests {
		r.result <- res
	}
}

// deliver hands every subscriber what it lacks, at most one read of the store each, and tells whether one lacks more.
func (l *Log) deliver(ctx context.Context) (behind bool, err error) {
	l.mu.Lock()
	subs := l.subs
	l.mu.Unlock()
	for _, s := range subs {
		if s.after < 0 {
			s.after = 0
			if len(l.recent) > 0 {
				s.after = l.recent[0].N - 1
			}
		}
		if s.after >= l.position() {
			continue
		}
		entries, err := l.After(ctx, s.after, maxBatch)
		if err != nil {
			return behind, err
		}
		if len(entries) == 0 {
			continue
		}
		s.f(entries)
		s.after = entries[len(entries)-1].N
		behind = behind || s.after < l.position()
	}
	return behind, nil
}

// wait ends when it is time to ask for the next entry, or earlier when there is something to do.
func (l *Log) wait(ctx context.Context) {
	pace := l.pace()
	if len(l.queue) > 0 {
		pace = min(pace, time.Until(l.turnAt))
	}
	timer := time.NewTimer(pace)
	defer timer.Stop()
	for {
		select {
		case r := <-l.requests:
			l.enqueue(r)
			if !l.due() {
				continue
			}
		case <-l.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		return
	}
}

func (l *Log) pace() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.pages <= 0:
		return idlePace
	case time.Since(l.active) < activeFor:
		return activePace
	default:
		return openPace
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
