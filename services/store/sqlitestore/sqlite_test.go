package sqlitestore_test

import (
	"context"
	"path/filepath"
	"testing"

	"balanza/services/store"
	"balanza/services/store/sqlitestore"
	"balanza/services/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func() store.Store {
		path := filepath.Join(t.TempDir(), "balanza.db")
		return func() store.Store { return open(t, path) }
	})
}

func open(t *testing.T, path string) store.Store {
	t.Helper()
	s, err := sqlitestore.Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
