"""A queue: the workers of one group share what clients `send`, in batches of up to 10. Run as many as you like.

usage: python worker.py NAME [BROKERS]        needs: pip install confluent-kafka
"""

import sys

from confluent_kafka import Consumer, KafkaException

BATCH = 10
name = sys.argv[1]
brokers = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:9092"
consumer = Consumer({
    "bootstrap.servers": brokers,
    "group.id": "example-workers",
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
    "partition.assignment.strategy": "cooperative-sticky",  # a new worker stops nobody
})


def shared(_consumer, partitions):
    if partitions:
        print(f"{name} has a share", flush=True)


def batch():
    """Waits for a message, and takes what is there besides: a window of zero."""
    first = consumer.poll(1)
    records = [first, *consumer.consume(BATCH - 1, 0)] if first else []
    for record in records:
        if record.error():
            raise KafkaException(record.error())
    return records


consumer.subscribe(["sumu.messages.send"], on_assign=shared)
while True:
    records = batch()
    if records:
        done = ", ".join(f"{record.key().decode()} {record.value().decode()}" for record in records)
        print(f"{name} did {len(records)}: {done}", flush=True)
        try:
            consumer.commit(asynchronous=False)
        except KafkaException as error:  # the partitions just moved: some of it comes again
            print(f"{name} could not commit: {error}", file=sys.stderr)
