"""Publish/subscribe: every group hears each message that clients `publish`. Run one for each service.

usage: python subscriber.py GROUP [BROKERS]        needs: pip install confluent-kafka
"""

import sys

from confluent_kafka import Consumer, KafkaException

group = sys.argv[1]
brokers = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:9092"
consumer = Consumer({
    "bootstrap.servers": brokers,
    "group.id": group,
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
})
consumer.subscribe(["sumu.messages.publish"])

while True:
    record = consumer.poll(1)
    if record is None:
        continue
    if record.error():
        raise KafkaException(record.error())
    print(f"{group} heard {record.key().decode()}: {record.value().decode()}", flush=True)
    consumer.commit(record, asynchronous=False)
