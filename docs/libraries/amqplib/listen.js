import amqp from 'amqplib';

const queue = 'trackfinity.outcomes.shop';
const seen = new Set(); // in production a table
const channel = await (await amqp.connect(process.env.AMQP_URL)).createChannel();
await channel.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'quorum' } });
await channel.bindQueue(queue, 'trackfinity.unlock.results', 'unlock.#');
await channel.prefetch(10);
await channel.consume(queue, (message) => {
  if (!seen.has(message.properties.messageId)) {
    const outcome = JSON.parse(message.content);
    console.log(outcome.request_id, outcome.status);
    seen.add(message.properties.messageId);
  }
  channel.ack(message);
});
