package older

import (
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"

	imagestore "github.com/wherry-engine/wherry/internal/image"
)

// ContainerSummary is one of a list of containers.
func ContainerSummary(from *container.Summary, v int) *container.Summary {
	if v >= 52 {
		return from
	}
	s := *from
	s.Health = nil
	if v < 46 {
		s.HostConfig.Annotations = nil
	}
	if v < 48 {
		s.ImageManifestDescriptor = nil
	}
	return &s
}

// Container is a container in full: up to 1.51 the settings of the default bridge
// stood at the top of NetworkSettings too.
func Container(from *container.InspectResponse, v int) any {
	r := *from
	if r.Config == nil {
		r.Config = &container.Config{}
	}
	if v < 48 {
		r.ImageManifestDescriptor = nil
	}
	if v >= 52 {
		return &r
	}
	top := Members{
		"Bridge": "", "HairpinMode": false, "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
		"SecondaryIPAddresses": nil, "SecondaryIPv6Addresses": nil,
		"EndpointID": "", "Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
		"IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "", "MacAddress": "",
	}
	config := Members{}
	if r.NetworkSettings != nil {
		if e := r.NetworkSettings.Networks["bridge"]; e != nil {
			top["EndpointID"] = e.EndpointID
			top["Gateway"] = e.Gateway
			top["GlobalIPv6Address"] = e.GlobalIPv6Address
			top["GlobalIPv6PrefixLen"] = e.GlobalIPv6PrefixLen
			top["IPAddress"] = e.IPAddress
			top["IPPrefixLen"] = e.IPPrefixLen
			top["IPv6Gateway"] = e.IPv6Gateway
			top["MacAddress"] = e.MacAddress
		}
	}
	if asked := mac(&r); len(asked) > 0 && v < 44 {
		config["MacAddress"] = asked
	}
	more := Members{"NetworkSettings": top, "Config": config}
	if v < 42 {
		more["HostConfig"] = Members{"KernelMemory": 0, "KernelMemoryTCP": 0}
	}
	return With(&r, more)
}

// ImageSummary is one of a list of images.
func ImageSummary(from *image.Summary, v int) any {
	s := *from
	if v < 43 && len(s.RepoTags) == 0 && len(s.RepoDigests) == 0 {
		s.RepoTags, s.RepoDigests = []string{"<none>:<none>"}, []string{"<none>@<none>"}
	}
	if s.RepoTags == nil {
		s.RepoTags = []string{}
	}
	if s.RepoDigests == nil {
		s.RepoDigests = []string{}
	}
	if v < 48 {
		s.Descriptor = nil
	}
	if v < 51 {
		s.Containers = -1
	}
	if v < 44 {
		return With(&s, Members{"VirtualSize": s.Size})
	}
	return &s
}

// Image is an image in full, with the members that newer versions leave out, some
// of them always empty.
func Image(from *imagestore.Inspection, v int) (any, error) {
	r := from.InspectResponse
	if r.RepoTags == nil {
		r.RepoTags = []string{}
	}
	if r.RepoDigests == nil {
		r.RepoDigests = []string{}
	}
	if v < 48 {
		r.Descriptor = nil
	}
	if v < 53 {
		r.Identity = nil
	}
	if v >= 52 {
		return &r, nil
	}
	config := Members{
		"Cmd": nil, "Entrypoint": nil, "Env": nil, "Labels": nil, "OnBuild": nil, "User": "", "Volumes": nil, "WorkingDir": "",
	}
	if v < 50 {
		for _, name := range []string{"AttachStderr", "AttachStdin", "AttachStdout", "OpenStdin", "StdinOnce", "Tty"} {
			config[name] = false
		}
		for _, name := range []string{"Domainname", "Hostname", "Image"} {
			config[name] = ""
		}
	}
	more := Members{"Parent": from.Parent, "Comment": "", "DockerVersion": "", "Author": "", "Config": config}
	if v < 45 {
		o, err := from.Origin()
		if err != nil {
			return nil, err
		}
		more["Container"], more["ContainerConfig"] = o.Container, o.Config
	}
	if v < 44 {
		more["VirtualSize"] = r.Size
		if r.Created == "" {
			r.Created = time.Time{}.Format(time.RFC3339Nano)
		}
	}
	return With(&r, more), nil
}

// Info is what is told of the engine.
func Info(from *system.Info, v int) any {
	info := *from
	more := Members{}
	if v < 44 {
		plain := make(map[string]system.RuntimeWithStatus, len(info.Runtimes))
		for name, r := range info.Runtimes {
			plain[name] = system.RuntimeWithStatus{Runtime: r.Runtime}
		}
		info.Runtimes = plain
	}
	if v < 46 {
		info.Containerd = nil
	}
	if v < 47 {
		more["RegistryConfig"] = Members{
			"AllowNondistributableArtifactsCIDRs":     nil,
			"AllowNondistributableArtifactsHostnames": nil,
		}
	}
	if v < 49 {
		info.FirewallBackend = nil
		more["ContainerdCommit"] = Members{"Expected": info.ContainerdCommit.ID}
		more["RuncCommit"] = Members{"Expected": info.RuncCommit.ID}
		more["InitCommit"] = Members{"Expected": info.InitCommit.ID}
	}
	if v < 50 {
		info.DiscoveredDevices = nil
		more["BridgeNfIptables"] = false
		more["BridgeNfIp6tables"] = false
	}
	if v < 53 {
		info.NRI = nil
	}
	return With(&info, more)
}

// Usage is the account of the disk as it was before version 52: lists of which the
// client makes the sums.
func Usage(u *system.DiskUsage, v int) Members {
	old := Members{"BuilderSize": 0}
	if v >= 42 {
		delete(old, "BuilderSize")
	}
	if i := u.ImageUsage; i != nil {
		list := make([]any, len(i.Items))
		for n := range i.Items {
			list[n] = &i.Items[n]
			if v < 44 {
				list[n] = With(&i.Items[n], Members{"VirtualSize": i.Items[n].Size})
			}
		}
		old["LayersSize"], old["Images"] = i.TotalSize, list
	}
	if c := u.ContainerUsage; c != nil {
		old["Containers"] = orEmpty(c.Items)
	}
	if vol := u.VolumeUsage; vol != nil {
		old["Volumes"] = orEmpty(vol.Items)
	}
	if b := u.BuildCacheUsage; b != nil {
		old["BuildCache"] = orEmpty(b.Items)
	}
	return old
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// Event is an event with the members that clients before 1.52 read, the docker CLI
// up to version 25 among them, in every version: docker-py asks for the newest
// one and reads them all the same.
func Event(m events.Message) any {
	switch m.Type {
	case events.ContainerEventType:
		return With(m, Members{"id": m.Actor.ID, "status": m.Action, "from": m.Actor.Attributes["image"]})
	case events.ImageEventType:
		return With(m, Members{"id": m.Actor.ID, "status": m.Action})
	}
	return m
}
