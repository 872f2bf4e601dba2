//go:build !unix

package early
