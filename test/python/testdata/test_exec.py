"""exec: streams, codes, options, inspect."""
import os
import unittest

from docker.errors import APIError, NotFound

from engine import EngineTest


class ExecTest(EngineTest):
    def setUp(self):
        super().setUp()
        self.cid = self.run_('sleep 1000')

    def run_exec(self, command, **kwargs):
        eid = self.client.exec_create(self.cid, command, **kwargs)['Id']
        return eid, self.client.exec_start(eid)

    def test_output_and_code(self):
        eid, out = self.run_exec(['sh', '-c', 'echo hello; exit 4'])
        self.assertEqual(out, b'hello\n')
        info = self.client.exec_inspect(eid)
        self.assertEqual((info['ExitCode'], info['Running'], info['ContainerID']), (4, False, self.cid))
        self.assertEqual((info['ProcessConfig']['entrypoint'], info['ProcessConfig']['arguments'], info['ProcessConfig']['tty']), ('sh', ['-c', 'echo hello; exit 4'], False))

    def test_string_command(self):
        self.assertEqual(self.run_exec('echo hello world')[1], b'hello world\n')

    def test_user_workdir_environment(self):
        _, out = self.run_exec(['sh', '-c', 'id -u; pwd; echo $A'], user='www-data', workdir='/tmp', environment={'A': 'x'})
        self.assertEqual(out, b'33\n/tmp\nx\n')

    def test_stream_and_demux(self):
        eid = self.client.exec_create(self.cid, ['sh', '-c', 'echo out; echo err >&2'])['Id']
        out, err = self.client.exec_start(eid, demux=True)
        self.assertEqual((out, err), (b'out\n', b'err\n'))
        eid = self.client.exec_create(self.cid, ['sh', '-c', 'echo 1; echo 2'])['Id']
        self.assertEqual(b''.join(self.client.exec_start(eid, stream=True)), b'1\n2\n')

    def test_tty(self):
        eid = self.client.exec_create(self.cid, 'echo x', tty=True)['Id']
        self.assertEqual(self.client.exec_start(eid, tty=True), b'x\r\n')

    def test_socket(self):
        eid = self.client.exec_create(self.cid, 'cat', stdin=True)['Id']
        sock = self.client.exec_start(eid, socket=True)
        sock._sock.sendall(b'typed\n')
        sock._sock.settimeout(10)
        got = b''
        while len(got) < 14:
            got += sock._sock.recv(100)
        self.assertEqual(got, b'\x01\0\0\0\0\0\0\x06typed\n')
        sock.close()

    def test_resize_at_once(self):
        """The size may be told as soon as the connection is there."""
        eid = self.client.exec_create(self.cid, ['sh', '-c', 'read x; stty size'], stdin=True, tty=True)['Id']
        sock = self.client.exec_start(eid, tty=True, socket=True)
        self.client.exec_resize(eid, height=33, width=77)
        sock._sock.sendall(b'go\n')
        sock._sock.settimeout(10)
        got = b''
        while b'33 77' not in got:
            more = sock._sock.recv(100)
            self.assertTrue(more, got)
            got += more
        sock.close()

    def test_detach(self):
        eid = self.client.exec_create(self.cid, 'sleep 100')['Id']
        self.assertEqual(self.client.exec_start(eid, detach=True), '')
        info = self.client.exec_inspect(eid)
        self.assertTrue(info['Running'])
        self.assertIsNone(info['ExitCode'])
        self.assertIn(eid, self.client.inspect_container(self.cid)['ExecIDs'])

    def test_unknown(self):
        with self.assertRaises(NotFound):
            self.client.exec_inspect('nosuchexec')
        with self.assertRaises(NotFound):
            self.client.exec_create('nosuchcontainer', 'true')

    def test_not_running(self):
        stopped = self.create('true')
        with self.assertRaises(APIError) as caught:
            self.client.exec_create(stopped, 'true')
        self.assertEqual(caught.exception.response.status_code, 409)

    def test_paused(self):
        self.client.pause(self.cid)
        try:
            with self.assertRaises(APIError) as caught:
                self.client.exec_create(self.cid, 'true')
            self.assertEqual(caught.exception.response.status_code, 409)
        finally:
            self.client.unpause(self.cid)

    @unittest.skipIf(os.environ['ENGINE'] == 'dockerd', '20.10 answers 200 and ends the stream')
    def test_twice(self):
        eid, _ = self.run_exec('true')
        with self.assertRaises(APIError) as caught:
            self.client.exec_start(eid)
        self.assertEqual(caught.exception.response.status_code, 409)

    def test_resize(self):
        eid = self.client.exec_create(self.cid, 'sleep 100', tty=True)['Id']
        self.client.exec_start(eid, detach=True, tty=True)
        self.client.exec_resize(eid, height=20, width=60)
