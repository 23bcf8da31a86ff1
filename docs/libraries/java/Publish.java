import com.rabbitmq.client.*;
import java.util.concurrent.atomic.AtomicBoolean;

class Publish {
    public static void main(String[] args) throws Exception {
        var factory = new ConnectionFactory();
        factory.setUri(System.getenv("AMQP_URL"));
        try (var connection = factory.newConnection(); var channel = connection.createChannel()) {
            channel.confirmSelect();
            var returned = new AtomicBoolean(); // a returned request is confirmed, too
            channel.addReturnListener((code, text, exchange, key, properties, body) -> returned.set(true));
            var properties = new AMQP.BasicProperties.Builder()
                .messageId(args[0]).contentType("application/json").deliveryMode(2).build();
            var body = "{\"customer_id\":\"" + args[1] + "\"}"; // in production a JSON library
            channel.basicPublish("trackfinity.unlock", "request", true, properties, body.getBytes("UTF-8")); // mandatory
            channel.waitForConfirmsOrDie(30_000);
            if (returned.get()) throw new IllegalStateException("no queue receives requests");
            System.out.println("published " + args[0]);
        }
    }
}
