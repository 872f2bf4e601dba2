package initproto

// Code names an operation.
type Code uint8

// The operations in the order in which a program usually has them. Which
// fields of Op an operation uses is said here.
const (
	// CodeCgroup writes "0" to the files Numbers (indexes of passed files).
	CodeCgroup Code = 1 + iota
	// CodeEnter joins the namespaces Flags (CLONE_NEW*) of the file Number;
	// Flags 0 says that the fork has joined them all.
	CodeEnter
	// CodeUnshare makes the namespaces Flags fresh.
	CodeUnshare
	// CodeMount prepares Mount as a detached tree, still seeing the host.
	CodeMount
	// CodeRoot mounts Root and makes it the root; the host is out of sight after it.
	CodeRoot
	// CodeAttach puts every prepared mount at its target, in order.
	CodeAttach
	// CodeDevice makes the node Device.
	CodeDevice
	// CodeLinks makes symbolic links: Strings holds target, link, target, link...
	CodeLinks
	// CodeAttr sets the mount attributes Flags on the mount at Text.
	CodeAttr
	// CodeConsole allocates a pty from the devpts of this mount namespace, sends
	// its master away and makes the slave fd 0, 1 and 2. With Number 1 the slave
	// also appears as /dev/console.
	CodeConsole
	// CodeHostname and CodeDomainname set Text.
	CodeHostname
	CodeDomainname
	// CodeSysctl writes Strings: path below /proc/sys, value, path, value...
	CodeSysctl
	// CodeReadonly makes the paths Strings read-only, CodeMask hides them.
	// Paths that do not exist are left out.
	CodeReadonly
	CodeMask
	// CodeMkdir makes the directory Text and its parents.
	CodeMkdir
	// CodeSealRoot makes the root mount read-only.
	CodeSealRoot
	// CodeShareRoot sets the propagation Flags of the root mount.
	CodeShareRoot
	// CodeHold stops until the parent says go on.
	CodeHold
	// CodeProcess becomes the user's program; it is the last operation.
	CodeProcess
	codeEnd
)

// Op is one operation; see Code for the fields that matter.
type Op struct {
	Code    Code
	Number  uint32
	Flags   uint64
	Text    string
	Strings []string
	Numbers []uint32
	Mount   *Mount
	Root    *Root
	Device  *Device
	Process *Process
}

// How a mount comes about.
const (
	MountNew  uint8 = 1 + iota // a new instance of Type with Options
	MountBind                  // a clone of the host's tree at Source
	MountFrom                  // a clone of the tree at Source in the mount namespace of file Number
	MountTree                  // the passed detached tree, file Number
)

// What a mount target has to be.
const (
	TargetAny    uint8 = iota // made as the source is when missing
	TargetStrict              // a directory reached without any symbolic link
)

// Mount is a mount to prepare and attach.
type Mount struct {
	Kind      uint8
	Target    string
	Strict    uint8
	Type      string
	Source    string
	Options   []string
	Number    uint32
	Recursive bool   // MountBind: with what is mounted below
	Attr      uint64 // MOUNT_ATTR_* to set
	Clear     uint64 // MOUNT_ATTR_* to clear
	SubAttr   uint64 // MOUNT_ATTR_* to set on everything below as well
	Spread    uint64 // MS_PRIVATE, MS_SLAVE or MS_SHARED; 0 = leave
	SpreadAll bool   // Spread also for what is below
	FSType    int64  // the file system's magic number that Source must have; 0 = any
	Optional  bool   // leave it out when Source does not exist
}

// Root is the root file system. With Overlay it is mounted in Base with Data
// (and Paths, see mount.Overlay); else Base itself is the root. With Tree > 0
// the passed file Tree-1 is a ready detached tree.
type Root struct {
	Overlay bool
	Base    string
	Data    string
	Paths   []string
	Tree    uint32
}

// Device is a node to make.
type Device struct {
	Path     string
	Mode     uint32 // S_IF* and permissions
	Dev      uint64
	UID, GID uint32
}

// Rlimit is one resource limit.
type Rlimit struct {
	Resource   uint32
	Soft, Hard uint64
}

