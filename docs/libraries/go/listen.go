package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"

	amqp "github.com/rabbitmq/amqp091-go"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	const queue = "trackfinity.outcomes.shop"
	connection, err := amqp.Dial(os.Getenv("AMQP_URL"))
	check(err)
	channel, err := connection.Channel()
	check(err)
	_, err = channel.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"}) // durable
	check(err)
	check(channel.QueueBind(queue, "unlock.#", "trackfinity.unlock.results", false, nil))
	check(channel.Qos(10, 0, false))
	outcomes, err := channel.Consume(queue, "", false, false, false, false, nil) // no automatic ack
	check(err)
	seen := map[string]bool{} // in production a table
	for delivery := range outcomes {
		if !seen[delivery.MessageId] {
			var outcome struct {
				RequestID string `json:"request_id"`
				Status    string `json:"status"`
			}
			check(json.Unmarshal(delivery.Body, &outcome))
			fmt.Println(outcome.RequestID, outcome.Status)
			seen[delivery.MessageId] = true
		}
		check(delivery.Ack(false))
	}
	log.Fatal("the channel was closed: connect again")
}
