import os, sys
from celery import Celery

app = Celery(broker=os.environ["AMQP_URL"])
app.conf.broker_transport_options = {"confirm_publish": True}


def request_unlock(request_id, customer_id):
    """Call this from your tasks. Not send_task: its body is Celery's own."""
    with app.pool.acquire(block=True) as connection:
        connection.Producer().publish(  # raises ChannelError if no queue receives it
            {"customer_id": customer_id}, exchange="trackfinity.unlock", routing_key="request",
            message_id=request_id, mandatory=True, serializer="json", timeout=30,
        )  # fmt: skip


request_unlock(*sys.argv[1:])
print(f"published {sys.argv[1]}")
