<?php
require is_file('vendor/autoload.php') ? 'vendor/autoload.php' : 'PhpAmqpLib/autoload.php'; // Composer's or Debian's
use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Message\AMQPMessage;

[, $requestId, $customerId] = $argv;
['host' => $host, 'port' => $port, 'user' => $user, 'pass' => $pass, 'path' => $path] = parse_url(getenv('AMQP_URL'));
$connection = new AMQPStreamConnection($host, $port, $user, $pass, urldecode(substr($path, 1)));
$channel = $connection->channel();
$fault = null;
$channel->set_return_listener(function () use (&$fault) { $fault = 'no queue receives requests'; });
$channel->set_nack_handler(function () use (&$fault) { $fault = 'the queue refused it'; });
$channel->confirm_select();
$request = new AMQPMessage(json_encode(['customer_id' => $customerId]), [
    'message_id' => $requestId,
    'content_type' => 'application/json',
    'delivery_mode' => AMQPMessage::DELIVERY_MODE_PERSISTENT,
]);
$channel->basic_publish($request, 'trackfinity.unlock', 'request', true); // true: mandatory
$channel->wait_for_pending_acks_returns(30);
if ($fault !== null) {
    throw new RuntimeException($fault);
}
echo "published $requestId\n";
$connection->close();
