package registry

import (
	"fmt"
	"os"
	"strings"
)

// bcryptLen is the length of a bcrypt hash as text.
const bcryptLen = 60

// checkUsers reads a file of users, so that a line with which nobody could log
// in is told of at the start.
func checkUsers(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	users := 0
	for i, line := range strings.Split(string(b), "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		user, hash, ok := strings.Cut(line, ":")
		if !ok || user == "" {
			return fmt.Errorf("%s: line %d is not USER:PASSWORD", file, i+1)
		}
		if len(hash) != bcryptLen || !strings.HasPrefix(hash, "$2") {
			return fmt.Errorf("%s: line %d: the password of %s is not a bcrypt hash: make it with htpasswd -B", file, i+1, user)
		}
		users++
	}
	if users == 0 {
		return fmt.Errorf("%s: no users", file)
	}
	return nil
}
