package compat

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// startExample builds and starts examples/server. stop ends it as a terminal does, and returns how
// it ended; the end of the test kills what is left.
func startExample(t *testing.T) (addr string, stop func() error) {
	program := filepath.Join(t.TempDir(), "server")
	build := exec.Command("go", "build", "-o", program, "./examples/server")
	build.Dir = "../.."
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)

	cmd := exec.Command(program, "-addr", "127.0.0.1:0")
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	listening := regexp.MustCompile(`msg=listening addr=(\S+)`)
	found := make(chan string, 1)
	logged := make(chan []byte, 1)
	go func() {
		var all []byte
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			all = append(append(all, lines.Bytes()...), '\n')
			if m := listening.FindSubmatch(lines.Bytes()); m != nil {
				found <- string(m[1])
			}
		}
		close(found)
		logged <- all
	}()
	ended := false
	stop = func() error {
		ended = true
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		log := <-logged // all of it, before Wait closes the pipe
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%w: %s", err, log)
		}
		return nil
	}
	t.Cleanup(func() {
		if !ended {
			cmd.Process.Kill()
			t.Logf("server: %s", <-logged)
			cmd.Wait()
		}
	})
	addr, ok := <-found
	require.True(t, ok, "the server does not say where it listens")
	return addr, stop
}

// startBrowser starts Chromium, which ends with the test.
func startBrowser(t *testing.T) context.Context {
	needs(t, "chromium", "--version")
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx,
		chromedp.ExecPath("chromium"),
		chromedp.Headless,
		chromedp.NoSandbox, // Chromium does not run as root otherwise
		chromedp.DisableGPU,
		chromedp.NoFirstRun,
		chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true), // a container's is small
		chromedp.UserDataDir(t.TempDir()),
	)
	t.Cleanup(cancel)
	browser, cancel := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		if err := chromedp.Cancel(browser); err != nil {
			t.Logf("closing the browser: %v", err)
		}
		cancel()
	})
	run(t, browser, chromedp.Navigate("about:blank"))
	return browser
}

func run[T any](t *testing.T, tab context.Context, do chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(tab, do)
	require.NoError(t, err)
	return v
}

// until waits for the page to change so that the JavaScript expression is true.
func until(t *testing.T, tab context.Context, expression string, args ...any) {
	t.Helper()
	expression = fmt.Sprintf(expression, args...)
	_, err := chromedp.Run(tab, chromedp.Poll[bool](expression, chromedp.WithPollingMutation(), chromedp.WithPollingTimeout(patience)))
	if err != nil {
		text, _ := chromedp.Run(tab, chromedp.Evaluate[string]("document.body.innerText"))
		require.NoError(t, err, "while waiting for %s; the page says:\n%s", expression, text)
	}
}

const (
	inLog     = `document.querySelector("#log").textContent.includes(%q)`
	inMembers = `document.querySelector("#members").textContent.includes(%q)`
	notIn     = "!"
)

// enter opens a tab and goes through the page's door, as a person does.
func enter(t *testing.T, browser context.Context, addr, name string) (tab context.Context, closeTab func()) {
	tab, cancel := chromedp.NewContext(browser)
	run(t, tab, chromedp.Navigate("http://"+addr+"/"))
	run(t, tab, chromedp.Clear("#name")) // the last one's, in the same browser
	run(t, tab, chromedp.SendKeys("#name", name+"\r"))
	until(t, tab, `document.querySelector("#state").classList.contains("on")`)
	until(t, tab, inMembers, name)
	return tab, cancel
}

func say(t *testing.T, tab context.Context, text string) {
	t.Helper()
	run(t, tab, chromedp.SendKeys("#text", text+"\r"))
}

// Two tabs of a real browser talk in one room of examples/server and see each other come and go.
func TestTwoTabs(t *testing.T) {
	addr, stop := startExample(t)
	browser := startBrowser(t)

	alice, _ := enter(t, browser, addr, "alice")
	bob, closeBob := enter(t, browser, addr, "bob")
	until(t, alice, inLog, "bob joined")
	until(t, alice, inMembers, "bob")
	until(t, bob, inMembers, "alice")

	say(t, alice, "hello <b>bob</b> & 世界")
	for _, tab := range []context.Context{alice, bob} {
		until(t, tab, inLog, "hello <b>bob</b> & 世界")
	}
	say(t, bob, "hi alice")
	until(t, alice, inLog, "hi alice")
	until(t, bob, `document.querySelector("#waiting").childElementCount === 0`) // acked

	closeBob()
	until(t, alice, inLog, "bob left")
	until(t, alice, notIn+inMembers, "bob")

	carol, _ := enter(t, browser, addr, "carol")
	until(t, alice, inLog, "carol joined")
	run(t, carol, chromedp.Click("#leave"))
	until(t, alice, inLog, "carol left")

	require.NoError(t, stop(), "the server drains and ends")
	until(t, alice, `!document.querySelector("#state").classList.contains("on")`)
}
