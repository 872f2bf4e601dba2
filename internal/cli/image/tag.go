package image

import (
	"fmt"

	"github.com/distribution/reference"
	"github.com/moby/moby/client"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewTag is `tag`.
func NewTag(sh *shell.Shell) *cobra.Command {
	return &cobra.Command{
		Use:         "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
		Short:       "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
		Args:        shell.ExactArgs(2),
		Annotations: shell.Aliases("image tag", "tag"),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, ref := range args {
				if _, err := reference.ParseNormalizedNamed(ref); err != nil && !digest.DigestRegexpAnchored.MatchString(ref) {
					return fmt.Errorf("Error parsing reference: %q is not a valid repository/tag: %w", ref, err)
				}
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			_, err = api.ImageTag(cmd.Context(), client.ImageTagOptions{Source: args[0], Target: args[1]})
			return err
		},
		ValidArgsFunction: shell.Complete(sh, 2, Names),
	}
}
