"""Containers: create to remove, as python3-docker's users do it."""
import datetime
import os
import signal
import socket
import tempfile
import threading
import time

import docker
from docker.errors import APIError, NotFound

from engine import IMAGE, EngineTest


class ListTest(EngineTest):
    def test_list_all(self):
        before = len(self.client.containers(all=True))
        cid = self.run_('true')
        after = self.client.containers(all=True)
        self.assertEqual(before + 1, len(after))
        mine = [c for c in after if c['Id'] == cid][0]
        for key in ('Id', 'Image', 'Created', 'Command', 'Names', 'Status', 'Ports', 'State', 'Labels', 'NetworkSettings', 'HostConfig', 'Mounts'):
            self.assertIn(key, mine)
        self.assertEqual(mine['Command'], 'true')
        self.assertIsInstance(mine['Created'], int)
        self.assertEqual(mine['Image'], 'busybox')

    def test_filters(self):
        cid = self.run_('sleep 100', labels={'lane': 'python'})
        found = self.client.containers(filters={'label': 'lane=python', 'status': 'running'})
        self.assertEqual([c['Id'] for c in found], [cid])
        self.assertEqual(self.client.containers(filters={'id': 'ffff'}), [])
        with self.assertRaises(APIError) as caught:
            self.client.containers(filters={'nope': 'x'})
        self.assertEqual(caught.exception.response.status_code, 400)

    def test_limit_and_quiet(self):
        self.create('true')
        newest = self.create('true')
        self.assertEqual([c['Id'] for c in self.client.containers(limit=1)], [newest])
        self.assertEqual(list(self.client.containers(quiet=True, limit=1)[0].keys()), ['Id'])


