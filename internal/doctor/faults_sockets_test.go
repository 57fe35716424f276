package doctor_test

import (
	"net"
	"os"
	"path/filepath"
)

func socketFaults() []fault {
	return []fault{
		{"plain file at the path", "KMS0706", "a file", func(n *node) { n.write("s", "") }},
		{"directory at the path", "KMS0706", "a directory", func(n *node) { n.must(nil, os.Mkdir(n.socket, 0o700)) }},
		{"file where a directory should be", "KMS0707", "", func(n *node) { n.socket = filepath.Join(n.write("file", ""), "s") }},
		{"dead socket", "KMS0708", "", func(n *node) {
			l, err := (&net.ListenConfig{}).Listen(n.t.Context(), "unix", n.socket)
			n.must(nil, err)
			l.(*net.UnixListener).SetUnlinkOnClose(false) //nolint:forcetypeassert // of a unix socket
			n.must(nil, l.Close())
		}},
		{"directory that everybody writes to", "KMS0709", "", func(n *node) { n.must(nil, os.Chmod(n.dir, 0o777)) }},
		{"two providers on one socket, by a link", "KMS0735", "are not two sockets", func(n *node) {
			n.must(nil, os.Mkdir(filepath.Join(n.dir, "run"), 0o700))
			n.must(nil, os.Symlink("run", filepath.Join(n.dir, "var-run")))
			n.providersFile("- name: a\n  listen: " + n.dir + "/run/s\n" + keysOf(n.key) + "- name: b\n  listen: " + n.dir + "/var-run/s\n" + keysOf(n.key))
			n.socket = filepath.Join(n.dir, "run", "s")
			n.encryptionConfig(entryV2 + toClear)
		}},
		{"other mode than configured", "KMS0710", "0600, want 0660", func(n *node) {
			n.run()
			n.flags = []string{"--socket-mode=0660"}
		}},
	}
}
