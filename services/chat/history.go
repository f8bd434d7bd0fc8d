package chat

import (
	"context"
	"fmt"

	"balanza/services/store"
)

// maxHistoryReads limits the queries of one History. Each goes over readBatch numbers.
const maxHistoryReads = 8

// History returns at most limit messages with numbers below before, the last ones of these, in order, and the number to call
// it with for earlier ones, 0 when there are none. Since its work is bounded it may return fewer, even none, where the log
// has other entries or lacks numbers, though earlier messages follow. It fails with store.ErrUnavailable.
func (h *Hub) History(ctx context.Context, before int64, limit int) (messages []store.Entry, next int64, err error) {
	if err := h.waitReady(ctx); err != nil {
		return nil, 0, err
	}
	h.mu.Lock()
	end, floor := min(before-1, h.last), h.floor
	held := h.messages
	h.mu.Unlock()
	if end > floor {
		messages = append(messages, through(held, end)...)
		end = floor
	}
	first := int64(0) // number of the log's first entry, once a range had no messages
	for reads := 0; end > first && len(messages) < limit && reads < maxHistoryReads; reads++ {
		from := max(0, end-readBatch)
		older, err := h.readHistory(ctx, from, end)
		if err == nil && len(older) == 0 && first == 0 {
			first, err = h.firstEntry(ctx)
		}
		if err != nil {
			return nil, 0, err
		}
		messages = append(older, messages...)
		end = from
	}
	if len(messages) > limit {
		messages = messages[len(messages)-limit:]
		return messages, messages[0].N, nil
	}
	if end > first {
		next = end + 1
	}
	return messages, next, nil
}

// firstEntry returns the number of the log's first entry. Before it others were deleted.
func (h *Hub) firstEntry(ctx context.Context) (int64, error) {
	entries, err := h.log.After(ctx, 0, 1)
	if err != nil || len(entries) == 0 {
		return 0, err
	}
	return entries[0].N, nil
}

// readHistory is read under the limit of reads at a time.
func (h *Hub) readHistory(ctx context.Context, after, end int64) ([]store.Entry, error) {
	done, err := h.acquireRead(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	messages, _, err := h.read(ctx, after, end)
	return messages, err
}

// acquireRead waits until the caller may read old entries or encode many messages. The caller calls done afterwards.
func (h *Hub) acquireRead(ctx context.Context) (done func(), err error) {
	select {
	case h.reads <- struct{}{}:
		return func() { <-h.reads }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: many old messages are being read", store.ErrUnavailable)
	}
}
