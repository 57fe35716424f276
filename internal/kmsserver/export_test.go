package kmsserver

// Limits of streams whose message has not come.
const (
	MaxUnderWay    = maxUnderWay
	MaxStreams     = maxStreams
	MaxSilent      = maxSilent
	MaxSilentOfAll = maxSilentOfAll
	SilentTime     = silentTime
	MaxHead        = maxHead
)

// Silent counts the streams whose message has not come.
func (s *Server) Silent() int { return s.silent.held() }
