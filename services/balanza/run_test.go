package main

import (
	"strings"
	"testing"

	"balanza/services/workers"
)

func TestServersAreNamedAsTheirPrograms(t *testing.T) {
	for program, name := range map[string]string{
		"node":                "node",
		"/usr/bin/python3.12": "python3.12",
		"./my program":        "my-program",
		"./.hidden$(x)":       "hidden--x-",
		"./año":               "a-o",
	} {
		got := programName(program)
		if got != name || workers.CheckName(got) != nil {
			t.Errorf("%s is named %q, not %q", program, got, name)
		}
	}
}

// A program without a port is not said to listen.
func TestProgramsWithoutAPortAreNotSaidToListen(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	if _, errs, _ := h.run("run", "--", "true"); strings.Contains(errs, "listening") || !strings.Contains(errs, "exited with status 0") {
		t.Error(errs)
	}
}

// A server that is deleted while it starts prints nothing.
func TestReasonOfASilentEndIsItsStatus(t *testing.T) {
	if got := reasonOf(nil, nil); got != "exited with status 0" {
		t.Errorf("%q", got)
	}
}
