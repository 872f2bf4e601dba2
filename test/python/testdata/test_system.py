"""The engine itself: version, info, ping, events, errors."""
import time

import docker
from docker.errors import APIError, NotFound

from engine import EngineTest


class SystemTest(EngineTest):
    def test_version(self):
        version = self.client.version()
        for key in ('GoVersion', 'Version', 'ApiVersion', 'MinAPIVersion', 'Os', 'Arch', 'KernelVersion', 'Components'):
            self.assertIn(key, version)
        self.assertEqual(version['Os'], 'linux')

    def test_info(self):
        info = self.client.info()
        for key in ('Containers', 'Images', 'Driver', 'DriverStatus', 'MemTotal', 'NCPU', 'Name', 'ID', 'ServerVersion', 'SecurityOptions', 'Runtimes', 'Swarm', 'Warnings'):
            self.assertIn(key, info)

    def test_ping(self):
        self.assertTrue(self.client.ping())

    def test_events(self):
        since = time.time() - 1
        cid = self.run_('true', labels={'ev': 'x'})
        self.client.wait(cid)
        self.client.remove_container(cid)
        events = list(self.client.events(since=since, until=time.time() + 1, decode=True, filters={'label': 'ev=x', 'type': 'container'}))
        actions = [e['Action'] for e in events]
        self.assertEqual([a for a in actions if a != 'attach'], ['create', 'start', 'die', 'destroy'])
        for e in events:
            self.assertEqual((e['Type'], e['id'], e['status'], e['from']), ('container', cid, e['Action'], 'busybox'))
            self.assertEqual(e['Actor']['ID'], cid)
            self.assertGreater(e['timeNano'], 0)
        self.assertEqual(events[actions.index('die')]['Actor']['Attributes']['exitCode'], '0')

    def test_live_events(self):
        watch = self.client.events(decode=True, filters={'event': 'create'})
        cid = self.create('true')
        self.assertEqual(next(watch)['id'], cid)
        watch.close()

    def test_errors(self):
        with self.assertRaises(NotFound) as caught:
            self.client.inspect_container('nosuchcontainer')
        self.assertEqual(caught.exception.response.json(), {'message': 'No such container: nosuchcontainer'})
        with self.assertRaises(APIError) as caught:
            self.create('true', host_config=self.host(mem_limit='1m'))
        self.assertEqual(caught.exception.response.status_code, 400)
        self.assertIn('Minimum memory limit allowed is', caught.exception.explanation)

    def test_too_new(self):
        client = docker.APIClient(base_url=self.client._custom_adapter.socket_path and 'unix://' + self.client._custom_adapter.socket_path, version='9.99')
        self.addCleanup(client.close)
        with self.assertRaises(APIError) as caught:
            client.info()
        self.assertEqual(caught.exception.response.status_code, 400)
        self.assertIn('is too new', caught.exception.explanation)

    def test_networks_exist(self):
        names = [n['Name'] for n in self.client.networks()]
        for name in ('bridge', 'host', 'none'):
            self.assertIn(name, names)
