import json, os
from proton.utils import BlockingConnection

seen = set()  # in production a table
connection = BlockingConnection(os.environ["AMQP_URL"], virtual_host=os.environ["AMQP_HOST"], allowed_mechs="PLAIN")
receiver = connection.create_receiver("/amq/queue/trackfinity.outcomes.shop", credit=10)
while True:
    message = receiver.receive(timeout=None)
    if message.id not in seen:
        outcome = json.loads(bytes(message.body))
        print(outcome["request_id"], outcome["status"], flush=True)
        seen.add(message.id)
    receiver.accept()
