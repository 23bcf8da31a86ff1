// Asks for a customer to be unlocked, and prints the outcome: node publish.js CUSTOMER_ID
import { randomBytes, randomUUID } from 'node:crypto';
import process from 'node:process';
import amqp from 'amqplib';

const REPLIES = 'amq.rabbitmq.reply-to'; // RabbitMQ's own: the outcome comes back on this channel
const TIMEOUT_MS = 30_000;

const customerId = process.argv[2];
const connection = await amqp.connect(process.env.AMQP_URL);
const channel = await connection.createConfirmChannel();

// A request that no queue receives is returned, and then confirmed like any other.
const returned = new Set();
channel.on('return', (message) => returned.add(message.properties.messageId));

// RabbitMQ wants the consumer first, then the request that names it.
const outcome = new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error(`no outcome within ${TIMEOUT_MS} ms`)), TIMEOUT_MS).unref();
  channel.consume(REPLIES, (message) => resolve(JSON.parse(message.content)), { noAck: true }).catch(reject);
});

// Keep the id with what it is for, and send the same one again after a doubt: repeats can be told by it.
const messageId = randomUUID();
// With OpenTelemetry: propagation.inject(context.active(), headers).
const headers = { traceparent: `00-${randomBytes(16).toString('hex')}-${randomBytes(8).toString('hex')}-01` };
channel.publish('trackfinity.unlock', 'request', Buffer.from(JSON.stringify({ customer_id: customerId })), {
  messageId,
  contentType: 'application/json',
  persistent: true,
  mandatory: true,
  replyTo: REPLIES,
  headers,
});
await channel.waitForConfirms(); // throws if the queue refused it
if (returned.has(messageId)) throw new Error('not published: no queue receives requests');
console.error(`published ${messageId}`);

const { status, ...rest } = await outcome;
console.log(JSON.stringify({ status, ...rest }));
await connection.close();
process.exitCode = status === 'unlocked' ? 0 : 1;
