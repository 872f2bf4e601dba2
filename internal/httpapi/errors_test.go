package httpapi

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
)

func TestStatus(t *testing.T) {
	tests := []struct {
		err   error
		want  int
		known bool
	}{
		{errdefs.ErrNotFound.WithMessage("No such container: a"), 404, true},
		{errdefs.ErrInvalidArgument, 400, true},
		{errdefs.ErrOutOfRange, 400, true},
		{errdefs.ErrFailedPrecondition, 400, true},
		{errdefs.ErrConflict, 409, true},
		{fmt.Errorf("start a: %w", errdefs.ErrAlreadyExists), 409, true},
		{errdefs.ErrUnauthenticated, 401, true},
		{errdefs.ErrPermissionDenied, 403, true},
		{errdefs.ErrNotModified, 304, true},
		{errdefs.ErrResourceExhausted, 429, true},
		{errdefs.ErrNotImplemented, 501, true},
		{errors.Join(errors.New("x"), errdefs.ErrUnavailable), 503, true},
		{errdefs.ErrInternal, 500, true},
		{errdefs.ErrDataLoss, 500, true},
		{context.Canceled, 500, true},
		{errors.New("x"), 500, false},
	}
	for _, tt := range tests {
		if got, known := status(tt.err); got != tt.want || known != tt.known {
			t.Errorf("status(%v) = %d, %v; want %d, %v", tt.err, got, known, tt.want, tt.known)
		}
	}
}
