//DEPS org.apache.kafka:kafka-clients:4.4.0
//DEPS com.fasterxml.jackson.core:jackson-databind:2.21.7
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** An application beside sumu: answers every message, and prints who comes and goes. */
public final class App {
  public static void main(String[] args) throws Exception {
    String brokers = args.length > 0 ? args[0] : "127.0.0.1:9092";
    ObjectMapper json = new ObjectMapper();
    Map<String, Object> reading = Map.of(
        "bootstrap.servers", brokers,
        "group.id", "example-java",
        "auto.offset.reset", "earliest",
        "enable.auto.commit", false,
        "isolation.level", "read_committed");
    Map<String, Object> writing = Map.of("bootstrap.servers", brokers); // idempotent by default
    StringSerializer writer = new StringSerializer();
    StringDeserializer reader = new StringDeserializer();
    try (var producer = new KafkaProducer<>(writing, writer, writer);
        var consumer = new KafkaConsumer<>(reading, reader, reader)) {
      consumer.subscribe(List.of("sumu.messages.send", "sumu.presence"));
      while (true) {
        for (var record : consumer.poll(Duration.ofSeconds(1))) {
          var user = record.key();
          var value = json.readTree(record.value());
          if (record.topic().equals("sumu.presence")) {
            var status = value.get("message").get("status").asText();
            System.out.printf("presence: %s %s%n", user, status);
          } else {
            System.out.printf("message from %s: %s%n", user, record.value());
            var data = Map.of("from", "java", "heard", value);
            var request = json.writeValueAsString(Map.of("users", List.of(user), "data", data));
            producer.send(new ProducerRecord<>("sumu.notifications", user, request)).get();
          }
        }
        consumer.commitSync();
      }
    }
  }
}
