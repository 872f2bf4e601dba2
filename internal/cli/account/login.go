// Package account owns logging in to registries and out again.
package account

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	"github.com/moby/term"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

type loginFlags struct {
	user, password string
	stdin          bool
}

// NewLogin is `login`.
func NewLogin(sh *shell.Shell) *cobra.Command {
	var l loginFlags
	cmd := &cobra.Command{
		Use:   "login [OPTIONS] [SERVER]",
		Short: "Authenticate to a registry, Docker Hub if none is named",
		Args:  shell.MaxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			server := ""
			if len(args) == 1 {
				server = args[0]
			}
			if err := l.check(cmd, sh); err != nil {
				return err
			}
			return l.run(cmd.Context(), sh, shell.RegistryKey(server))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.StringVarP(&l.user, "username", "u", "", "Username")
	f.StringVarP(&l.password, "password", "p", "", "Password or personal access token")
	f.BoolVar(&l.stdin, "password-stdin", false, "Take the password or token from stdin")
	return cmd
}

// check validates the flags and takes the password from stdin if it is there.
func (l *loginFlags) check(cmd *cobra.Command, sh *shell.Shell) error {
	given := cmd.Flags().Changed("password")
	switch {
	case cmd.Flags().Changed("username") && l.user == "" && !l.stdin:
		return errors.New("username is empty")
	case given && l.stdin:
		return errors.New("conflicting options: cannot specify both --password and --password-stdin")
	case given && l.password == "":
		return errors.New("password is empty")
	case given:
		fmt.Fprintln(sh.Err, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
	case l.stdin && l.user == "":
		return errors.New("the --password-stdin option requires --username to be set")
	case l.stdin:
		b, err := io.ReadAll(io.LimitReader(sh.In, 1<<20))
		if err != nil {
			return err
		}
		if l.password = strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r"); l.password == "" {
			return errors.New("password is empty")
		}
	}
	return nil
}

func (l *loginFlags) run(ctx context.Context, sh *shell.Shell, key string) error {
	api, err := sh.API()
	if err != nil {
		return err
	}
	var stored registry.AuthConfig
	if l.user == "" {
		if stored, err = sh.Config().Credentials(ctx, key); err != nil {
			sh.Debugf("stored credentials of %s: %v", key, err)
		}
	}
	if l.user == "" && l.password == "" && stored.Username != "" && (stored.Password != "" || stored.IdentityToken != "") {
		fmt.Fprintf(sh.Err, "Authenticating with existing credentials... [Username: %s]\n\n Info -> To login with a different account, run '%[2]s logout' followed by '%[2]s login'\n\n\n", stored.Username, sh.Name)
		if err := l.login(ctx, sh, api, key, stored, true); err == nil {
			return nil
		}
		fmt.Fprintln(sh.Err, "Login did not succeed, error: the stored credentials were refused")
	}
	if err := l.ask(ctx, sh, key, stored.Username); err != nil {
		return err
	}
	return l.login(ctx, sh, api, key, registry.AuthConfig{Username: l.user, Password: l.password, ServerAddress: key}, false)
}

// login asks the registry and keeps what it took; known: it was kept before, and the user was told how.
func (l *loginFlags) login(ctx context.Context, sh *shell.Shell, api client.APIClient, key string, a registry.AuthConfig, known bool) error {
	res, err := api.RegistryLogin(ctx, client.RegistryLoginOptions{Username: a.Username, Password: a.Password, ServerAddress: key, IdentityToken: a.IdentityToken})
	if err != nil {
		return err
	}
	if res.Auth.IdentityToken != "" {
		a.Password, a.IdentityToken = "", res.Auth.IdentityToken
	}
	plain, err := sh.Config().Keep(ctx, key, a)
	if err != nil {
		return fmt.Errorf("Error saving credentials: %w", err)
	}
	if plain && !known {
		fmt.Fprintf(sh.Err, "\nWARNING! Your credentials are stored unencrypted in '%s'.\nConfigure a credential helper to remove this warning. See\nhttps://docs.docker.com/go/credential-store/\n\n", sh.Config().File())
	}
	sh.Println(res.Auth.Status)
	return nil
}

// ask prompts for what the flags leave open; the password is not shown.
func (l *loginFlags) ask(ctx context.Context, sh *shell.Shell, key, last string) error {
	if l.user != "" && l.password != "" {
		return nil
	}
	if !sh.In.IsTerminal() {
		return errors.New("Error: Cannot perform an interactive login from a non TTY device")
	}
	in := bufio.NewReader(sh.In)
	if l.user == "" {
		prompt := "Username: "
		if last != "" {
			prompt = "Username (" + last + "): "
		}
		text, err := line(ctx, sh, in, prompt)
		if err != nil {
			return err
		}
		if l.user = text; l.user == "" {
			l.user = last
		}
		if l.user == "" {
			return errors.New("Error: Non-null Username Required")
		}
	}
	if l.password == "" {
		fd := sh.In.File().Fd()
		state, err := term.SaveState(fd)
		if err != nil {
			return err
		}
		if err := term.DisableEcho(fd, state); err != nil {
			return err
		}
		text, err := line(ctx, sh, in, "Password: ")
		if rerr := term.RestoreTerminal(fd, state); err == nil {
			err = rerr
		}
		sh.Println()
		if err != nil {
			return err
		}
		if l.password = text; l.password == "" {
			return errors.New("Error: Password Required")
		}
	}
	return nil
}

// line reads one line; the user's Ctrl-C ends it.
func line(ctx context.Context, sh *shell.Shell, in *bufio.Reader, prompt string) (string, error) {
	fmt.Fprint(sh.Out, prompt)
	type answer struct {
		text string
		err  error
	}
	c := make(chan answer, 1)
	go func() {
		text, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) && text != "" {
			err = nil
		}
		c <- answer{strings.TrimRight(text, "\r\n"), err}
	}()
	select {
	case a := <-c:
		return a.text, a.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}
