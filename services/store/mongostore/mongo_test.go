package mongostore_test

import (
	"context"
	"crypto/rand"
	"net/url"
	"os"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"balanza/services/store"
	"balanza/services/store/mongostore"
	"balanza/services/store/storetest"
)

func TestContract(t *testing.T) {
	uri := server(t)
	storetest.Run(t, func(t *testing.T) func() store.Store {
		place := newDatabase(t, uri)
		return func() store.Store { return open(t, place) }
	})
}

// server is the URI of the MongoDB to test with.
func server(t *testing.T) string {
	t.Helper()
	uri := os.Getenv("BALANZA_TEST_MONGODB_URI")
	if uri == "" {
		t.Skip("BALANZA_TEST_MONGODB_URI names no MongoDB server")
	}
	return uri
}

// newDatabase returns the URI of a database that is the test's own, and gone after it.
func newDatabase(t *testing.T, uri string) string {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	name := "test_" + strings.ToLower(rand.Text())
	u.Path = "/" + name
	t.Cleanup(func() {
		ctx := context.Background()
		client, err := mongo.Connect(ctx, options.Client().ApplyURI(uri))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Disconnect(ctx)
		if err := client.Database(name).Drop(ctx); err != nil {
			t.Error(err)
		}
	})
	return u.String()
}

func open(t *testing.T, uri string) store.Store {
	t.Helper()
	s, err := mongostore.Open(context.Background(), uri)
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

func TestOpenMalformed(t *testing.T) {
	for _, uri := range []string{"", "localhost", "mongodb://", "mongodb://localhost:port", "http://localhost"} {
		if _, err := mongostore.Open(context.Background(), uri); err == nil {
			t.Errorf("%q was opened", uri)
		}
	}
}

func TestServerIsDown(t *testing.T) {
	storetest.Outage(t, open(t, "mongodb://127.0.0.1:1/balanza"))
}
