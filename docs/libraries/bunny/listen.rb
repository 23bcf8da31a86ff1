require "bunny"
require "json"
require "set"

$stdout.sync = true
seen = Set.new # in production a table
channel = Bunny.new(ENV.fetch("AMQP_URL")).start.create_channel
channel.prefetch(10)
queue = channel.queue("trackfinity.outcomes.shop", durable: true, arguments: { "x-queue-type" => "quorum" })
queue.bind("trackfinity.unlock.results", routing_key: "unlock.#")
queue.subscribe(manual_ack: true, block: true) do |delivery, properties, body|
  unless seen.include?(properties.message_id)
    outcome = JSON.parse(body)
    puts "#{outcome["request_id"]} #{outcome["status"]}"
    seen << properties.message_id
  end
  channel.ack(delivery.delivery_tag)
end
