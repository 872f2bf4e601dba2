package lifecycle

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/logs"
)

// logTarget translates --log-driver and --log-opt. dir is the container's.
func (p *parts) logTarget(r *container.Record, dir string) (logs.Target, error) {
	var t logs.Target
	switch r.HostConfig.LogConfig.Type {
	case "none":
		return t, nil
	case logs.DriverJSONFile:
		t.Driver, t.Path, t.MaxFile = logs.DriverJSONFile, filepath.Join(dir, r.ID+"-json.log"), 1
	default:
		return t, invalid("logger: no log driver named '%s' is registered", r.HostConfig.LogConfig.Type)
	}
	t.Attrs = map[string]string{}
	for k, v := range r.HostConfig.LogConfig.Config {
		var err error
		switch k {
		case "max-size":
			if t.MaxSize, err = units.FromHumanSize(v); err != nil || t.MaxSize <= 0 {
				return t, invalid("invalid value for max-size: %s", v)
			}
		case "max-file":
			if t.MaxFile, err = strconv.Atoi(v); err != nil || t.MaxFile < 1 {
				return t, invalid("max-file cannot be less than 1")
			}
		case "compress":
			if t.Compress, err = strconv.ParseBool(v); err != nil {
				return t, invalid("invalid value for compress: %s", v)
			}
		case "labels":
			for _, name := range strings.Split(v, ",") {
				if value, ok := r.Config.Labels[name]; ok {
					t.Attrs[name] = value
				}
			}
		case "env":
			for _, name := range strings.Split(v, ",") {
				for _, kv := range r.Config.Env {
					if k, value, _ := strings.Cut(kv, "="); k == name {
						t.Attrs[name] = value
					}
				}
			}
		case "tag":
			tag, err := logTag(v, r)
			if err != nil {
				return t, err
			}
			t.Attrs["tag"] = tag
		default:
			return t, invalid("unknown log opt '%s' for json-file log driver", k)
		}
	}
	if t.MaxFile > 1 && t.MaxSize <= 0 {
		return t, invalid("max-file cannot be set without max-size")
	}
	return t, nil
}

// logTag fills docker's placeholders for --log-opt tag.
func logTag(text string, r *container.Record) (string, error) {
	out := strings.NewReplacer(
		"{{.ID}}", id.Short(r.ID), "{{.FullID}}", r.ID, "{{.Name}}", r.Name, "{{.ImageID}}", id.Short(r.ImageID),
		"{{.ImageFullID}}", r.ImageID, "{{.ImageName}}", r.Config.Image, "{{.DaemonName}}", "wherryd",
	).Replace(text)
	if strings.Contains(out, "{{") {
		return "", invalid("log tag %q has a placeholder that is not served", text)
	}
	return out, nil
}

// writeFile replaces one of the small files that are bound into the container.
// It keeps the inode of an existing file, for a running container has it mounted.
func writeFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
