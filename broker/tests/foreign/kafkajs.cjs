// Does with KafkaJS what applications do, against a broker with nothing in it. Prints what was done; fails otherwise.
//
// usage: NODE_PATH=…/node_modules node kafkajs.cjs BROKER

const assert = require("node:assert/strict");
const { CompressionTypes, ConfigResourceTypes, Kafka, logLevel, Partitioners } = require("kafkajs");

const kafka = new Kafka({ clientId: "conformance", brokers: [process.argv[2]], logLevel: logLevel.NOTHING });
const createPartitioner = Partitioners.DefaultPartitioner;
const admin = kafka.admin();
const done = (what) => console.log(what);

async function administers() {
  const configEntries = [{ name: "message.timestamp.type", value: "LogAppendTime" }];
  assert(await admin.createTopics({ topics: [{ topic: "t", numPartitions: 3, configEntries }] }));
  assert(!(await admin.createTopics({ topics: [{ topic: "t" }] })), "it is there");
  const { topics } = await admin.fetchTopicMetadata({ topics: ["t"] });
  assert.equal(topics[0].partitions.length, 3);
  await admin.createPartitions({ topicPartitions: [{ topic: "t", count: 4 }] });
  const resources = [{ type: ConfigResourceTypes.TOPIC, name: "t", configNames: ["message.timestamp.type"] }];
  const described = await admin.describeConfigs({ resources, includeSynonyms: false });
  assert.equal(described.resources[0].configEntries[0].configValue, "LogAppendTime");
  const altered = [{ ...resources[0], configEntries: [{ name: "retention.ms", value: "3600000" }] }];
  await admin.alterConfigs({ resources: altered });
  const cluster = await admin.describeCluster();
  assert.equal(cluster.brokers.length, 1);
  done("administers");
}

async function produces() {
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1, createPartitioner });
  await producer.connect();
  const messages = [{ key: "k", value: "plain", partition: 0, headers: { user_id: "ada" } }];
  await producer.send({ topic: "t", messages });
  const zipped = [1, 2, 3].map((n) => ({ value: `zipped ${n}`, partition: 0 }));
  const [{ baseOffset }] = await producer.send({ topic: "t", compression: CompressionTypes.GZIP, messages: zipped });
  assert.equal(baseOffset, "1");
  await producer.send({ topic: "t", messages: [{ key: "k", value: null, partition: 1 }] });
  await producer.disconnect();
  const ends = await admin.fetchTopicOffsets("t");
  assert.equal(ends.find(({ partition }) => partition === 0).high, "4");
  const byTime = await admin.fetchTopicOffsetsByTimestamp("t", 0);
  assert.equal(byTime.find(({ partition }) => partition === 0).offset, "0");
  done("produces");
}

async function transacts() {
  const producer = kafka.producer({ transactionalId: "x", idempotent: true, maxInFlightRequests: 1, createPartitioner });
  await producer.connect();
  for (const [value, end] of [["aborted", "abort"], ["committed", "commit"]]) {
    const transaction = await producer.transaction();
    await transaction.send({ topic: "t", messages: [{ value, partition: 2 }] });
    const topics = [{ topic: "t", partitions: [{ partition: 0, offset: end === "commit" ? "1" : "3" }] }];
    await transaction.sendOffsets({ consumerGroupId: "g", topics });
    await transaction[end]();
  }
  await producer.disconnect();
  const [{ partitions }] = await admin.fetchOffsets({ groupId: "g", topics: ["t"] });
  assert.equal(partitions.find(({ partition }) => partition === 0).offset, "1");
  done("transacts");
}

/** Two members share a group; the one that stays takes over what the other leaves. */
async function consumes() {
  const seen = [];
  const member = async () => {
    const consumer = kafka.consumer({ groupId: "g", sessionTimeout: 6_000, heartbeatInterval: 300, maxWaitTimeInMs: 200 });
    await consumer.connect();
    await consumer.subscribe({ topics: ["t"], fromBeginning: true });
    const joined = new Promise((resolve) => consumer.on(consumer.events.GROUP_JOIN, resolve));
    await consumer.run({ eachMessage: async ({ partition, message }) => { seen.push({ partition, ...message }); } });
    await joined;
    return consumer;
  };
  const first = await member();
  const second = await member();
  await until(() => seen.length >= 5);
  const [{ members, state }] = (await admin.describeGroups(["g"])).groups;
  assert.deepEqual([members.length, state], [2, "Stable"]);
  await first.disconnect();
  const producer = kafka.producer({ createPartitioner });
  await producer.connect();
  const late = [0, 1, 2, 3].map((partition) => ({ value: "late", partition }));
  await producer.send({ topic: "t", messages: late });
  await producer.disconnect();
  const values = () => new Set(seen.map(({ partition, offset, value }) => `${partition}-${offset} ${value}`));
  await until(() => [...values()].filter((value) => value.endsWith("late")).length === 4);
  await second.disconnect();
  const early = [...values()].filter((value) => !value.endsWith("late")).sort();
  // The first one was committed in the transaction, the aborted one is never seen.
  assert.deepEqual(early, ["0-1 zipped 1", "0-2 zipped 2", "0-3 zipped 3", "1-0 null", "2-2 committed"]);
  await admin.setOffsets({ groupId: "g", topic: "t", partitions: [{ partition: 0, offset: "0" }] });
  const consumer = await member();
  await until(() => seen.some(({ value }) => value?.toString() === "plain"));
  const plain = seen.find(({ value }) => value?.toString() === "plain");
  assert.deepEqual([plain.key.toString(), plain.headers.user_id.toString()], ["k", "ada"]);
  await consumer.disconnect();
  done("consumes");
}

async function deletes() {
  await admin.deleteTopicRecords({ topic: "t", partitions: [{ partition: 0, offset: "2" }] });
  const [{ low }] = (await admin.fetchTopicOffsets("t")).filter(({ partition }) => partition === 0);
  assert.equal(low, "2");
  assert((await admin.listGroups()).groups.some(({ groupId }) => groupId === "g"));
  await admin.deleteGroups(["g"]);
  await admin.deleteTopics({ topics: ["t"] });
  assert(!(await admin.listTopics()).includes("t"));
  done("deletes");
}

async function until(condition) {
  for (const end = Date.now() + 60_000; !condition(); ) {
    assert(Date.now() < end, `not within a minute: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

(async () => {
  await admin.connect();
  for (const step of [administers, produces, transacts, consumes, deletes]) await step();
  await admin.disconnect();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
