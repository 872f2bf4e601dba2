package runopts

import (
	"fmt"
	"path"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/spf13/pflag"

	"github.com/wherry-engine/wherry/api"
)

// extensions are the flags that docker has not. The engine's API carries them
// as annotations, so that every client can ask for them.
type extensions struct {
	healthOnFailure string
	secrets         opts.ListOpts
}

func (o *Options) addExtensions(f *pflag.FlagSet) {
	o.secrets = opts.NewListOpts(nil)
	f.StringVar(&o.healthOnFailure, "health-on-failure", "", `What follows when the container becomes unhealthy ("none", "kill", "restart", "stop")`)
	f.Var(&o.secrets, "secret", "Secret to show the container below /run/secrets (name[,target=,uid=,gid=,mode=])")
}

// extend puts the flags into the annotations.
func (o *Options) extend(annotations map[string]string) (map[string]string, error) {
	if annotations == nil {
		annotations = map[string]string{}
	}
	if o.healthOnFailure != "" {
		annotations[api.AnnotationHealth] = o.healthOnFailure
	}
	for _, text := range o.secrets.GetSlice() {
		target, value, err := parseSecret(text)
		if err != nil {
			return nil, err
		}
		annotations[api.AnnotationSecret+target] = value
	}
	for target, owners := range o.mounts.owners {
		annotations[api.AnnotationIDMap+target] = owners
	}
	return annotations, nil
}

// parseSecret translates --secret; the engine checks the values.
func parseSecret(text string) (target, value string, err error) {
	var rest []string
	for i, field := range strings.Split(text, ",") {
		k, v, ok := strings.Cut(field, "=")
		switch {
		case !ok && i == 0, k == "source", k == "src", k == "id":
			if !ok {
				v = k
			}
			value = "source=" + v
			if target == "" {
				target = v
			}
		case k == "target", k == "dst", k == "destination":
			target = v
		case k == "uid", k == "gid", k == "mode":
			rest = append(rest, field)
		default:
			return "", "", fmt.Errorf("invalid argument %q for \"--secret\" flag: unknown field %q", text, k)
		}
	}
	if value == "" || value == "source=" {
		return "", "", fmt.Errorf("invalid argument %q for \"--secret\" flag: source is required", text)
	}
	return path.Clean(target), strings.Join(append([]string{value}, rest...), ","), nil
}
