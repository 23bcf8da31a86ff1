<?php

// Sends a request to the gateway, waits, and prints the outcome: php send.php CUSTOMER_ID
// GATEWAY_URL is the gateway's address, such as http://127.0.0.1:8080; GATEWAY_TOKEN a token of one of its clients.
// Exit code: 0 unlocked, 3 taken but its outcome is not known yet, 1 anything else. Needs the extension curl.

declare(strict_types=1);

const ATTEMPTS = 8;
const WAIT = 30; // seconds that the gateway waits for the outcome, at most

/**
 * Sends one request, and repeats it with the same key until it is clear whether it was taken.
 *
 * @return array{int, string} the HTTP status, and the body
 */
function send(array $body, string $key): array
{
    $headers = ['content-type: application/json', "idempotency-key: \"$key\"", 'prefer: wait=' . WAIT];
    if ($token = getenv('GATEWAY_TOKEN')) {
        $headers[] = "authorization: Bearer $token";
    }
    for ($attempt = 1; $attempt <= ATTEMPTS; $attempt++) {
        $delay = random_int(500, 1000) / 1000 * min(2 ** ($attempt - 1), 30);
        $retryAfter = '';
        $curl = curl_init(getenv('GATEWAY_URL') . '/v1/unlocks');
        curl_setopt_array($curl, [
            CURLOPT_POSTFIELDS => json_encode($body, JSON_THROW_ON_ERROR),
            CURLOPT_HTTPHEADER => $headers,
            CURLOPT_TIMEOUT => WAIT + 10,
            CURLOPT_RETURNTRANSFER => true,
            CURLOPT_HEADERFUNCTION => function ($_, string $line) use (&$retryAfter): int {
                if (stripos($line, 'retry-after:') === 0) {
                    $retryAfter = trim(substr($line, strlen('retry-after:')));
                }
                return strlen($line);
            },
        ]);
        $answer = curl_exec($curl);
        if ($answer === false) {
            fwrite(STDERR, 'no answer: ' . curl_error($curl) . "\n"); // the request may have been taken
        } else {
            $status = curl_getinfo($curl, CURLINFO_RESPONSE_CODE);
            // Anything else but these will not change by itself: 400, 401, 413, 415, 422, …
            if (!in_array($status, [408, 429], true) && $status < 500) {
                return [$status, $answer];
            }
            fwrite(STDERR, "answered $status: $answer\n");
            // The gateway writes seconds. A proxy in front of it may write a date.
            if (ctype_digit($retryAfter)) {
                $delay = (int) $retryAfter;
            }
        }
        if ($attempt < ATTEMPTS) {
            usleep((int) ($delay * 1_000_000));
        }
    }
    throw new RuntimeException('not sent in ' . ATTEMPTS . ' attempts; later, repeat it with the same key');
}

// Store the key with the reason for the request, before you send it.
$key = bin2hex(random_bytes(16));
fwrite(STDERR, "key $key\n");
[$status, $answer] = send(['customer_id' => $argv[1]], $key);
if ($status !== 200 && $status !== 202) {
    fwrite(STDERR, "answered $status: $answer\n");
    exit(1);
}
echo $answer, "\n";
if ($status === 202) {
    fwrite(STDERR, "taken; its outcome is not known yet\n");
    exit(3);
}
exit(json_decode($answer, true, flags: JSON_THROW_ON_ERROR)['status'] === 'unlocked' ? 0 : 1);
