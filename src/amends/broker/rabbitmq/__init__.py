"""The broker port on RabbitMQ. Needs the extra `amends[rabbitmq]`."""