class CreateTest(EngineTest):
    def test_create(self):
        cid = self.create('true')
        self.assertEqual(len(cid), 64)

    def test_name_and_conflict(self):
        name = self.name()
        cid = self.create('true', name=name)
        self.assertEqual(self.client.inspect_container(cid)['Name'], '/' + name)
        with self.assertRaises(APIError) as caught:
            self.create('true', name=name)
        self.assertEqual(caught.exception.response.status_code, 409)
        self.assertIn('is already in use by container', caught.exception.explanation)

    def test_unknown_image(self):
        with self.assertRaises(docker.errors.ImageNotFound):
            self.client.create_container('nosuchimage:x', 'true')

    def test_environment_and_workdir(self):
        cid = self.run_(['sh', '-c', 'echo $A; pwd'], environment={'A': 'a b'}, working_dir='/tmp')
        self.client.wait(cid)
        self.assertEqual(self.client.logs(cid), b'a b\n/tmp\n')

    def test_binds_and_ro(self):
        with tempfile.TemporaryDirectory() as shared:
            with open(os.path.join(shared, 'touch.me'), 'w') as f:
                f.write('x')
            cid = self.run_('ls /mnt', host_config=self.host(binds={shared: {'bind': '/mnt', 'ro': False}}))
            self.assertEqual(self.client.wait(cid)['StatusCode'], 0)
            self.assertEqual(self.client.logs(cid), b'touch.me\n')
            cid = self.run_('touch /mnt/new', host_config=self.host(binds=[shared + ':/mnt:ro']))
            self.assertEqual(self.client.wait(cid)['StatusCode'], 1)
            mount = self.client.inspect_container(cid)['Mounts'][0]
            self.assertEqual((mount['Type'], mount['Source'], mount['Destination'], mount['RW'], mount['Mode']), ('bind', shared, '/mnt', False, 'ro'))

    def test_mount_objects(self):
        mount = docker.types.Mount(type='tmpfs', source=None, target='/t', tmpfs_size=1048576)
        cid = self.run_('df -k /t', host_config=self.host(mounts=[mount]))
        self.client.wait(cid)
        self.assertIn(b'1024', self.client.logs(cid))

    def test_tmpfs_and_readonly(self):
        cid = self.run_(['sh', '-c', 'touch /t/x && ! touch /x'], host_config=self.host(tmpfs=['/t'], read_only=True))
        self.assertEqual(self.client.wait(cid)['StatusCode'], 0)

    def test_ulimits_sysctls_shm(self):
        cid = self.run_(['sh', '-c', 'ulimit -n; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; df -k /dev/shm | tail -1'],
                        host_config=self.host(ulimits=[docker.types.Ulimit(name='nofile', soft=123, hard=456)],
                                              sysctls={'net.ipv4.ip_unprivileged_port_start': '55'}, shm_size='2m'))
        self.client.wait(cid)
        lines = self.client.logs(cid).decode().split('\n')
        self.assertEqual(lines[:2], ['123', '55'])
        self.assertIn('2048', lines[2])

    def test_limits_in_inspect(self):
        cid = self.create('true', host_config=self.host(mem_limit='64m', cpu_shares=512, pids_limit=30, nano_cpus=500000000, oom_score_adj=100))
        hc = self.client.inspect_container(cid)['HostConfig']
        self.assertEqual((hc['Memory'], hc['CpuShares'], hc['PidsLimit'], hc['NanoCpus'], hc['OomScoreAdj']), (67108864, 512, 30, 500000000, 100))

    def test_caps(self):
        cid = self.create('true', host_config=self.host(cap_add=['NET_ADMIN'], cap_drop=['MKNOD']))
        hc = self.client.inspect_container(cid)['HostConfig']
        self.assertEqual((hc['CapAdd'], hc['CapDrop']), (['NET_ADMIN'], ['MKNOD']))

    def test_log_config(self):
        config = docker.types.LogConfig(type='json-file', config={'max-size': '1m'})
        cid = self.create('true', host_config=self.host(log_config=config))
        self.assertEqual(self.client.inspect_container(cid)['HostConfig']['LogConfig'], {'Type': 'json-file', 'Config': {'max-size': '1m'}})
        none = self.run_('echo x', host_config=self.host(log_config=docker.types.LogConfig(type='none', config={})))
        self.client.wait(none)
        with self.assertRaises(APIError):
            self.client.logs(none)

    def test_restart_policy(self):
        cid = self.create('true', host_config=self.host(restart_policy={'Name': 'on-failure', 'MaximumRetryCount': 5}))
        self.assertEqual(self.client.inspect_container(cid)['HostConfig']['RestartPolicy'], {'Name': 'on-failure', 'MaximumRetryCount': 5})

    def test_group_add(self):
        cid = self.run_('id -G', host_config=self.host(group_add=['1001', 'staff']))
        self.client.wait(cid)
        self.assertLessEqual({'0', '50', '1001'}, set(self.client.logs(cid).decode().split()))

    def test_init_and_stop_signal(self):
        cid = self.create('true', host_config=self.host(init=True), stop_signal='SIGINT')
        info = self.client.inspect_container(cid)
        self.assertTrue(info['HostConfig']['Init'])
        self.assertEqual(info['Config']['StopSignal'], 'SIGINT')

    def test_namespaces(self):
        base = self.run_('sleep 100')
        cid = self.run_('ps', host_config=self.host(pid_mode='container:' + base))
        self.client.wait(cid)
        self.assertIn(b'sleep 100', self.client.logs(cid))
        none = self.run_('ls /sys/class/net', host_config=self.host(network_mode='none'))
        self.client.wait(none)
        self.assertEqual(self.client.logs(none), b'lo\n')

    def test_extra_hosts_dns(self):
        cid = self.run_(['cat', '/etc/hosts', '/etc/resolv.conf'], hostname='me', host_config=self.host(extra_hosts={'peer': '1.2.3.4'}, dns=['9.8.7.6']))
        self.client.wait(cid)
        text = self.client.logs(cid).decode()
        self.assertIn('1.2.3.4\tpeer', text)
        self.assertIn('nameserver 9.8.7.6', text)
        self.assertIn('\tme', text)


