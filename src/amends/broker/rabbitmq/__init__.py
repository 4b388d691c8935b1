"""The broker on RabbitMQ, through aio-pika: the extra `rabbitmq`.

From below: what things are called (`names`), where the server is (`address`), how messages look on
the wire (`wire`) and how they are delayed (`delays`) are pure; `connection` and `topology` deal with
the server; `publisher` and `consumer` with messages; `ownership`, `members` and `inboxes` share the
inboxes among processes; `dead` and `looking` are for operators; `broker` is the port.
"""

from amends.broker.rabbitmq.address import BrokerAddress
from amends.broker.rabbitmq.broker import RabbitBroker

__all__ = ["BrokerAddress", "RabbitBroker"]
