import json, os, sys
from proton import Message
from proton.utils import BlockingConnection

request_id, customer_id = sys.argv[1:]
connection = BlockingConnection(os.environ["AMQP_URL"], virtual_host=os.environ["AMQP_HOST"], allowed_mechs="PLAIN")
sender = connection.create_sender("/exchange/trackfinity.unlock/request")
request = Message(
    id=request_id, content_type="application/json", durable=True,
    body=json.dumps({"customer_id": customer_id}).encode(), inferred=True,  # inferred: a data section
)  # fmt: skip
sender.send(request, timeout=30)  # raises SendException unless RabbitMQ accepts it
print(f"published {request_id}")
connection.close()
