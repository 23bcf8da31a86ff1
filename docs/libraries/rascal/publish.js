import rascal from 'rascal';

const [requestId, customerId] = process.argv.slice(2);
const broker = await rascal.BrokerAsPromised.create({
  vhosts: {
    unlock: {
      connection: process.env.AMQP_URL,
      exchanges: { 'trackfinity.unlock': { assert: false } },
      publications: { unlock: { exchange: 'trackfinity.unlock', routingKey: 'request', confirm: true, timeout: 30000 } },
    },
  },
});
broker.on('error', console.error);
const options = { messageId: requestId, contentType: 'application/json', persistent: true, mandatory: true };
const publication = await broker.publish('unlock', { customer_id: customerId }, { options });
let returned = false; // a returned request is confirmed, too
publication.on('return', () => (returned = true));
await new Promise((resolve, reject) => publication.on('success', resolve).on('error', reject));
if (returned) throw new Error('no queue receives requests');
console.log(`published ${requestId}`);
await broker.shutdown();
