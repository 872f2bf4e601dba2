"""What docker-py's own integration tests rest on and that no other test here covers."""
import datetime
import os
import time
import unittest

import docker

from docker.errors import APIError

from engine import EngineTest


class ExecTest(EngineTest):
    def test_stream_is_framed_when_the_start_says_no_terminal(self):
        cid = self.run_('sleep 1000')
        for tty in (False, True):
            eid = self.client.exec_create(cid, 'echo out', tty=True)['Id']
            sock = self.client.exec_start(eid, socket=True, tty=tty)
            sock._sock.settimeout(10)
            got = b''
            while chunk := sock._sock.recv(100):
                got += chunk
            sock.close()
            if not tty:
                self.assertEqual(got[:4] + got[8:], b'\x01\0\0\0out\r\n')
            else:
                self.assertEqual(got, b'out\r\n')
        eid = self.client.exec_create(cid, ['sh', '-c', 'echo out; echo err >&2'], tty=True)['Id']
        self.assertEqual(self.client.exec_start(eid, demux=True), (b'out\r\nerr\r\n', None))


@unittest.skipIf(os.environ['ENGINE'] == 'dockerd', 'its start takes so long that the output is mostly, but not always, there')
class FirstWordsTest(EngineTest):
    def test_output_right_after_the_start(self):
        for read in (self.client.logs, lambda cid: self.client.attach(cid, stream=False, logs=True)):
            for _ in range(10):
                cid = self.run_('echo hello')
                got, answered = read(cid), time.time()
                if got == b'': # a busy machine: it has waited as long as it does
                    started = self.client.inspect_container(cid)['State']['StartedAt'][:26].rstrip('Z')
                    begun = datetime.datetime.fromisoformat(started.ljust(26, '0')).replace(tzinfo=datetime.timezone.utc)
                    self.assertGreaterEqual(answered - begun.timestamp(), 0.15)
                else:
                    self.assertEqual(got, b'hello\n')


class WaitTest(EngineTest):
    def test_exit_under_a_restart_policy(self):
        host = self.host(restart_policy={'Name': 'always'})
        cid = self.run_(['sh', '-c', 'sleep 0.2; exit 3'], host_config=host)
        self.assertEqual(self.client.wait(cid)['StatusCode'], 3)
        with self.assertRaises(APIError) as caught:
            self.client.remove_container(cid)
        self.assertRegex(caught.exception.explanation.lower(), 'stop the container before')


class CommitTest(EngineTest):
    def test_of_a_container_that_is_ending(self):
        old = docker.APIClient(base_url=os.environ['DOCKER_HOST'], version='1.41') # newer versions tell no parent
        self.addCleanup(old.close)
        for _ in range(10):
            cid = self.run_(['touch', '/test'])
            image = self.client.commit(cid)['Id']
            self.addCleanup(self.client.remove_image, image)
            self.assertEqual(old.inspect_image(image)['Parent'], self.client.inspect_image('busybox')['Id'])


    def test_older_clients_are_told_the_container(self):
        old = docker.APIClient(base_url=os.environ['DOCKER_HOST'], version='1.41')
        self.addCleanup(old.close)
        cid = self.create(['touch', '/test'], labels={'lane': 'python'})
        iid = self.client.commit(cid, changes=['EXPOSE 8000', 'CMD ["other"]'])['Id']
        self.addCleanup(self.client.remove_image, iid)
        image = old.inspect_image(iid)
        self.assertEqual(image['Container'], cid)
        self.assertEqual(image['ContainerConfig']['Image'], 'busybox')
        self.assertEqual(image['ContainerConfig']['Labels'], {'lane': 'python'})
        self.assertEqual((image['Config']['Cmd'], list(image['Config']['ExposedPorts'])), (['other'], ['8000/tcp']))
        self.assertEqual(old.inspect_image('busybox')['Container'], '')


class RuntimeTest(EngineTest):
    def test_name_of_dockers_default(self):
        self.assertIn('runc', self.client.info()['Runtimes'])
        cid = self.run_('echo hello', runtime='runc')
        self.assertEqual(self.client.wait(cid)['StatusCode'], 0)
        self.assertEqual(self.client.inspect_container(cid)['HostConfig']['Runtime'], 'runc')
        self.assertEqual(self.client.logs(cid), b'hello\n')

    def test_unknown(self):
        with self.assertRaises(APIError) as caught:
            self.create('true', runtime='nosuchruntime')
        self.assertEqual(caught.exception.response.status_code, 400)
        self.assertRegex(caught.exception.explanation, '(?i)unknown .*runtime .*nosuchruntime')


class NetworkTest(EngineTest):
    def network(self, name):
        nid = self.client.create_network(name)['Id']
        self.addCleanup(self.client.remove_network, nid)
        return nid

    def test_disconnect_twice(self):
        cid, nid = self.run_('sleep 1000'), self.network(self.name())
        self.addCleanup(self.remove, cid)
        self.client.connect_container_to_network(cid, nid)
        self.client.disconnect_container_from_network(cid, nid, force=True)
        for force in (True, False):
            with self.assertRaises(APIError):
                self.client.disconnect_container_from_network(cid, nid, force=force)

    def test_forced_disconnect_from_a_removed_network(self):
        cid, name = self.create('true'), self.name()
        nid = self.client.create_network(name)['Id']
        self.client.connect_container_to_network(cid, nid)
        self.client.remove_network(nid)
        self.client.disconnect_container_from_network(cid, name, force=True)
        self.assertNotIn(name, self.client.inspect_container(cid)['NetworkSettings']['Networks'])

    def test_name_with_a_space(self):
        nid = self.network('my network')
        self.assertEqual([n['Id'] for n in self.client.networks(names=['my network'])], [nid])

    def test_mac_address_of_a_stopped_container(self):
        cid, name = self.create('true'), self.name()
        nid = self.network(name)
        body = {'Container': cid, 'EndpointConfig': {'MacAddress': '02:42:ac:11:00:99'}}
        self.client._raise_for_status(self.client._post_json(self.client._url('/networks/{0}/connect', nid), data=body))
        self.assertEqual(self.client.inspect_container(cid)['NetworkSettings']['Networks'][name]['MacAddress'], '02:42:ac:11:00:99')


if __name__ == '__main__':
    unittest.main()
