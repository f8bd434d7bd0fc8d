package eventlog

import (
	"context"
	"slices"

	"balanza/services/store"
)

// A standalone MongoDB server answers reads from memory: a process can read an entry that is not in the journal yet. When
// the server is killed then, the entry is gone after its restart, and its number is given to another entry. Nobody got an
// acknowledgement for the lost one, but pages show it. This file steps back to what the restarted server has. A replica set
// read with the concern "majority", and SQLite, never lose an entry that was read.

// verifyBatch is how many entries are compared with the store at a time.
const verifyBatch = 50

// verifyRecent compares the recent entries with the store and forgets those that the store no longer has. At the start there
// are none, and it reads the last ones.
func (l *Log) verifyRecent(ctx context.Context) error {
	for end := len(l.recent); end > 0; { // backwards, since a server loses the last entries
		start := max(0, end-verifyBatch)
		part := l.recent[start:end]
		stored, err := l.read(ctx, part[0].N-1, part[len(part)-1].N)
		if err != nil {
			return err
		}
		same := 0
		for same < len(stored) && same < len(part) && sameEntry(stored[same], part[same]) {
			same++
		}
		if same > 0 {
			l.stepBack(l.recent[:start+same])
			return nil
		}
		end = start
	}
	last, err := l.store.Last(ctx)
	if err != nil {
		return err
	}
	before := max(0, last-minRecent)
	if len(l.recent) > 0 {
		before = min(before, l.recent[0].N-1)
	}
	entries, err := l.read(ctx, before, last)
	if err != nil {
		return err
	}
	// A gap among them may be an entry that is being written.
	n := 0
	for n < len(entries) && entries[n].N == before+int64(n)+1 {
		n++
	}
	l.replace(entries[:n], before)
	return nil
}

// stepBack forgets the entries after the verified ones. Subscribers that have got more get the new ones in their place.
func (l *Log) stepBack(verified []store.Entry) {
	if len(verified) < len(l.recent) {
		l.replace(slices.Clone(verified), verified[len(verified)-1].N)
	}
}

// replace replaces the recent entries. Subscribers get the entries above the number verified again.
func (l *Log) replace(recent []store.Entry, verified int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	started := l.position > 0
	l.recent, l.position, l.appended = recent, verified, nil
	if len(recent) > 0 {
		l.position = recent[len(recent)-1].N
	}
	for _, s := range l.subscribers {
		if started {
			s.delivered = min(s.delivered, verified)
		}
	}
}
