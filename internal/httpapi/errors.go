package httpapi

import (
	"context"
	"errors"
	"net/http"
	"syscall"

	"github.com/containerd/errdefs"
)

// statuses is the only place in the module that turns an error into an HTTP
// status. The first match wins, so the order matters.
var statuses = []struct {
	is   func(error) bool
	code int
}{
	{errdefs.IsNotFound, http.StatusNotFound},
	{errdefs.IsInvalidArgument, http.StatusBadRequest},
	{errdefs.IsOutOfRange, http.StatusBadRequest},
	{errdefs.IsFailedPrecondition, http.StatusBadRequest}, // as dockerd; not 412
	{errdefs.IsConflict, http.StatusConflict},
	{errdefs.IsAlreadyExists, http.StatusConflict},
	{errdefs.IsUnauthorized, http.StatusUnauthorized},
	{errdefs.IsPermissionDenied, http.StatusForbidden},
	{errdefs.IsNotModified, http.StatusNotModified},
	{errdefs.IsResourceExhausted, http.StatusTooManyRequests},
	{errdefs.IsNotImplemented, http.StatusNotImplemented},
	{errdefs.IsUnavailable, http.StatusServiceUnavailable},
}

// status returns the HTTP status for err. An error of no known kind is our
// bug, so it is 500 and the caller logs it with its type.
func status(err error) (code int, known bool) {
	for _, s := range statuses {
		if s.is(err) {
			return s.code, true
		}
	}
	internal := errdefs.IsInternal(err) || errdefs.IsDataLoss(err) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) // a full disk is nobody's bug
	return http.StatusInternalServerError, internal
}

func invalid(message string) error { return errdefs.ErrInvalidArgument.WithMessage(message) }

func notServed(what string) error {
	return errdefs.ErrNotImplemented.WithMessage(what + " is not served by this version of wherryd")
}
