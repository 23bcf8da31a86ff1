import rascal from 'rascal';

const queue = 'trackfinity.outcomes.shop';
const seen = new Set(); // in production a table
const broker = await rascal.BrokerAsPromised.create({
  vhosts: {
    unlock: {
      connection: process.env.AMQP_URL,
      exchanges: { 'trackfinity.unlock.results': { assert: false } },
      queues: { [queue]: { options: { arguments: { 'x-queue-type': 'quorum' } } } },
      bindings: { outcomes: { source: 'trackfinity.unlock.results', destination: queue, bindingKey: 'unlock.#' } },
      subscriptions: { outcomes: { queue, prefetch: 10 } },
    },
  },
});
broker.on('error', console.error);
const subscription = await broker.subscribe('outcomes');
subscription.on('error', console.error);
subscription.on('message', (message, outcome, ackOrNack) => {
  if (!seen.has(message.properties.messageId)) {
    console.log(outcome.request_id, outcome.status);
    seen.add(message.properties.messageId);
  }
  ackOrNack();
});
