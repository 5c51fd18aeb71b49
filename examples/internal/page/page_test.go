package page

import (
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPage: the page loads nothing from elsewhere, and its policy lets only its own
// script and style run.
func TestPage(t *testing.T) {
	rec := httptest.NewRecorder()
	Serve(rec, httptest.NewRequest("GET", "/", nil))
	csp := rec.Header().Get("Content-Security-Policy")
	require.Contains(t, csp, "default-src 'none'")
	require.NotContains(t, csp, "unsafe")
	require.Equal(t, 2, strings.Count(csp, "'sha256-"))
	body := rec.Body.String()
	require.Equal(t, 1, strings.Count(body, "<script"))
	require.Equal(t, 1, strings.Count(body, "<style"))
	for _, unwanted := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=\"", " src=", "@import"} {
		require.NotContains(t, body, unwanted)
	}
	require.False(t, regexp.MustCompile(`<[^>]*\son\w+=`).MatchString(body), "an event handler in an attribute")
}