class StartStopTest(EngineTest):
    def test_start(self):
        cid = self.create('sleep 100')
        self.client.start(cid)
        state = self.client.inspect_container(cid)['State']
        self.assertTrue(state['Running'])
        self.assertGreater(state['Pid'], 0)

    def test_command_not_found(self):
        cid = self.create('nosuchprogram')
        with self.assertRaises(APIError) as caught:
            self.client.start(cid)
        self.assertIn(caught.exception.response.status_code, (400, 404))
        self.assertIn('executable file not found in $PATH', caught.exception.explanation)
        self.assertEqual(self.client.inspect_container(cid)['State']['ExitCode'], 127)

    def test_stop(self):
        cid = self.run_('sleep 100')
        self.client.stop(cid, timeout=0)
        state = self.client.inspect_container(cid)['State']
        self.assertFalse(state['Running'])
        self.assertEqual(state['ExitCode'], 137)
        self.client.stop(cid)

    def test_kill(self):
        cid = self.run_('sleep 100')
        self.client.kill(cid)
        self.assertEqual(self.client.wait(cid)['StatusCode'], 137)
        with self.assertRaises(APIError) as caught:
            self.client.kill(cid)
        self.assertEqual(caught.exception.response.status_code, 409)

    def test_kill_with_signal(self):
        for sig in (signal.SIGKILL, 'SIGKILL', 'KILL', 9):
            cid = self.run_('sleep 100')
            self.client.kill(cid, signal=sig)
            self.assertEqual(self.client.wait(cid)['StatusCode'], 137, sig)

    def test_restart(self):
        cid = self.run_('sleep 100')
        first = self.client.inspect_container(cid)['State']
        self.client.restart(cid, timeout=0)
        second = self.client.inspect_container(cid)['State']
        self.assertNotEqual(first['Pid'], second['Pid'])
        self.assertNotEqual(first['StartedAt'], second['StartedAt'])
        self.assertTrue(second['Running'])

    def test_pause(self):
        cid = self.run_('sleep 100')
        self.client.pause(cid)
        state = self.client.inspect_container(cid)['State']
        self.assertEqual((state['Running'], state['Paused'], state['Status']), (True, True, 'paused'))
        self.client.unpause(cid)
        self.assertFalse(self.client.inspect_container(cid)['State']['Paused'])

    def test_rename(self):
        name = self.name()
        cid = self.create('true')
        self.client.rename(cid, name)
        self.assertEqual(self.client.inspect_container(name)['Id'], cid)

    def test_remove(self):
        cid = self.run_('true')
        self.client.wait(cid)
        self.client.remove_container(cid)
        with self.assertRaises(NotFound) as caught:
            self.client.inspect_container(cid)
        self.assertEqual(caught.exception.explanation, 'No such container: ' + cid)
        running = self.run_('sleep 100')
        with self.assertRaises(APIError) as caught:
            self.client.remove_container(running)
        self.assertEqual(caught.exception.response.status_code, 409)

    def test_auto_remove(self):
        cid = self.create('true', host_config=self.host(auto_remove=True))
        watch = self.client.events(decode=True, filters={'container': cid, 'event': 'destroy'})
        self.client.start(cid)
        self.assertEqual(next(watch)['id'], cid)
        watch.close()
        with self.assertRaises(NotFound):
            self.client.inspect_container(cid)

    def test_update(self):
        cid = self.run_('sleep 100', host_config=self.host(mem_limit='64m', memswap_limit='128m'))
        self.client.update_container(cid, cpu_shares=333, mem_limit='32m', restart_policy={'Name': 'on-failure', 'MaximumRetryCount': 2})
        hc = self.client.inspect_container(cid)['HostConfig']
        self.assertEqual((hc['CpuShares'], hc['Memory'], hc['RestartPolicy']['Name']), (333, 33554432, 'on-failure'))

    def test_prune(self):
        cid = self.run_('true', labels={'prune': 'me'})
        self.client.wait(cid)
        answer = self.client.prune_containers(filters={'label': 'prune=me'})
        self.assertEqual(answer['ContainersDeleted'], [cid])
        self.assertGreaterEqual(answer['SpaceReclaimed'], 0)
        with self.assertRaises(NotFound):
            self.client.inspect_container(cid)

    def test_top(self):
        cid = self.run_('sleep 60')
        top = self.client.top(cid)
        self.assertEqual(top['Titles'], ['UID', 'PID', 'PPID', 'C', 'STIME', 'TTY', 'TIME', 'CMD'])
        self.assertEqual([p[-1] for p in top['Processes']], ['sleep 60'])
        self.assertEqual(self.client.top(cid, '-eopid,user')['Titles'], ['PID', 'USER'])

    def test_port_without_any(self):
        cid = self.run_('sleep 60')
        self.assertIsNone(self.client.port(cid, 80))


class WaitTest(EngineTest):
    def test_codes(self):
        for code in (0, 1, 42):
            cid = self.run_(['sh', '-c', 'exit %d' % code])
            answer = self.client.wait(cid)
            self.assertEqual(answer['StatusCode'], code)
            self.assertIsNone(answer.get('Error'))
            self.assertEqual(self.client.inspect_container(cid)['State']['ExitCode'], code)

    def test_conditions(self):
        cid = self.create(['sh', '-c', 'exit 7'])
        got = []
        waiter = threading.Thread(target=lambda: got.append(self.client.wait(cid, condition='next-exit')))
        waiter.start()
        time.sleep(0.2)
        self.client.start(cid)
        waiter.join(10)
        self.assertEqual(got[0]['StatusCode'], 7)

    def test_removed(self):
        cid = self.run_('true')
        self.client.wait(cid)
        got = []
        waiter = threading.Thread(target=lambda: got.append(self.client.wait(cid, condition='removed')))
        waiter.start()
        time.sleep(0.2)
        self.client.remove_container(cid)
        waiter.join(10)
        self.assertEqual(got[0]['StatusCode'], 0)

    def test_unknown(self):
        with self.assertRaises(NotFound):
            self.client.wait('nosuchcontainer')


