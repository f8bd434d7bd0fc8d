package sqlitestore_test

import (
	"path/filepath"
	"testing"

	"balanza/services/store"
	"balanza/services/store/sqlitestore"
	"balanza/services/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, sqlitestore.Open, func(t *testing.T) string { return filepath.Join(t.TempDir(), "balanza.db") })
}

func open(t *testing.T, path string) store.Store {
	t.Helper()
	return storetest.Open(t, sqlitestore.Open, path)
}
