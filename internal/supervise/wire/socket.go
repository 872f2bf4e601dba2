package wire

import "strconv"

// SocketPath names the keeper's socket below an open directory.
func SocketPath(dirfd int) string {
	return "/proc/self/fd/" + strconv.Itoa(dirfd) + "/keeper.sock"
}
