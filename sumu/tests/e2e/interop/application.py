"""An application beside sumu: one user's socket, a producer of notifications, consumers of messages and presence.

usage: application.py BROKERS SOCKET_URL. Prints one line for each thing that happens.
"""

import json
import sys
import time

from confluent_kafka import Consumer, Producer
from websockets.sync.client import connect

brokers, url = sys.argv[1:]


def consumer(group: str, topic: str) -> Consumer:
    settings = {"bootstrap.servers": brokers, "group.id": group, "auto.offset.reset": "earliest"}
    subscribed = Consumer(settings)  # isolation.level is read_committed by default
    subscribed.subscribe([topic])
    return subscribed


def record(source: Consumer):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        message = source.poll(1)
        if message is not None and not message.error():
            return message
    sys.exit("no record within a minute")


messages = consumer("python-worker", "sumu.messages.send")
presence = consumer("python-watcher", "sumu.presence")

with connect(url) as socket:
    producer = Producer({"bootstrap.servers": brokers})
    producer.produce("sumu.notifications", json.dumps({"users": ["paula"], "data": {"from": "python"}}))
    producer.flush()
    print("received", socket.recv(timeout=60), flush=True)

    socket.send(json.dumps({"action": "send", "message": {"hi": 1}}))
    message = record(messages)
    sender = dict(message.headers())["user_id"].decode()
    print("consumed", message.value().decode(), "from", sender, flush=True)

for _ in range(2):
    event = json.loads(record(presence).value())["message"]
    print("presence", event["user_id"], event["status"], flush=True)
