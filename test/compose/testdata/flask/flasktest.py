import os
import signal
import socket
import sys

from flask import Flask

app = Flask(__name__)


@app.route("/")
def hello():
    return f"{os.environ['GREETING']}, {os.environ.get('WHO', 'nobody')}, from {socket.gethostname()}\n"


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
app.run(host="0.0.0.0", port=8080)
