// Package healthport serves HTTP on a port that strangers may reach, so that a probe is
// answered whatever they do: each address has a share of the connections, this machine
// has places of its own, and what is being served is not closed.
package healthport

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"sigs.k8s.io/aws-encryption-provider/internal/accept"
)

// Options configure a [Server]. All fields are required but Listen and Accept.
type Options struct {
	Address string // host:port, or :port
	Handler http.Handler
	Retry   time.Duration                                                            // between tries for a port that is taken
	Listen  func(ctx context.Context, network, address string) (net.Listener, error) // how the port is had; nil: of the system
	Accept  func(net.Listener) (net.Conn, error)                                     // for tests that make it fail; nil: by the listener
	Log     *slog.Logger
}

// A Server serves a handler on a port. It is safe for concurrent use.
type Server struct {
	opts   Options
	server *http.Server
	places allPlaces

	mu   sync.Mutex
	addr string // "" while there is no listener
}

// New returns a Server that does not listen yet: see [Server.Run].
func New(o Options) *Server {
	if o.Listen == nil {
		o.Listen = (&net.ListenConfig{}).Listen
	}
	s := &Server{opts: o, places: newPlaces(o.Log)}
	errorLog := slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn)
	errorLog.SetOutput(&seldomWriter{Writer: errorLog.Writer(), quiet: rate.NewLimiter(rate.Every(time.Minute), 3)})
	s.server = &http.Server{
		Handler: http.HandlerFunc(s.handle), ErrorLog: errorLog, ConnState: changed, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
	}
	return s
}

// handle calls the handler. Nobody reads a body here, so nobody waits for it either.
func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now())
	}
	s.opts.Handler.ServeHTTP(w, r)
}

// Run serves until ctx ends, and tries again while the port cannot be had.
func (s *Server) Run(ctx context.Context) {
	log, reported := s.opts.Log, false
	for ctx.Err() == nil {
		l, err := s.opts.Listen(ctx, "tcp", s.opts.Address)
		if err == nil {
			log.Info("serving health and metrics", "address", l.Addr().String())
			s.serve(ctx, l)
			reported = false
		}
		if err != nil && !reported && ctx.Err() == nil {
			reported = true
			log.Error("health and metrics cannot be served yet: trying again in the background", "address", s.opts.Address, "error", err.Error())
		}
		select {
		case <-ctx.Done():
		case <-time.After(s.opts.Retry):
		}
	}
}

// serve serves a listener until ctx ends or the listener is broken.
func (s *Server) serve(ctx context.Context, l net.Listener) {
	s.setAddress(l.Addr().String())
	listener := &gate{accept.Patiently(l, s.opts.Accept, ctx.Done(), s.opts.Log.With("listener", "health port")), s.places}
	var broken error // set before the channel is closed
	stopped := make(chan struct{})
	go func() { // ends with the server, or as the listener breaks
		defer close(stopped)
		broken = s.server.Serve(listener)
	}()
	select {
	case <-ctx.Done():
	case <-stopped:
	}
	if ctx.Err() == nil {
		s.setAddress("")
		s.opts.Log.Error("the health port is broken: it is opened again", "error", broken.Error())
		return
	}
	_ = s.server.Close()
	<-stopped
}

func (s *Server) setAddress(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addr = addr
}

// Address returns where it listens, "" while the port is not to be had.
func (s *Server) Address() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// A seldomWriter drops what comes too often: strangers can make errors.
type seldomWriter struct {
	io.Writer

	quiet *rate.Limiter
}

// Write implements [io.Writer].
func (w *seldomWriter) Write(p []byte) (int, error) {
	if !w.quiet.Allow() {
		return len(p), nil
	}
	return w.Writer.Write(p)
}
