// Package axe has the npm package axe-core, which finds what makes a page hard to use for people with disabilities.
package axe

import (
	"embed"
	"os"
	"path/filepath"
	"testing"

	"balanza/e2e/testenv"
)

//go:embed package.json package-lock.json
var files embed.FS

// Run is a script that has a page checked in which Script has been run. Its value is a promise of the violations, a text for
// each element. It waits for transitions: with another colour scheme colours change for a moment.
const Run = `Promise.allSettled(document.getAnimations().filter(a => a instanceof CSSTransition).map(a => a.finished))
	.then(() => axe.run(document, { resultTypes: ['violations'] }))
	.then(({ violations }) => violations.flatMap(({ id, help, nodes }) => nodes.map(({ target, html, failureSummary }) =>
		id + ': ' + help + ': ' + target.join(' ') + ': ' + html.slice(0, 200) + ': ' + failureSummary)))`

// Script returns axe-core in the version of package-lock.json. Without npm or a registry the test is skipped, or fails, as
// testenv.SkipOrFail does.
func Script(t testing.TB) string {
	t.Helper()
	script, err := os.ReadFile(filepath.Join(testenv.InstallNPM(t, files), "node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	return string(script)
}
