using System.Text.Json;
using RabbitMQ.Client;
using RabbitMQ.Client.Events;

const string queue = "trackfinity.outcomes.shop";
var seen = new HashSet<string?>(); // in production a table
var factory = new ConnectionFactory { Uri = new Uri(Environment.GetEnvironmentVariable("AMQP_URL")!) };
await using var connection = await factory.CreateConnectionAsync();
await using var channel = await connection.CreateChannelAsync();
var arguments = new Dictionary<string, object?> { ["x-queue-type"] = "quorum" };
await channel.QueueDeclareAsync(queue, durable: true, exclusive: false, autoDelete: false, arguments);
await channel.QueueBindAsync(queue, "trackfinity.unlock.results", "unlock.#");
await channel.BasicQosAsync(prefetchSize: 0, prefetchCount: 10, global: false);
var consumer = new AsyncEventingBasicConsumer(channel);
consumer.ReceivedAsync += async (_, delivery) =>
{
    if (!seen.Contains(delivery.BasicProperties.MessageId))
    {
        var outcome = JsonDocument.Parse(delivery.Body).RootElement;
        Console.WriteLine($"{outcome.GetProperty("request_id")} {outcome.GetProperty("status")}");
        seen.Add(delivery.BasicProperties.MessageId);
    }
    await channel.BasicAckAsync(delivery.DeliveryTag, multiple: false);
};
await channel.BasicConsumeAsync(queue, autoAck: false, consumer);
await Task.Delay(Timeout.Infinite);
