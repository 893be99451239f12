"""Forwards what clients `send` to an HTTP webhook, at least once. What it refuses too often becomes a dead letter.

usage: python webhook.py URL [BROKERS]        needs: pip install confluent-kafka
"""

import sys
import time
from http.client import HTTPException
from urllib.parse import quote
from urllib.request import Request, urlopen

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

ATTEMPTS, PAUSE, TIMEOUT = 4, 0.1, 10  # seconds; each pause is twice the one before
DEAD_LETTERS = "webhook.dead-letters"

url = sys.argv[1]
servers = {"bootstrap.servers": sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:9092"}
admin = AdminClient(servers)
if DEAD_LETTERS not in admin.list_topics(timeout=30).topics:
    admin.create_topics([NewTopic(DEAD_LETTERS, 1)])[DEAD_LETTERS].result()
producer = Producer(servers | {"enable.idempotence": True})
reading = {"group.id": "example-webhook", "auto.offset.reset": "earliest", "enable.auto.commit": False}
consumer = Consumer(servers | reading)
consumer.subscribe(["sumu.messages.send"])


def buried(error, _record):
    if error:
        raise KafkaException(error)


def forward(record):
    user = dict(record.headers())["user_id"].decode()
    position = f"{record.topic()}-{record.partition()}-{record.offset()}"  # tells doubles apart
    headers = {"content-type": "application/json", "x-user-id": quote(user), "idempotency-key": position}
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE * 2**attempt if attempt else 0)
        try:
            urlopen(Request(url, record.value(), headers), timeout=TIMEOUT).close()
            print(f"forwarded {user}: {record.value().decode()}", flush=True)
            return
        except (OSError, HTTPException) as error:  # a status of 400 or more, too
            reason = str(error)
    headers = [*record.headers(), ("dead_letter_reason", reason.encode())]
    producer.produce(DEAD_LETTERS, record.value(), record.key(), headers=headers, on_delivery=buried)
    producer.flush()
    print(f"dead letter of {user}: {reason}", flush=True)


while True:
    record = consumer.poll(1)
    if record is None:
        continue
    if record.error():
        raise KafkaException(record.error())
    forward(record)
    consumer.commit(record, asynchronous=False)
