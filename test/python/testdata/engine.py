"""What the tests have in common: a client and containers that go away."""
import os
import random
import unittest

import docker

IMAGE = 'busybox'


class EngineTest(unittest.TestCase):
    def setUp(self):
        self.client = docker.APIClient(base_url=os.environ['DOCKER_HOST'], version='auto', timeout=30)
        self.high = docker.DockerClient(base_url=os.environ['DOCKER_HOST'], version='auto', timeout=30)
        self.addCleanup(self.client.close)
        self.addCleanup(self.high.close)

    def name(self):
        return 'py%08x' % random.getrandbits(32)

    def create(self, command, **kwargs):
        """A container that is removed after the test; returns its id."""
        cid = self.client.create_container(IMAGE, command, **kwargs)['Id']
        self.addCleanup(self.remove, cid)
        return cid

    def run_(self, command, **kwargs):
        cid = self.create(command, **kwargs)
        self.client.start(cid)
        return cid

    def remove(self, cid):
        try:
            self.client.remove_container(cid, force=True, v=True)
        except docker.errors.NotFound:
            pass

    def host(self, **kwargs):
        return self.client.create_host_config(**kwargs)
