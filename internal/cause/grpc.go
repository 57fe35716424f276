package cause

import "google.golang.org/grpc/codes"

// GRPCCode is the code that a caller over the socket sees for the class.
func (c Class) GRPCCode() codes.Code {
	switch c {
	case Refused:
		return codes.FailedPrecondition
	case Outage, Node:
		return codes.Unavailable
	case Credentials:
		return codes.Unauthenticated
	case BadData:
		return codes.InvalidArgument
	case Cancelled:
		return codes.Canceled
	case Overload:
		return codes.ResourceExhausted
	case Bug:
		return codes.Internal
	}
	return codes.Internal
}
