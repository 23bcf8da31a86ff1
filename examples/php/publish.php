<?php

// Requests the unlocking of a customer, and prints the outcome: php publish.php CUSTOMER_ID

declare(strict_types=1);

// Packages from Composer, or Debian's php-amqplib.
require is_file(__DIR__ . '/vendor/autoload.php') ? __DIR__ . '/vendor/autoload.php' : 'PhpAmqpLib/autoload.php';

use PhpAmqpLib\Connection\AMQPConnectionConfig;
use PhpAmqpLib\Connection\AMQPConnectionFactory;
use PhpAmqpLib\Message\AMQPMessage;
use PhpAmqpLib\Wire\AMQPTable;

const REPLIES = 'amq.rabbitmq.reply-to'; // direct reply-to: RabbitMQ sends the outcome back on this channel
const TIMEOUT = 30; // seconds

$customerId = $argv[1];

$url = parse_url(getenv('AMQP_URL'));
$secure = $url['scheme'] === 'amqps';
$config = new AMQPConnectionConfig();
$config->setHost($url['host']);
$config->setPort($url['port'] ?? ($secure ? 5671 : 5672));
$config->setUser(urldecode($url['user'] ?? 'guest'));
$config->setPassword(urldecode($url['pass'] ?? 'guest'));
$config->setVhost(urldecode(substr($url['path'] ?? '', 1)) ?: '/');
$config->setIsSecure($secure);
$connection = AMQPConnectionFactory::create($config);
$channel = $connection->channel();

// RabbitMQ returns a request that no queue receives, and then confirms it like any other.
$fault = null;
$channel->set_return_listener(function () use (&$fault): void {
    $fault = 'no queue receives requests';
});
$channel->set_nack_handler(function () use (&$fault): void {
    $fault = 'the queue refused it';
});
$channel->confirm_select();

// Direct reply-to: consume first, then publish the request that names this queue.
$outcome = null;
$channel->basic_consume(REPLIES, '', false, true, false, false, function (AMQPMessage $reply) use (&$outcome): void {
    $outcome = json_decode($reply->getBody(), true, flags: JSON_THROW_ON_ERROR);
});

// Store the id before you publish. If you do not know whether RabbitMQ has the request, send it again with this id.
$messageId = bin2hex(random_bytes(16));
$request = new AMQPMessage(json_encode(['customer_id' => $customerId], JSON_THROW_ON_ERROR), [
    'message_id' => $messageId,
    'content_type' => 'application/json',
    'delivery_mode' => AMQPMessage::DELIVERY_MODE_PERSISTENT,
    'reply_to' => REPLIES,
    // With OpenTelemetry: TraceContextPropagator writes this header.
    'application_headers' => new AMQPTable([
        'traceparent' => sprintf('00-%s-%s-01', bin2hex(random_bytes(16)), bin2hex(random_bytes(8))),
    ]),
]);
$channel->basic_publish($request, 'trackfinity.unlock', 'request', mandatory: true);
$channel->wait_for_pending_acks_returns(TIMEOUT);
if ($fault !== null) {
    fwrite(STDERR, "not published: $fault\n");
    exit(1);
}
fwrite(STDERR, "published $messageId\n");

while ($outcome === null) {
    $channel->wait(timeout: TIMEOUT); // throws AMQPTimeoutException
}
echo json_encode($outcome, JSON_THROW_ON_ERROR), "\n";
$connection->close();
exit($outcome['status'] === 'unlocked' ? 0 : 1);
