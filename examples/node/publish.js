// Requests the unlocking of a customer, and prints the outcome: node publish.js CUSTOMER_ID
import { randomBytes, randomUUID } from 'node:crypto';
import process from 'node:process';
import amqp from 'amqplib';

const REPLIES = 'amq.rabbitmq.reply-to'; // direct reply-to: RabbitMQ sends the outcome back on this channel
const TIMEOUT_MS = 30_000;

const customerId = process.argv[2];
const connection = await amqp.connect(process.env.AMQP_URL);
const channel = await connection.createConfirmChannel();

// RabbitMQ returns a request that no queue receives, and then confirms it like any other.
const returned = new Set();
channel.on('return', (message) => returned.add(message.properties.messageId));

// Direct reply-to: consume first, then publish the request that names this queue.
const outcome = new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error(`no outcome within ${TIMEOUT_MS} ms`)), TIMEOUT_MS).unref();
  channel.consume(REPLIES, (message) => resolve(JSON.parse(message.content)), { noAck: true }).catch(reject);
});

// Store the id before you publish. If you do not know whether RabbitMQ has the request, send it again with this id.
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
