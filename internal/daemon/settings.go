package daemon

import "sigs.k8s.io/aws-encryption-provider/internal/config"

// settings are what the settings of sockets are called where they were given.
type settings struct {
	listen, group, allowUIDs string
	owner                    string // of a socket
}

func settingsOf(cfg *config.Config) settings {
	if cfg.File == "" {
		return settings{listen: "--listen", group: "--socket-group", allowUIDs: "--allow-uid", owner: "key"}
	}
	return settings{listen: "listen", group: "socket.group", allowUIDs: "socket.allowUIDs", owner: "provider"}
}
