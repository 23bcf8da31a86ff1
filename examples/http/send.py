"""Sends a request to the gateway, waits, and prints the outcome: send.py CUSTOMER_ID

GATEWAY_URL is the gateway's address, such as http://127.0.0.1:8080; GATEWAY_TOKEN a token of one of its clients.
Exit code: 0 unlocked, 3 taken but its outcome is not known yet, 1 anything else.
"""

import json
import os
import random
import sys
import time
import uuid

import httpx

ATTEMPTS = 8
WAIT = 30  # seconds that the gateway waits for the outcome, at most


def send(body: dict, key: str) -> httpx.Response:
    """Sends one request, and repeats it with the same key until it is clear whether it was taken."""
    headers = {"idempotency-key": f'"{key}"', "prefer": f"wait={WAIT}"}
    if token := os.environ.get("GATEWAY_TOKEN"):
        headers["authorization"] = f"Bearer {token}"
    with httpx.Client(base_url=os.environ["GATEWAY_URL"], headers=headers, timeout=WAIT + 10) as client:
        for attempt in range(1, ATTEMPTS + 1):
            delay = random.uniform(0.5, 1) * min(2 ** (attempt - 1), 30)
            try:
                response = client.post("/v1/unlocks", json=body)
                # Anything else but these will not change by itself: 400, 401, 413, 415, 422, …
                if response.status_code not in (408, 429) and response.status_code < 500:
                    return response
                fault = f"answered {response.status_code}: {response.text}"
                # The gateway writes seconds. A proxy in front of it may write a date.
                if (seconds := response.headers.get("retry-after", "")).isdecimal():
                    delay = int(seconds)
            except httpx.TransportError as error:
                fault = f"no answer: {error!r}"  # the request may have been taken
            print(fault, file=sys.stderr)
            if attempt < ATTEMPTS:
                time.sleep(delay)
    raise TimeoutError(f"not sent in {ATTEMPTS} attempts; later, repeat it with the same key")


def main(customer_id: str) -> int:
    # Store the key with the reason for the request, before you send it.
    key = str(uuid.uuid4())
    print(f"key {key}", file=sys.stderr)
    response = send({"customer_id": customer_id}, key)
    if response.status_code not in (200, 202):
        print(f"answered {response.status_code}: {response.text}", file=sys.stderr)
        return 1
    print(response.text)
    if response.status_code == 202:
        print("taken; its outcome is not known yet", file=sys.stderr)
        return 3
    return 0 if json.loads(response.text)["status"] == "unlocked" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
