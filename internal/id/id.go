// Package id makes and checks the identifiers that travel through the API:
// container, exec and volume ids (64 hexadecimal characters from the kernel's
// random source) and names. Every identifier a client sends passes through the
// validators here before it becomes part of a path or a kernel object's name.
package id

import (
	"crypto/rand"
	"encoding/hex"
)

// Len is the length of a full id in characters.
const Len = 64

// ShortLen is the length of the truncated form that people see.
const ShortLen = 12

// New returns a fresh random id. Like docker's, its first twelve characters
// are never all digits, so that the short form is not mistaken for a number
// (a hostname made only of digits breaks some resolvers).
func New() string {
	var b [Len / 2]byte
	for {
		rand.Read(b[:]) // never fails: crypto/rand aborts the program instead
		s := hex.EncodeToString(b[:])
		for i := range ShortLen {
			if s[i] >= 'a' {
				return s
			}
		}
	}
}

// Short returns the truncated form of an id, without a leading "sha256:".
func Short(s string) string {
	const prefix = "sha256:"
	if len(s) > len(prefix) && s[:len(prefix)] == prefix {
		s = s[len(prefix):]
	}
	if len(s) > ShortLen {
		s = s[:ShortLen]
	}
	return s
}

// Valid reports whether s is a full id.
func Valid(s string) bool { return len(s) == Len && hexOnly(s) }

// ValidPrefix reports whether s may be the beginning of an id.
func ValidPrefix(s string) bool { return s != "" && len(s) <= Len && hexOnly(s) }

// ValidName reports whether s may name a container, network or volume:
// [a-zA-Z0-9][a-zA-Z0-9_.-]+, at most 255 characters, as dockerd has it.
func ValidName(s string) bool {
	if len(s) < 2 || len(s) > 255 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && (c == '_' || c == '.' || c == '-'):
		default:
			return false
		}
	}
	return true
}

func hexOnly(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
