package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	connection := must(amqp.Dial(os.Getenv("AMQP_URL")))
	channel := must(connection.Channel())
	returns := channel.NotifyReturn(make(chan amqp.Return, 1))
	if err := channel.Confirm(false); err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	const mandatory, immediate = true, false
	confirm := must(channel.PublishWithDeferredConfirmWithContext(ctx, "trackfinity.unlock", "request", mandatory, immediate,
		amqp.Publishing{
			MessageId:    os.Args[1],
			ContentType:  "application/json",
			DeliveryMode: amqp.Persistent,
			Body:         must(json.Marshal(map[string]string{"customer_id": os.Args[2]})),
		}))
	if !confirm.Wait() {
		log.Fatal("the queue refused it")
	}
	select { // a returned request is confirmed, too, and its return comes first
	case <-returns:
		log.Fatal("no queue receives requests")
	default:
		fmt.Println("published", os.Args[1])
	}
	connection.Close()
}
