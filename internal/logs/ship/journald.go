package ship

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/logs"
	"github.com/wherry-engine/wherry/internal/logs/driver"
)

// journald speaks the journal's native protocol.
type journald struct {
	sink  *driver.Sink
	path  string
	fd    int
	ready bool
	buf   []byte
}

func (j *journald) send(_ context.Context, e *logs.Entry) error {
	if !j.ready {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		limit := unix.NsecToTimeval(int64(sendLimit))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
			unix.Close(fd)
			return os.NewSyscallError("setsockopt", err)
		}
		j.fd, j.ready = fd, true
	}
	j.buf = j.format(j.buf[:0], e)
	to := &unix.SockaddrUnix{Name: j.path}
	err := unix.Sendto(j.fd, j.buf, unix.MSG_NOSIGNAL, to)
	if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOBUFS) {
		err = j.sendFile(to)
	}
	if err != nil {
		j.close()
		return os.NewSyscallError("send to the journal", err)
	}
	return nil
}

// sendFile sends what is too long for a datagram as a sealed memory file.
func (j *journald) sendFile(to unix.Sockaddr) error {
	fd, err := unix.MemfdCreate("journal", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "journal")
	defer f.Close()
	if _, err := f.Write(j.buf); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE|unix.F_SEAL_SEAL); err != nil {
		return err
	}
	return unix.Sendmsg(j.fd, nil, unix.UnixRights(fd), to, unix.MSG_NOSIGNAL)
}

func (j *journald) format(b []byte, e *logs.Entry) []byte {
	i := j.sink.Info
	b = journalField(b, "MESSAGE", e.Line)
	for _, f := range [...][2]string{
		{"PRIORITY", strconv.Itoa(severity(e))}, {"CONTAINER_ID", i.ID()}, {"CONTAINER_ID_FULL", i.ContainerID},
		{"CONTAINER_NAME", i.Name()}, {"CONTAINER_TAG", j.sink.Tag}, {"IMAGE_NAME", i.ContainerImageName},
		{"SYSLOG_IDENTIFIER", j.sink.Tag}, {"SYSLOG_TIMESTAMP", e.Time.Format(time.RFC3339Nano)},
	} {
		b = journalField(b, f[0], []byte(f[1]))
	}
	if e.Partial {
		b = journalField(b, "CONTAINER_PARTIAL_MESSAGE", []byte("true"))
	}
	for k, v := range j.sink.Extra {
		b = journalField(b, k, []byte(v))
	}
	return b
}

// journalField appends a field; a value of several lines has its length in front.
func journalField(b []byte, name string, value []byte) []byte {
	b = append(b, name...)
	if bytes.IndexByte(value, '\n') < 0 {
		b = append(b, '=')
	} else {
		b = binary.LittleEndian.AppendUint64(append(b, '\n'), uint64(len(value)))
	}
	return append(append(b, value...), '\n')
}

func (j *journald) close() {
	if j.ready {
		unix.Close(j.fd)
		j.ready = false
	}
}
