"""Builds through the classic API, the only one that python3-docker speaks."""
import io
import os
import shutil
import tarfile
import tempfile

from docker.errors import APIError, BuildError, ImageNotFound

from engine import EngineTest


class BuildTest(EngineTest):
    def context(self, **files):
        path = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, path)
        for name, text in files.items():
            name = os.path.join(path, name)
            os.makedirs(os.path.dirname(name), exist_ok=True)
            with open(name, 'w') as f:
                f.write(text)
        return path

    def build(self, **kwargs):
        image, lines = self.high.images.build(rm=True, **kwargs)
        self.addCleanup(self.discard, image.id)
        return image.id, ''.join(l.get('stream', '') for l in lines)

    def discard(self, image):
        try:
            self.client.remove_image(image, force=True)
        except ImageNotFound: # two builds that made the same one
            pass

    def output(self, image, command):
        return self.high.containers.run(image, command, remove=True).decode().split('\n')[:-1]


class ContextTest(BuildTest):
    def test_excluded_dockerfile_and_dockerignore(self):
        for ignore, left in (
            ('Dockerfile\n.dockerignore\nsecret\n', ['/src/file']),
            ('.dockerignore\n', ['/src/Dockerfile', '/src/file', '/src/secret']),
            ('*\n!file\n', ['/src/file']),
            ('secret\n', ['/src/.dockerignore', '/src/Dockerfile', '/src/file']),
        ):
            with self.subTest(ignore):
                path = self.context(**{
                    'Dockerfile': 'FROM busybox\nCOPY . /src\n', '.dockerignore': ignore, 'file': 'f', 'secret': 's',
                })
                image, _ = self.build(path=path)
                self.assertEqual(sorted(self.output(image, 'find /src -type f')), left)

    def test_excluded_dockerfile_of_another_name(self):
        path = self.context(**{
            'build/my.dockerfile': 'FROM busybox\nCOPY . /src\nRUN rm /src/.dockerignore\n', '.dockerignore': 'build\n', 'file': 'f',
        })
        image, _ = self.build(path=path, dockerfile='build/my.dockerfile')
        self.assertEqual(self.output(image, 'find /src -type f'), ['/src/file'])

    def test_dockerfile_from_outside(self):
        path = self.context(**{'.dockerignore': '.dockerignore\n', 'file': 'f'})
        other = self.context(Dockerfile='FROM busybox\nCOPY . /src\n')
        image, _ = self.build(path=path, dockerfile=os.path.join(other, 'Dockerfile'))
        self.assertEqual(self.output(image, 'find /src -type f'), ['/src/file'])

    def test_bad_pattern(self):
        path = self.context(**{'Dockerfile': 'FROM busybox\nCOPY . /src\n', 'file': 'f'})
        with tempfile.TemporaryFile() as f:
            with tarfile.open(fileobj=f, mode='w') as tar:
                tar.add(path, arcname='.')
                info = tarfile.TarInfo('.dockerignore')
                info.size = 3
                tar.addfile(info, io.BytesIO(b'[a\n'))
            f.seek(0)
            if os.environ['ENGINE'] == 'dockerd': # takes such a pattern for one that matches nothing
                self.assertIn('Successfully built', self.build(fileobj=f, custom_context=True)[1])
                return
            with self.assertRaises(BuildError) as caught:
                self.build(fileobj=f, custom_context=True)
            self.assertIn('error reading .dockerignore', str(caught.exception))


class NetworkTest(BuildTest):
    def setUp(self):
        super().setUp()
        name = self.name()
        self.net = self.client.create_network(name)['Id']
        self.addCleanup(self.client.remove_network, self.net)
        self.netname = name
        target = self.run_('sleep 1000')
        self.addCleanup(self.remove, target)
        self.client.connect_container_to_network(target, self.net, aliases=['target.build'])

    def dockerfile(self, *run):
        # The name makes it a step that no cache has.
        return io.BytesIO(('FROM busybox\n' + ''.join('RUN : %s; %s\n' % (self.netname, r) for r in run)).encode())

    def test_of_its_own(self):
        for mode in (self.net, self.netname):
            self.build(fileobj=self.dockerfile('ping -c1 -w5 target.build'), network_mode=mode, nocache=True)
        image, _ = self.build(fileobj=self.dockerfile('cat /etc/resolv.conf /etc/hosts > /seen'), network_mode=self.net)
        seen = self.output(image, 'cat /seen')
        self.assertIn('nameserver 127.0.0.11', seen)
        self.assertFalse([line for line in seen if 'wherry' in line])
        self.assertEqual(len(self.client.inspect_network(self.net)['Containers']), 1) # the steps have left

    def test_none_and_the_default_one(self):
        for mode, seen in (('none', 'test -d /sys/class/net/eth0'), ('default', 'grep 127.0.0.11 /etc/resolv.conf')):
            with self.assertRaises(BuildError) as caught:
                self.build(fileobj=self.dockerfile(seen), network_mode=mode)
            self.assertIn('returned a non-zero code: 1', str(caught.exception))

    def test_unknown(self):
        with self.assertRaises((APIError, BuildError)) as caught: # 20.10 tells when the step runs
            self.build(fileobj=self.dockerfile('true'), network_mode='nosuchnetwork')
        self.assertIn('network nosuchnetwork not found', str(caught.exception))
