package brokertest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A module of somebody else's tests its broker with what is public: what it is built of has
// nothing internal to the hub, and every group runs.
func TestOutsider(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a module")
	}
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	dir := t.TempDir()
	copyFile := func(from, to string) {
		data, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, to), data, 0o600))
	}
	for _, name := range []string{"outsider.go", "outsider_test.go"} {
		copyFile(filepath.Join("testdata", "outsider", name), name)
	}
	copyFile(filepath.Join(root, "go.sum"), "go.sum") // so that nothing has to be looked up
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	require.NoError(t, err)
	outside := strings.Replace(string(mod), "module github.com/chathub-go/hub\n", "module example.org/outsider\n", 1) +
		"\nrequire github.com/chathub-go/hub v0.0.0\nreplace github.com/chathub-go/hub => " + strconv.Quote(root) + "\n"
	require.NotContains(t, outside, "module github.com/chathub-go/hub")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte(outside), 0o600))

	run := func(args ...string) string {
		cmd := exec.Command("go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "go %v:\n%s", args, out)
		return string(out)
	}
	deps := run("list", "-deps", "-test", ".")
	require.Contains(t, deps, "github.com/chathub-go/hub/broker/brokertest\n")
	require.NotContains(t, deps, "github.com/chathub-go/hub/internal/", "packages that an outsider's test is built of")

	out := run("test", "-count=1", "-v", ".")
	for _, c := range []string{"Order/Positions", "Once/Race", "Resume/Edge", "Signal/Reached", "Pressure/Bound", "Presence/LeaseClose", "Life/CloseWhileBusy"} {
		require.Contains(t, out, "--- PASS: TestCounted/"+c)
	}
}
