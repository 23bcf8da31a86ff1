import com.rabbitmq.client.*;
import java.util.HashSet;
import java.util.Map;

class Listen {
    public static void main(String[] args) throws Exception {
        var queue = "trackfinity.outcomes.shop";
        var seen = new HashSet<String>(); // in production a table
        var factory = new ConnectionFactory();
        factory.setUri(System.getenv("AMQP_URL"));
        var channel = factory.newConnection().createChannel();
        channel.queueDeclare(queue, true, false, false, Map.of("x-queue-type", "quorum")); // durable
        channel.queueBind(queue, "trackfinity.unlock.results", "unlock.#");
        channel.basicQos(10);
        channel.basicConsume(queue, false, new DefaultConsumer(channel) { // no automatic ack
            public void handleDelivery(String tag, Envelope envelope, AMQP.BasicProperties properties, byte[] body)
                    throws java.io.IOException {
                if (seen.add(properties.getMessageId())) {
                    // The status is also the end of the routing key; the body is JSON.
                    var status = envelope.getRoutingKey().substring("unlock.".length());
                    System.out.println(properties.getCorrelationId() + " " + status);
                }
                channel.basicAck(envelope.getDeliveryTag(), false);
            }
        });
    }
}
