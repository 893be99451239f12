"""An application beside sumu: answers every message, and prints who comes and goes.

usage: python app.py [BROKERS]        needs: pip install confluent-kafka
"""

import json
import sys

from confluent_kafka import Consumer, KafkaException, Producer

brokers = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9092"
producer = Producer({"bootstrap.servers": brokers, "enable.idempotence": True})
consumer = Consumer({
    "bootstrap.servers": brokers,
    "group.id": "example-python",
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
    "isolation.level": "read_committed",
})
consumer.subscribe(["sumu.messages.send", "sumu.presence"])


def delivered(error, _record):
    if error:
        raise KafkaException(error)  # not committed, so the message comes again


def notify(user, data):
    request = json.dumps({"users": [user], "data": data})
    producer.produce("sumu.notifications", key=user, value=request, on_delivery=delivered)
    producer.flush()


while True:
    record = consumer.poll(1)
    if record is None:
        continue
    if record.error():
        raise KafkaException(record.error())
    user, value = record.key().decode(), json.loads(record.value())
    if record.topic() == "sumu.presence":
        print(f"presence: {user} {value['message']['status']}", flush=True)
    else:
        print(f"message from {user}: {record.value().decode()}", flush=True)
        notify(user, {"from": "python", "heard": value})
    consumer.commit(record, asynchronous=False)
