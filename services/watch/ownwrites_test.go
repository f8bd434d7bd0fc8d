package watch

import (
	"math/rand/v2"
	"testing"
	"time"
)

// person plays saves of one file against ownWrites as Run does, without waiting. A reload takes a second.
type person struct {
	own    *ownWrites
	now    time.Time
	unseen bool // the last change was taken for the program's
}

// save plays one change and what follows until the next one, after a while.
func (s *person) save(pause time.Duration) {
	own, _, wait := s.own.change("file", s.now)
	s.unseen = own
	if wait = max(wait, debounce); !own && pause > wait {
		s.own.restarted(s.now.Add(wait))
	}
	s.now = s.now.Add(pause)
}

func TestAProgramThatWritesIsRecognised(t *testing.T) {
	for name, c := range map[string]struct {
		afterStart, period time.Duration // when it writes; a period of 0: once for each start
		most               int           // reloads
	}{
		"at each start":        {afterStart: 100 * time.Millisecond, most: 4},
		"a second after start": {afterStart: time.Second, most: 4},
		"every second":         {afterStart: time.Second, period: time.Second, most: 4},
		"every 5 seconds":      {afterStart: 5 * time.Second, period: 5 * time.Second, most: 5},
		"all the time":         {afterStart: 200 * time.Millisecond, period: 200 * time.Millisecond, most: 2},
	} {
		t.Run(name, func(t *testing.T) {
			jitter := rand.New(rand.NewPCG(1, 2))
			own := newOwnWrites(time.Unix(1_000_000, 0))
			clock, reloads := own.started, 0
			write := clock.Add(c.afterStart) // the program's next one
			end := clock.Add(time.Hour)
			var pending time.Time // since when the change that will be answered is there; zero: none
			var last time.Time
			wait := debounce
			for clock.Before(end) {
				clock = clock.Add(debounce / 2)
				if !write.IsZero() && !clock.Before(write) {
					isOwn, recognised, longer := own.change("file", clock)
					if recognised {
						pending = time.Time{}
					}
					if !isOwn {
						if pending.IsZero() {
							pending, wait = clock, debounce
						}
						last, wait = clock, max(wait, longer)
					}
					if write = (time.Time{}); c.period > 0 {
						write = clock.Add(c.period + time.Duration(jitter.Int64N(int64(20*time.Millisecond))))
					}
				}
				if !pending.IsZero() && (clock.Sub(last) >= wait || clock.Sub(pending) > maxDebounce) {
					reloads++
					pending = time.Time{}
					clock = clock.Add(time.Second)
					own.restarted(clock)
					write = clock.Add(c.afterStart)
				}
			}
			if reloads > c.most {
				t.Errorf("%d reloads in an hour, want at most %d", reloads, c.most)
			}
			if isOwn, _, _ := own.change("file", clock.Add(time.Minute)); isOwn {
				t.Error("an edit of the file a minute after the program wrote it is ignored")
			}
		})
	}
}

// People save one file again and again, some with every pause in typing. A save that is taken for the program's is seen with
// the next one; the last one would not be.
func TestAPersonWhoSavesIsNotRecognised(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	const sessions = 20000
	for mean, most := range map[time.Duration]int{2 * time.Second: sessions / 100, 5 * time.Second: sessions / 2000, 20 * time.Second: sessions / 2000} {
		ignored := 0
		for range sessions {
			p := person{own: newOwnWrites(time.Unix(1_000_000, 0)), now: time.Unix(1_000_010, 0)}
			for range 30 {
				p.save(500*time.Millisecond + time.Duration(random.ExpFloat64()*float64(mean)))
			}
			p.save(time.Hour)
			if p.unseen {
				ignored++
			}
		}
		if ignored > most {
			t.Errorf("a save every %v: the last of 30 was ignored in %d of %d sessions, want at most %d", mean, ignored, sessions, most)
		}
	}
}
