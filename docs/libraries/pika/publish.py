import json, os, sys
import pika

request_id, customer_id = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()
channel.confirm_delivery()
channel.basic_publish(  # raises UnroutableError if no queue receives it, NackError if the queue refuses it
    exchange="trackfinity.unlock",
    routing_key="request",
    body=json.dumps({"customer_id": customer_id}),
    properties=pika.BasicProperties(message_id=request_id, content_type="application/json", delivery_mode=2),
    mandatory=True,
)
print(f"published {request_id}")
connection.close()
