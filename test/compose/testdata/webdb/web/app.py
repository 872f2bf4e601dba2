import os
import signal
import sys

import psycopg2
from flask import Flask, request

app = Flask(__name__)
with open(os.environ["DB_PASSWORD_FILE"]) as f:
    password = f.read()


def database():
    return psycopg2.connect(host=os.environ["DB_HOST"], user="app", password=password, dbname="postgres")


@app.route("/", methods=["GET", "POST"])
def notes():
    with database() as db, db.cursor() as c:
        c.execute("CREATE TABLE IF NOT EXISTS notes (id serial PRIMARY KEY, text text)")
        if request.method == "POST":
            c.execute("INSERT INTO notes (text) VALUES (%s)", (request.get_data(as_text=True),))
        c.execute("SELECT text FROM notes ORDER BY id")
        return "".join(row[0] + "\n" for row in c.fetchall())


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
app.run(host="0.0.0.0", port=8080)
