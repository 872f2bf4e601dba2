package initproto

// Decode reads a whole program. Every length is checked against what is left,
// unknown operations, left-over bytes and anything after CodeProcess make it
// ErrMalformed.
func Decode(program []byte) ([]Op, error) {
	if len(program) > maxProgram {
		return nil, ErrMalformed
	}
	r := reader{b: program}
	ops := make([]Op, 0, 64)
	for len(r.b) > 0 {
		code := Code(r.u8())
		body := reader{b: r.take(r.u32())}
		if r.bad || code == 0 || code >= codeEnd {
			return nil, ErrMalformed
		}
		if n := len(ops); n > 0 && ops[n-1].Code == CodeProcess {
			return nil, ErrMalformed
		}
		ops = append(ops, Op{Code: code})
		body.payload(&ops[len(ops)-1])
		if body.bad || len(body.b) != 0 {
			return nil, ErrMalformed
		}
	}
	return ops, nil
}

func (r *reader) payload(op *Op) {
	switch op.Code {
	case CodeCgroup:
		op.Numbers = r.u32s()
	case CodeEnter:
		op.Number = r.u32()
		op.Flags = r.u64()
	case CodeUnshare, CodeShareRoot:
		op.Flags = r.u64()
	case CodeAttr:
		op.Text = r.str()
		op.Flags = r.u64()
	case CodeConsole:
		op.Number = r.u32()
	case CodeHostname, CodeDomainname, CodeMkdir:
		op.Text = r.str()
	case CodeLinks, CodeSysctl:
		op.Strings = r.strs()
		if len(op.Strings)%2 != 0 {
			r.bad = true
		}
	case CodeReadonly, CodeMask:
		op.Strings = r.strs()
	case CodeMount:
		op.Mount = r.mount()
	case CodeRoot:
		op.Root = &Root{Overlay: r.bool(), Base: r.str(), Data: r.str(), Paths: r.strs(), Tree: r.u32()}
	case CodeDevice:
		op.Device = &Device{Path: r.str(), Mode: r.u32(), Dev: r.u64(), UID: r.u32(), GID: r.u32()}
	case CodeProcess:
		op.Process = r.process()
	}
}

func (r *reader) mount() *Mount {
	m := &Mount{
		Kind: r.u8(), Target: r.str(), Strict: r.u8(), Type: r.str(), Source: r.str(), Options: r.strs(),
		Number: r.u32(), Recursive: r.bool(), Attr: r.u64(), Clear: r.u64(), SubAttr: r.u64(),
		Spread: r.u64(), SpreadAll: r.bool(), FSType: int64(r.u64()), Optional: r.bool(),
	}
	if m.Kind < MountNew || m.Kind > MountTree || m.Strict > TargetStrict {
		r.bad = true
	}
	return m
}

func (r *reader) process() *Process {
	p := &Process{
		Args: r.strs(), Env: r.strs(), Cwd: r.str(), Lookup: r.bool(), User: r.str(),
		UID: r.u32(), GID: r.u32(), GIDs: r.u32s(), Groups: r.strs(), Umask: r.u32(),
		Bounding: r.u64(), Permitted: r.u64(), Effective: r.u64(), Inheritable: r.u64(), Ambient: r.u64(),
		NoNewPrivs: r.bool(),
	}
	for range r.count(20) {
		p.Rlimits = append(p.Rlimits, Rlimit{r.u32(), r.u64(), r.u64()})
	}
	p.AppArmor, p.SELinux, p.Keyring = r.str(), r.str(), r.str()
	p.Seccomp = r.take(r.u32())
	if len(p.Seccomp)%8 != 0 {
		r.bad = true
	}
	if len(p.Seccomp) == 0 {
		p.Seccomp = nil
	}
	p.SeccompFlags = r.u32()
	p.Reaper = r.bool()
	p.Bound = r.bool()
	if len(p.Args) == 0 {
		r.bad = true
	}
	return p
}
