"""Tells every open page who comes and goes: presence in, a broadcast out. The pages in browser/ show it.

usage: python who_is_online.py [BROKERS]        needs: pip install confluent-kafka
"""

import json
import sys

from confluent_kafka import Consumer, KafkaException, Producer

brokers = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9092"
producer = Producer({"bootstrap.servers": brokers, "enable.idempotence": True})
consumer = Consumer({
    "bootstrap.servers": brokers,
    "group.id": "example-who-is-online",
    "auto.offset.reset": "earliest",
    "isolation.level": "read_committed",
})
consumer.subscribe(["sumu.presence"])

while True:
    record = consumer.poll(1)
    if record is None:
        continue
    if record.error():
        raise KafkaException(record.error())
    event = json.loads(record.value())["message"]
    data = {"presence": {"user": event["user_id"], "status": event["status"]}}
    # One key for each user: their events share a partition, and stay in order.
    producer.produce("sumu.notifications", key=event["user_id"], value=json.dumps({"data": data}))
    producer.flush()
    print(f"told everybody: {event['user_id']} {event['status']}", flush=True)
