import amqp from 'amqplib';

const [requestId, customerId] = process.argv.slice(2);
const connection = await amqp.connect(process.env.AMQP_URL);
const channel = await connection.createConfirmChannel();
const returned = new Set(); // a returned request is confirmed, too
channel.on('return', (message) => returned.add(message.properties.messageId));
channel.publish('trackfinity.unlock', 'request', Buffer.from(JSON.stringify({ customer_id: customerId })), {
  messageId: requestId,
  contentType: 'application/json',
  persistent: true,
  mandatory: true,
});
await channel.waitForConfirms();
if (returned.has(requestId)) throw new Error('no queue receives requests');
console.log(`published ${requestId}`);
await connection.close();
