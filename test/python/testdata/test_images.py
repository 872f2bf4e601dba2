"""Images: load, list, tag, get, history, import, remove."""
import io
import tarfile

import docker
from docker.errors import APIError, ImageNotFound

from engine import IMAGE, EngineTest


class ImageTest(EngineTest):
    def test_images(self):
        images = self.client.images()
        mine = [i for i in images if 'busybox:latest' in (i['RepoTags'] or [])]
        self.assertEqual(len(mine), 1)
        for key in ('Id', 'Created', 'Size', 'RepoTags', 'ParentId', 'Labels'):
            self.assertIn(key, mine[0])
        self.assertEqual(self.client.images(quiet=True, name=IMAGE), [mine[0]['Id']])
        self.assertEqual(self.client.images(name='nosuchimage'), [])

    def test_inspect(self):
        image = self.client.inspect_image(IMAGE)
        self.assertEqual((image['Os'], image['RootFS']['Type'], image['Config']['Cmd']), ('linux', 'layers', ['sh']))
        with self.assertRaises(ImageNotFound) as caught:
            self.client.inspect_image('nosuchimage')
        self.assertIn('No such image: nosuchimage', caught.exception.explanation)

    def test_history(self):
        self.assertEqual(self.client.history(IMAGE)[0]['Tags'], ['busybox:latest'])

    def test_tag_and_remove(self):
        self.assertTrue(self.client.tag(IMAGE, 'localhost:5000/py/tag', 'v1'))
        self.assertIn('localhost:5000/py/tag:v1', self.client.inspect_image(IMAGE)['RepoTags'])
        answer = self.client.remove_image('localhost:5000/py/tag:v1')
        self.assertEqual(answer, [{'Untagged': 'localhost:5000/py/tag:v1'}])
        with self.assertRaises(ImageNotFound):
            self.client.remove_image('localhost:5000/py/tag:v1')

    def test_get_and_load(self):
        self.client.tag(IMAGE, 'py/saved', 'v1')
        data = b''.join(self.client.get_image('py/saved:v1'))
        names = tarfile.open(fileobj=io.BytesIO(data)).getnames()
        self.assertIn('manifest.json', names)
        self.client.remove_image('py/saved:v1')
        messages = list(self.client.load_image(data))
        self.assertIn('Loaded image: py/saved:v1\n', [m.get('stream') for m in messages])
        loaded = self.high.images.load(data)
        self.assertEqual(loaded[0].id, self.client.inspect_image('py/saved:v1')['Id'])
        self.client.remove_image('py/saved:v1')

    def test_import(self):
        buf = io.BytesIO()
        with tarfile.open(fileobj=buf, mode='w') as tar:
            info = tarfile.TarInfo('hello')
            info.size = 2
            tar.addfile(info, io.BytesIO(b'hi'))
        answer = self.client.import_image_from_data(buf.getvalue(), repository='py/imported', tag='1')
        self.assertIn('sha256:', answer)
        self.assertEqual(len(self.client.inspect_image('py/imported:1')['RootFS']['Layers']), 1)
        removed = self.client.remove_image('py/imported:1')
        self.assertEqual(removed[0], {'Untagged': 'py/imported:1'})
        self.assertTrue(all('Deleted' in r for r in removed[1:]) and len(removed) > 1)

    def test_conflict(self):
        self.client.tag(IMAGE, 'py/used', '1')
        self.create('true')
        image = self.client.inspect_image(IMAGE)['Id']
        with self.assertRaises(APIError) as caught:
            self.client.remove_image(image)
        self.assertEqual(caught.exception.response.status_code, 409)
        self.client.remove_image('py/used:1')

    def test_bad_reference(self):
        with self.assertRaises(APIError) as caught:
            self.client.tag(IMAGE, 'UPPER')
        # 20.10 took it for its own fault.
        self.assertIn(caught.exception.response.status_code, (400, 500))

    def test_high_level(self):
        image = self.high.images.get(IMAGE)
        self.assertTrue(image.tag('py/high', 'x'))
        image.reload()
        self.assertIn('py/high:x', image.tags)
        self.high.images.remove('py/high:x')
        self.assertEqual(image.history()[0]['Id'], image.id)
        self.assertIn(image, self.high.images.list())
