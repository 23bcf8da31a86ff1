using System.Text.Json;
using RabbitMQ.Client;

var factory = new ConnectionFactory { Uri = new Uri(Environment.GetEnvironmentVariable("AMQP_URL")!) };
await using var connection = await factory.CreateConnectionAsync();
await using var channel = await connection.CreateChannelAsync(new CreateChannelOptions(
    publisherConfirmationsEnabled: true, publisherConfirmationTrackingEnabled: true));
var properties = new BasicProperties { MessageId = args[0], ContentType = "application/json", Persistent = true };
var body = JsonSerializer.SerializeToUtf8Bytes(new { customer_id = args[1] });
using var timeout = new CancellationTokenSource(TimeSpan.FromSeconds(30));
// Throws PublishReturnException if no queue receives it, PublishException if the queue refuses it.
await channel.BasicPublishAsync("trackfinity.unlock", "request", mandatory: true, properties, body, timeout.Token);
Console.WriteLine($"published {args[0]}");
