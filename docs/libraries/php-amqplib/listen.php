<?php
require is_file('vendor/autoload.php') ? 'vendor/autoload.php' : 'PhpAmqpLib/autoload.php'; // Composer's or Debian's
use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Message\AMQPMessage;
use PhpAmqpLib\Wire\AMQPTable;

['host' => $host, 'port' => $port, 'user' => $user, 'pass' => $pass, 'path' => $path] = parse_url(getenv('AMQP_URL'));
$connection = new AMQPStreamConnection($host, $port, $user, $pass, urldecode(substr($path, 1)));
$channel = $connection->channel();
$queue = 'trackfinity.outcomes.shop';
$channel->queue_declare($queue, false, true, false, false, false, new AMQPTable(['x-queue-type' => 'quorum'])); // durable
$channel->queue_bind($queue, 'trackfinity.unlock.results', 'unlock.#');
$channel->basic_qos(0, 10, false);
$seen = []; // in production a table
$handle = function (AMQPMessage $message) use (&$seen) {
    if (!isset($seen[$message->get('message_id')])) {
        $outcome = json_decode($message->getBody(), true, flags: JSON_THROW_ON_ERROR);
        echo $outcome['request_id'], ' ', $outcome['status'], "\n";
        $seen[$message->get('message_id')] = true;
    }
    $message->ack();
};
$channel->basic_consume($queue, '', false, false, false, false, $handle); // no_ack is false
while ($channel->is_consuming()) {
    $channel->wait();
}
