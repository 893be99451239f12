import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeSet;
import java.util.function.BooleanSupplier;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Does with Apache Kafka's own client what applications do, against a broker with nothing in it. Prints what was
 * done; fails otherwise. Usage: java -cp "JARS/*" Client.java BROKER
 */
public final class Client {
  static final TopicPartition FIRST = new TopicPartition("t", 0);
  static final Duration POLL = Duration.ofMillis(100);
  static String broker;
  static Admin admin;

  public static void main(String[] args) throws Exception {
    broker = args[0];
    try (Admin opened = Admin.create(with())) {
      admin = opened;
      administers();
      produces();
      transacts();
      consumes();
      deletes();
    }
  }

  static Properties with(Object... settings) {
    Properties all = new Properties();
    all.put("bootstrap.servers", broker);
    for (int i = 0; i < settings.length; i += 2) all.put(settings[i], settings[i + 1]);
    return all;
  }

  static void administers() throws Exception {
    NewTopic topic = new NewTopic("t", 3, (short) 1).configs(Map.of("message.timestamp.type", "LogAppendTime"));
    admin.createTopics(List.of(topic)).all().get();
    check(admin.describeTopics(List.of("t")).allTopicNames().get().get("t").partitions().size() == 3);
    check(admin.describeCluster().nodes().get().size() == 1);
    admin.createPartitions(Map.of("t", NewPartitions.increaseTo(4))).all().get();
    ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, "t");
    AlterConfigOp longer = new AlterConfigOp(new ConfigEntry("retention.ms", "3600000"), AlterConfigOp.OpType.SET);
    admin.incrementalAlterConfigs(Map.of(resource, List.of(longer))).all().get();
    var config = admin.describeConfigs(List.of(resource)).all().get().get(resource);
    check(config.get("retention.ms").value().equals("3600000"));
    check(config.get("message.timestamp.type").value().equals("LogAppendTime"));
    System.out.println("administers");
  }

  static void produces() throws Exception {
    long offset = 0;
    for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
      try (var producer = producer("compression.type", codec)) {
        List<Header> headers = List.of(new RecordHeader("user_id", "ada".getBytes()));
        var record = new ProducerRecord<>("t", 0, "k", codec, headers);
        check(producer.send(record).get().offset() == offset++);
      }
    }
    check(admin.listOffsets(Map.of(FIRST, OffsetSpec.latest())).all().get().get(FIRST).offset() == 5);
    check(admin.listOffsets(Map.of(FIRST, OffsetSpec.maxTimestamp())).all().get().get(FIRST).offset() == 4);
    System.out.println("produces");
  }

  static void transacts() throws Exception {
    try (var producer = producer("transactional.id", "x"); var consumer = consumer("g")) {
      producer.initTransactions();
      for (String end : List.of("aborted", "committed")) {
        producer.beginTransaction();
        producer.send(new ProducerRecord<>("t", 1, null, end)).get();
        long next = end.equals("committed") ? 1 : 3;
        producer.sendOffsetsToTransaction(Map.of(FIRST, new OffsetAndMetadata(next)), consumer.groupMetadata());
        if (end.equals("committed")) producer.commitTransaction();
        else producer.abortTransaction();
      }
    }
    var offsets = admin.listConsumerGroupOffsets("g").partitionsToOffsetAndMetadata().get();
    check(offsets.get(FIRST).offset() == 1);
    System.out.println("transacts");
  }

  /** Two members share a group; the one that stays takes over what the other leaves. */
  static void consumes() throws Exception {
    Set<String> seen = new TreeSet<>();
    try (var stays = consumer("g")) {
      stays.subscribe(List.of("t"));
      try (var leaves = consumer("g")) {
        leaves.subscribe(List.of("t"));
        until(() -> {
          for (var consumer : List.of(stays, leaves)) keep(consumer, seen);
          return stays.assignment().size() == 2 && leaves.assignment().size() == 2 && seen.size() >= 5;
        });
        var group = admin.describeConsumerGroups(List.of("g")).all().get().get("g");
        check(group.members().size() == 2);
        leaves.commitSync();
        stays.commitSync();
      }
      until(() -> {
        keep(stays, seen);
        return stays.assignment().size() == 4;
      });
      check(stays.committed(Set.of(FIRST)).get(FIRST).offset() == 5);
      check(stays.offsetsForTimes(Map.of(FIRST, 0L)).get(FIRST).offset() == 0);
      check(stays.endOffsets(Set.of(FIRST)).get(FIRST) == 5);
    }
    // The first one was committed in the transaction, the aborted one is never seen.
    check(seen.equals(Set.of("0-1 gzip ada", "0-2 snappy ada", "0-3 lz4 ada", "0-4 zstd ada", "1-2 committed")), seen);
    System.out.println("consumes");
  }

  static void keep(KafkaConsumer<String, String> consumer, Set<String> seen) {
    for (ConsumerRecord<String, String> record : consumer.poll(POLL)) {
      var header = record.headers().lastHeader("user_id");
      String user = header == null ? "" : " " + new String(header.value());
      seen.add(record.partition() + "-" + record.offset() + " " + record.value() + user);
    }
  }

  static void deletes() throws Exception {
    admin.deleteRecords(Map.of(FIRST, RecordsToDelete.beforeOffset(2))).all().get();
    check(admin.listOffsets(Map.of(FIRST, OffsetSpec.earliest())).all().get().get(FIRST).offset() == 2);
    check(admin.listGroups().all().get().stream().anyMatch(group -> group.groupId().equals("g")));
    admin.alterConsumerGroupOffsets("g", Map.of(FIRST, new OffsetAndMetadata(2))).all().get();
    admin.deleteConsumerGroups(List.of("g")).all().get();
    admin.deleteTopics(List.of("t")).all().get();
    check(!admin.listTopics().names().get().contains("t"));
    System.out.println("deletes");
  }

  static KafkaProducer<String, String> producer(Object... settings) {
    return new KafkaProducer<>(with(settings), new StringSerializer(), new StringSerializer());
  }

  static KafkaConsumer<String, String> consumer(String group) {
    Properties settings = with(
        "group.id", group, "auto.offset.reset", "earliest", "enable.auto.commit", false,
        "isolation.level", "read_committed", "session.timeout.ms", 6000,
        "partition.assignment.strategy", CooperativeStickyAssignor.class.getName());
    return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
  }

  static void until(BooleanSupplier condition) {
    long end = System.nanoTime() + Duration.ofSeconds(60).toNanos();
    while (!condition.getAsBoolean()) check(System.nanoTime() < end, "not within a minute");
  }

  static void check(boolean holds, Object... why) {
    if (!holds) throw new AssertionError(List.of(why).toString());
  }
}
