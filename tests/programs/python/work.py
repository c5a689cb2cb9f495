# Works through C extensions, as often as it is told to: a line for each time. The first argument is
# a folder with the extension of extension.c.

import json
import pickle
import sqlite3
import sys
import zlib

sys.path.insert(0, sys.argv[1])
import extension

kept = []


def work():
    rows = [{"id": i, "name": "name %d" % i * 100, "tags": list(range(50))} for i in range(50)]
    text = json.dumps(rows, indent=1)
    kept.append(json.loads(text))
    kept.append(pickle.loads(pickle.dumps(rows)))
    kept.append(zlib.decompress(zlib.compress(text.encode())))
    base = sqlite3.connect(":memory:")
    base.execute("create table rows (id integer primary key, name text)")
    base.executemany("insert into rows values (:id, :name)", rows)
    kept.append(base.execute("select name, count(*) from rows group by name").fetchall())
    base.close()
    for size in range(1000, 1300):
        extension.forget(size)
        extension.call_back(lambda: kept.append(bytes(size)))


print("ready", flush=True)
for line in sys.stdin:
    work()
    print("done", flush=True)
