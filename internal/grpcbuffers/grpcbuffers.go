// Package grpcbuffers owns the sizes of gRPC's buffers. BuildKit's clients send
// files in messages of 32 KB and some bytes; gRPC's own next size is 1 MB, which
// it clears for each of them: a fifth of the processor's time of a transfer.
//
// To import it is all. It must not be set while gRPC is in use.
package grpcbuffers

import (
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"
)

func init() {
	// As gRPC's, powers of 2, and some between the last two.
	pool, err := mem.NewBinaryTieredBufferPool(8, 12, 14, 15, 16, 18, 20)
	if err != nil {
		panic(err) // sizes that cannot be
	}
	experimental.SetDefaultBufferPool(pool)
}
