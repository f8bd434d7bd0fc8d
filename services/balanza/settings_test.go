package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kelseyhightower/envconfig"

	"balanza/services/limits"
)

// TestEnvExample checks that .env.example lists every setting, and every limit with the number that holds without it.
func TestEnvExample(t *testing.T) {
	example, err := os.ReadFile("../../.env.example")
	if err != nil {
		t.Fatal(err)
	}
	operations, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var keys strings.Builder
	if err := envconfig.Usagef(prefix, new(settings), &keys, "{{range .}}{{usage_key .}}\n{{end}}"); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	for key := range strings.Lines(keys.String()) {
		key = strings.TrimSpace(key)
		line := regexp.MustCompile(`(?m)^#(?:BALANZA_)?` + strings.TrimPrefix(key, "BALANZA_") + `=(\S*)`).FindSubmatch(example)
		if line == nil {
			t.Errorf(".env.example does not list %s", key)
			continue
		}
		if strings.HasPrefix(key, "BALANZA_LIMIT_") {
			t.Setenv(key, string(line[1]))
			if !strings.Contains(string(operations), "`"+key+"`") {
				t.Errorf("docs/operations.md does not list %s", key)
			}
		}
	}
	s, err := loadSettings()
	if err != nil {
		t.Fatal(err)
	}
	if s.Limits != limits.Default() {
		t.Errorf(".env.example says %+v, and the defaults are %+v", s.Limits, limits.Default())
	}
}

// TestLimitsAreChecked checks that a limit that makes no sense is an error which names its variable.
func TestLimitsAreChecked(t *testing.T) {
	t.Chdir(t.TempDir())
	for variable, value := range map[string]string{
		"BALANZA_LIMIT_BODY": "0", "BALANZA_LIMIT_HEADER": "12", "BALANZA_LIMIT_URL": "9000", "BALANZA_LIMIT_DRAWS": "-1",
		"BALANZA_LIMIT_CLIENT_TIMEOUT": "10ms", "BALANZA_LIMIT_MESSAGES": "many", "BALANZA_LIMIT_FRAMES": "",
	} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv(variable, value)
			if _, err := loadSettings(); err == nil || !strings.Contains(err.Error(), variable) {
				t.Errorf("%s=%s: error %v", variable, value, err)
			}
		})
	}
}

// TestCookieName checks that a session cookie can have the name of each Compose project, and none that breaks the header or
// is another site's cookie.
func TestCookieName(t *testing.T) {
	t.Chdir(t.TempDir())
	if s, err := loadSettings(); err != nil || s.Cookie != "balanza" {
		t.Errorf("by default: %q, %v", s.Cookie, err)
	}
	for name, valid := range map[string]bool{
		"balanza": true, "001": true, "balanza-2_b": true, "Shop": true, strings.Repeat("a", 255): true,
		"": false, "a b": false, "a=b": false, "a;b": false, "shop.device": false, "__Host-balanza": false, "-a": false, "ñ": false, "a\n": false,
	} {
		t.Setenv("BALANZA_COOKIE", name)
		s, err := loadSettings()
		if (err == nil) != valid || valid && string(s.Cookie) != name || !valid && !strings.HasPrefix(err.Error(), "BALANZA_COOKIE: ") {
			t.Errorf("%q: cookie %q, error %v", name, s.Cookie, err)
		}
	}
}

// TestProgramEnv checks that a program has the user's variables, and none that is meant for Balanza.
func TestProgramEnv(t *testing.T) {
	for _, name := range append([]string{
		"BALANZA_BACKGROUND", "BALANZA_WORKER", "BALANZA_LOG_FORMAT", "BALANZA_EDGE_TOKEN", "BALANZA_SERVICE", "BALANZA_HOME",
		"MONGODB_URI", "MONGODB_PASSWORD_FILE", "WATCH_POLL",
	}, serviceVariables...) {
		t.Setenv(name, "x")
	}
	user := []string{"MINE=kept", "PORT=1", "BALANZAS=2", "NOT_BALANZA_HOME=3", "MONGODB_URIS=4", "MONGODB_DATABASE=5", "EMPTY="}
	for _, variable := range user {
		name, value, _ := strings.Cut(variable, "=")
		t.Setenv(name, value)
	}
	env := programEnv()
	for _, variable := range env {
		if name, _, _ := strings.Cut(variable, "="); isSetting(name) || slices.Contains(serviceVariables, name) {
			t.Errorf("the program has %s", variable)
		}
	}
	for _, variable := range user {
		if !slices.Contains(env, variable) {
			t.Errorf("the program lacks %s", variable)
		}
	}
}
