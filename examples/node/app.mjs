// An application beside sumu: answers every message, and prints who comes and goes.
//
// usage: node app.mjs [BROKERS]        needs: npm install kafkajs

import { Kafka, logLevel, Partitioners } from "kafkajs";

const brokers = [process.argv[2] ?? "127.0.0.1:9092"];
const kafka = new Kafka({ clientId: "example-node", brokers, logLevel: logLevel.ERROR });
const producer = kafka.producer({ idempotent: true, createPartitioner: Partitioners.DefaultPartitioner });
const consumer = kafka.consumer({ groupId: "example-node" }); // reads committed records only

await producer.connect();
await consumer.connect();
await consumer.subscribe({ topics: ["sumu.messages.send", "sumu.presence"], fromBeginning: true });

const notify = (user, data) => {
  const value = JSON.stringify({ users: [user], data });
  return producer.send({ topic: "sumu.notifications", messages: [{ key: user, value }] });
};

await consumer.run({
  // What this throws at is not committed, and comes again.
  eachMessage: async ({ topic, message }) => {
    const [user, value] = [message.key.toString(), JSON.parse(message.value)];
    if (topic === "sumu.presence") {
      console.log(`presence: ${user} ${value.message.status}`);
    } else {
      console.log(`message from ${user}: ${message.value}`);
      await notify(user, { from: "node", heard: value });
    }
  },
});
