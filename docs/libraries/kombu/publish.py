import os, sys
from kombu import Connection, Exchange

request_id, customer_id = sys.argv[1:]
exchange = Exchange("trackfinity.unlock", no_declare=True)
with Connection(os.environ["AMQP_URL"], transport_options={"confirm_publish": True}) as connection:
    producer = connection.Producer(exchange=exchange)
    producer.publish(  # raises ChannelError if no queue receives it, MessageNacked if the queue refuses it
        {"customer_id": customer_id}, routing_key="request", message_id=request_id, mandatory=True, timeout=30
    )
print(f"published {request_id}")
