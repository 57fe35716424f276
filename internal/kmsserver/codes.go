package kmsserver

import (
	"google.golang.org/grpc/codes"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// codeOf is the gRPC code of an error: its class's, except that a deadline has a
// code of its own.
func codeOf(e *cause.Error) codes.Code {
	if e.Code == cause.TooLittleTime {
		return codes.DeadlineExceeded
	}
	return codeOfClass(e.Class())
}

// codeOfClass is the code that a caller over the socket sees for a class.
func codeOfClass(c cause.Class) codes.Code {
	switch c {
	case cause.Refused:
		return codes.FailedPrecondition
	case cause.Outage, cause.Node:
		return codes.Unavailable
	case cause.Credentials:
		return codes.Unauthenticated
	case cause.BadData:
		return codes.InvalidArgument
	case cause.Cancelled:
		return codes.Canceled
	case cause.Overload:
		return codes.ResourceExhausted
	case cause.Bug:
		return codes.Internal
	}
	return codes.Internal
}
