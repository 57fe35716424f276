package daemon

import (
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// settings are what the settings of sockets are called where they were given.
type settings struct {
	unixsocket.Words

	allowUIDs string
}

func settingsOf(cfg *config.Config) settings {
	if cfg.File == "" {
		return settings{unixsocket.Words{Listen: "--listen", Group: "--socket-group", Owner: "key"}, "--allow-uid"}
	}
	return settings{unixsocket.Words{Listen: "listen", Group: "socket.group", Owner: "provider"}, "socket.allowUIDs"}
}
