//! Moves the leaders of queues and streams.

use crate::broker::Broker;
use crate::isolation::insist;
use crate::journal::Journal;

/// Makes the node that evaluates it the leader of every queue. A stream's leader cannot be moved before RabbitMQ 3.12:
/// there its process is ended, and RabbitMQ elects another, or the same one anew.
const MOVE: &str = "code:ensure_loaded(rabbit_stream_queue), \
    lists:foreach(fun(Q) -> catch case amqqueue:get_type(Q) of \
        rabbit_quorum_queue -> rabbit_quorum_queue:transfer_leadership(Q, node()); \
        rabbit_stream_queue -> case erlang:function_exported(rabbit_stream_queue, transfer_leadership, 2) of \
            true -> rabbit_stream_queue:transfer_leadership(Q, node()); \
            false -> exit(amqqueue:get_pid(Q), kill) end; \
        _ -> ok end end, rabbit_amqqueue:list()).";

/// All leaders move to one node.
pub async fn move_all(broker: &Broker, node: usize, journal: &Journal) {
    insist(journal, async || broker.node(node).rabbitmqctl(&["eval", MOVE]).await.map(drop)).await;
}
