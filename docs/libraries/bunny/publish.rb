require "bunny"
require "json"

request_id, customer_id = ARGV
connection = Bunny.new(ENV.fetch("AMQP_URL")).start
channel = connection.create_channel
channel.confirm_select
exchange = channel.direct("trackfinity.unlock", no_declare: true)
returned = false
exchange.on_return { returned = true }
exchange.publish(JSON.generate(customer_id: customer_id),
  routing_key: "request", message_id: request_id, content_type: "application/json", persistent: true, mandatory: true)
channel.wait_for_confirms or abort "the queue refused it"
abort "no queue receives requests" if returned # a returned request is confirmed, too
puts "published #{request_id}"
connection.close
