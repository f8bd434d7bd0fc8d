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
	uri := testEnv(t, "BALANZA_TEST_MONGODB_URI")
	storetest.Run(t, mongostore.Open, func(t *testing.T) string { return newDatabase(t, uri) })
}

// testEnv returns the value of an environment variable. It skips the test when the variable is not set.
func testEnv(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Skip(name + " is not set")
	}
	return value
}

// newDatabase returns the URI of a new database on the server of uri, which is dropped when the test ends.
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
	return storetest.Open(t, mongostore.Open, uri)
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