// Process is what init becomes.
type Process struct {
	Args, Env []string
	Cwd       string

	// User is docker's USER string, looked up inside the root, when Lookup is
	// set; else UID, GID and GIDs are used as they are. Groups are names or
	// numbers added in both cases.
	Lookup   bool
	User     string
	UID, GID uint32
	GIDs     []uint32
	Groups   []string
	Umask    uint32

	Bounding, Permitted, Effective, Inheritable, Ambient uint64

	NoNewPrivs   bool
	Rlimits      []Rlimit
	AppArmor     string
	SELinux      string
	Keyring      string // name of a new session keyring, "" = keep
	Seccomp      []byte // sock_filter array
	SeccompFlags uint32

	// Reaper says that the program is init itself under another name. It sends
	// KindExec when it takes signals: the kernel drops those that come earlier
	// for the first process of a namespace.
	Reaper bool

	// Bound says that the process dies with the thread that forked it.
	Bound bool
}

// Append adds the encoded operation to a program.
func Append(program []byte, op *Op) []byte {
	w := writer{program}
	w.u8(uint8(op.Code))
	at := len(w.b)
	w.u32(0)
	w.payload(op)
	n := uint32(len(w.b) - at - 4)
	w.b[at], w.b[at+1], w.b[at+2], w.b[at+3] = byte(n), byte(n>>8), byte(n>>16), byte(n>>24)
	return w.b
}

func (w *writer) payload(op *Op) {
	switch op.Code {
	case CodeCgroup:
		w.u32s(op.Numbers)
	case CodeEnter:
		w.u32(op.Number)
		w.u64(op.Flags)
	case CodeUnshare, CodeShareRoot:
		w.u64(op.Flags)
	case CodeAttr:
		w.str(op.Text)
		w.u64(op.Flags)
	case CodeConsole:
		w.u32(op.Number)
	case CodeHostname, CodeDomainname, CodeMkdir:
		w.str(op.Text)
	case CodeLinks, CodeSysctl, CodeReadonly, CodeMask:
		w.strs(op.Strings)
	case CodeMount:
		w.mount(op.Mount)
	case CodeRoot:
		r := op.Root
		w.bool(r.Overlay)
		w.str(r.Base)
		w.str(r.Data)
		w.strs(r.Paths)
		w.u32(r.Tree)
	case CodeDevice:
		d := op.Device
		w.str(d.Path)
		w.u32(d.Mode)
		w.u64(d.Dev)
		w.u32(d.UID)
		w.u32(d.GID)
	case CodeProcess:
		w.process(op.Process)
	}
}

func (w *writer) mount(m *Mount) {
	w.u8(m.Kind)
	w.str(m.Target)
	w.u8(m.Strict)
	w.str(m.Type)
	w.str(m.Source)
	w.strs(m.Options)
	w.u32(m.Number)
	w.bool(m.Recursive)
	w.u64(m.Attr)
	w.u64(m.Clear)
	w.u64(m.SubAttr)
	w.u64(m.Spread)
	w.bool(m.SpreadAll)
	w.u64(uint64(m.FSType))
	w.bool(m.Optional)
}

func (w *writer) process(p *Process) {
	w.strs(p.Args)
	w.strs(p.Env)
	w.str(p.Cwd)
	w.bool(p.Lookup)
	w.str(p.User)
	w.u32(p.UID)
	w.u32(p.GID)
	w.u32s(p.GIDs)
	w.strs(p.Groups)
	w.u32(p.Umask)
	w.u64(p.Bounding)
	w.u64(p.Permitted)
	w.u64(p.Effective)
	w.u64(p.Inheritable)
	w.u64(p.Ambient)
	w.bool(p.NoNewPrivs)
	w.u32(uint32(len(p.Rlimits)))
	for _, l := range p.Rlimits {
		w.u32(l.Resource)
		w.u64(l.Soft)
		w.u64(l.Hard)
	}
	w.str(p.AppArmor)
	w.str(p.SELinux)
	w.str(p.Keyring)
	w.str(string(p.Seccomp))
	w.u32(p.SeccompFlags)
	w.bool(p.Reaper)
	w.bool(p.Bound)
}
