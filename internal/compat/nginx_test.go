package compat

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

const nginxConf = `
daemon off;
worker_processes 1;
%[4]s
pid %[1]s/nginx.pid;
error_log stderr warn;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen %[2]s;
		location /chat/ {
			proxy_pass http://%[3]s;
			proxy_http_version 1.1;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection "upgrade";
			proxy_set_header Host $http_host;
			proxy_read_timeout 75s;
		}
	}
}
`

// mountNginx puts a real nginx before the hub. It inherits a socket that listens already, so that no
// port is guessed, and whoever connects early waits in the socket's backlog.
func mountNginx(t *testing.T, h http.Handler) target {
	program := "nginx"
	if _, err := exec.LookPath(program); err != nil {
		program = "/usr/sbin/nginx" // not in everybody's PATH
	}
	needs(t, program, "-v")
	backend := httptest.NewServer(mux(h))
	t.Cleanup(backend.Close)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	require.NoError(t, err)
	defer socket.Close()

	dir := t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // else the worker may not write below dir
	}
	text := fmt.Sprintf(nginxConf, dir, l.Addr(), backend.Listener.Addr(), user)
	require.NoError(t, os.WriteFile(conf, []byte(text), 0o600))

	var stderr bytes.Buffer
	cmd := exec.Command(program, "-p", dir, "-c", conf, "-e", "stderr")
	cmd.Stderr = &stderr
	cmd.ExtraFiles = []*os.File{socket} // descriptor 3
	cmd.Env = append(os.Environ(), "NGINX=3;")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM) // the master ends its worker
		cmd.Wait()
		if t.Failed() {
			t.Logf("nginx: %s", stderr.String())
		}
	})
	return target{url: "ws://" + l.Addr().String() + "/chat/lobby"}
}
