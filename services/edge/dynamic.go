package edge

import (
	"context"
	"slices"
	"time"
)

const (
	// instanceRole is the role of the upstreams that Add adds.
	instanceRole       = "instance"
	removePollInterval = 5 * time.Millisecond
)

// withDynamicPool gives a balancer of Config.Dynamic its only pool, which is empty. Requests that come before the first Add
// wait as they do while no upstream is up.
func (b *Balancer) withDynamicPool() *Balancer {
	b.draws, b.site = b.newPool(), b.newPool(newTier(instanceRole, nil))
	b.site.touch()
	return b
}

// touch records that an upstream came or left.
func (p *pool) touch() {
	now := time.Now()
	p.changed.Store(&now)
}

// Add gives requests to the upstream of that address, host:port, which is ready, from now on. Only a balancer of
// Config.Dynamic has Add and Remove.
func (b *Balancer) Add(address string) {
	u := newUpstream(address, b.noKeepAlive, b.log)
	u.dialOnly = true
	u.health.Store(&health{up: true, since: time.Now()})
	ctx, stop := context.WithCancel(context.Background())
	u.stop = stop
	go u.checkPeriodically(ctx)
	b.changeUpstreams(func(all []*upstream) []*upstream { return append(all, u) })
}

// Remove gives an upstream no more requests, and returns when it has none in flight or when ctx ends. Websockets and
// streams of events are not waited for: they may never end.
func (b *Balancer) Remove(ctx context.Context, address string) {
	var u *upstream
	b.changeUpstreams(func(all []*upstream) []*upstream {
		return slices.DeleteFunc(all, func(one *upstream) bool {
			if one.address == address {
				u = one
			}
			return one == u
		})
	})
	if u == nil {
		return
	}
	u.removed.Store(true)
	tick := time.NewTicker(removePollInterval)
	defer tick.Stop()
	for u.inFlight.Load() > 0 && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	u.stop()
}

// Requests is how many requests the upstream of that address has answered, 0 for one that is not there.
func (b *Balancer) Requests(address string) int64 {
	for _, u := range b.upstreams() {
		if u.address == address {
			return u.requests.Load()
		}
	}
	return 0
}

// changeUpstreams replaces the list of upstreams by what change makes of a copy.
func (b *Balancer) changeUpstreams(change func([]*upstream) []*upstream) {
	t := b.site.tiers[0]
	b.changing.Lock()
	defer b.changing.Unlock()
	changed := change(slices.Clone(t.all()))
	t.upstreams.Store(&changed)
	b.site.touch()
}

// removeAll ends the checks of the upstreams that Add has added.
func (b *Balancer) removeAll() {
	b.changeUpstreams(func(all []*upstream) []*upstream {
		for _, u := range all {
			u.removed.Store(true)
			u.stop()
		}
		return nil
	})
}
