import os
import socket

from flask import Flask

app = Flask(__name__)


@app.route("/")
def hello():
    return f"{os.environ.get('GREETING', 'Hello')} from {socket.gethostname()}\n"


app.run(host="0.0.0.0", port=8080)
