// Package lend owns the wire by which a client of builds lends an engine on its
// own machine files that it has open: the engine reads them itself, and their
// bytes do not go through the client and a connection.
//
// The engine asks for it, when it wants a large file, by a call of the client's
// session: Service and Method, with a ticket as a StringValue. The client then
// opens POST Path of the engine's API with the ticket in Header and Protocol as
// the upgrade, and sends a byte with any descriptor (unix(7), SCM_RIGHTS), by which
// the engine knows that descriptors get through. After that the engine asks and
// the client answers:
//
//	asks     length of what follows (4 bytes, big-endian), name of the directory, 0, name in it
//	answers  1 byte with the open file, or without one if it does not lend it
//
// What is not lent comes as if there were no lending.
package lend

// How both sides find each other; see the package comment.
const (
	Service  = "wherry.build.v1.Files"
	Method   = "Lend"
	Path     = "/wherry/build/files"
	Protocol = "wherry-files"
	Header   = "X-Wherry-Ticket"
)

// Longest is how many bytes a question may have behind its length: two paths of
// Linux.
const Longest = 2 * 4096
