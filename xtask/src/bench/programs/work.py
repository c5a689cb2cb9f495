"""Works on plain data with the standard library all the time, and says how far it got.

    program:   ready
    driver:    a line
    program:   ROUNDS WALL CPU 0    so far; nanoseconds by the clock, and of the process
    driver:    end of input         the end
"""

import json
import re
import sys
import threading
import time

done = 0
ended = False


def documents(number):
    """A list of records with strings, lists and numbers in them."""
    return [
        {
            "id": number * 100 + i,
            "name": f"user-{number}-{i}",
            "tags": [f"tag{j}" for j in range(i % 7)],
            "text": "lorem ipsum dolor sit amet " * (1 + i % 40),
            "scores": {str(j): j * 1.5 for j in range(5)},
        }
        for i in range(100)
    ]


def one_round(number):
    """Builds, serialises, parses, searches and sorts."""
    text = json.dumps(documents(number))
    parsed = json.loads(text)
    words = {}
    for document in parsed:
        for word in re.findall(r"\w+", document["text"]):
            words[word] = words.get(word, 0) + 1
    parsed.sort(key=lambda document: document["name"])
    lines = [f"{document['id']}: {document['name']}" for document in parsed]
    return len(words) + len("\n".join(lines).encode())


def work():
    """Until the driver ends its input."""
    global done
    while not ended:
        one_round(done % 1000)
        done += 1


start = time.monotonic_ns()
worker = threading.Thread(target=work)
worker.start()
print("ready", flush=True)
for _ in sys.stdin:
    print(done, time.monotonic_ns() - start, time.process_time_ns(), 0, flush=True)
ended = True
worker.join()