class LogsTest(EngineTest):
    def test_streams(self):
        cid = self.run_(['sh', '-c', 'echo out; echo err >&2'])
        self.client.wait(cid)
        self.assertEqual(self.client.logs(cid, stderr=False), b'out\n')
        self.assertEqual(self.client.logs(cid, stdout=False), b'err\n')
        self.assertEqual(sorted(self.client.logs(cid).split()), [b'err', b'out'])

    def test_tail(self):
        cid = self.run_(['sh', '-c', 'echo 1; echo 2; echo 3'])
        self.client.wait(cid)
        self.assertEqual(self.client.logs(cid, tail=2), b'2\n3\n')
        self.assertEqual(self.client.logs(cid, tail='all'), b'1\n2\n3\n')

    def test_follow(self):
        cid = self.run_(['sh', '-c', 'for i in 1 2 3; do echo $i; sleep 0.1; done'])
        self.assertEqual(b''.join(self.client.logs(cid, stream=True, follow=True)), b'1\n2\n3\n')

    def test_timestamps_and_since(self):
        cid = self.run_('echo x')
        self.client.wait(cid)
        stamp, text = self.client.logs(cid, timestamps=True).decode().split()
        self.assertEqual(text, 'x')
        datetime.datetime.strptime(stamp[:19], '%Y-%m-%dT%H:%M:%S')
        self.assertEqual(self.client.logs(cid, since=int(time.time()) + 100), b'')
        self.assertEqual(self.client.logs(cid, until=1), b'')

    def test_tty(self):
        cid = self.run_('echo x', tty=True)
        self.client.wait(cid)
        self.assertEqual(self.client.logs(cid), b'x\r\n')


class AttachTest(EngineTest):
    def test_output(self):
        cid = self.create(['sh', '-c', 'echo out; echo err >&2'])
        stream = self.client.attach(cid, stream=True, logs=False)
        self.client.start(cid)
        self.assertEqual(sorted(b''.join(stream).split()), [b'err', b'out'])

    def test_demux(self):
        cid = self.create(['sh', '-c', 'echo out; echo err >&2'])
        stream = self.client.attach(cid, stream=True, demux=True)
        self.client.start(cid)
        parts = list(stream)
        self.assertIn((b'out\n', None), parts)
        self.assertIn((None, b'err\n'), parts)

    def test_stdin(self):
        cid = self.create('cat', stdin_open=True)
        sock = self.client.attach_socket(cid, {'stdin': 1, 'stdout': 1, 'stream': 1})
        self.client.start(cid)
        raw = sock._sock
        raw.sendall(b'typed\n')
        raw.settimeout(10)
        got = b''
        while len(got) < 14:
            more = raw.recv(100)
            self.assertTrue(more)
            got += more
        self.assertEqual(got, b'\x01\0\0\0\0\0\0\x06typed\n')
        raw.shutdown(socket.SHUT_WR)
        sock.close()

    def test_tty_is_raw(self):
        cid = self.create('echo raw', tty=True)
        stream = self.client.attach(cid, stream=True)
        self.client.start(cid)
        self.assertEqual(b''.join(stream), b'raw\r\n')

    def test_resize(self):
        cid = self.run_('sh', tty=True, stdin_open=True)
        self.client.resize(cid, height=30, width=90)
        exec_id = self.client.exec_create(cid, 'stty -F /proc/1/fd/0 size')['Id']
        self.assertEqual(self.client.exec_start(exec_id), b'30 90\n')


class HighLevelTest(EngineTest):
    def test_run(self):
        self.assertEqual(self.high.containers.run(IMAGE, 'echo hello', remove=True), b'hello\n')

    def test_run_error(self):
        with self.assertRaises(docker.errors.ContainerError) as caught:
            self.high.containers.run(IMAGE, ['sh', '-c', 'echo bad >&2; exit 3'], remove=True)
        self.assertEqual(caught.exception.exit_status, 3)
        self.assertIn(b'bad', caught.exception.stderr)

    def test_run_detached(self):
        container = self.high.containers.run(IMAGE, 'sleep 100', detach=True, name=self.name())
        self.addCleanup(self.remove, container.id)
        self.assertEqual(container.status, 'created')
        container.reload()
        self.assertEqual(container.status, 'running')
        self.assertEqual(container.exec_run('echo in'), (0, b'in\n'))
        container.stop(timeout=0)
        self.assertEqual(container.wait()['StatusCode'], 137)
        self.assertEqual(container.image.tags, ['busybox:latest'])

    def test_list_and_prune(self):
        container = self.high.containers.run(IMAGE, 'true', detach=True, labels=['gone'])
        container.wait()
        self.assertIn(container, self.high.containers.list(all=True, filters={'label': 'gone'}))
        self.high.containers.prune(filters={'label': 'gone'})
        self.assertEqual(self.high.containers.list(all=True, filters={'label': 'gone'}), [])
