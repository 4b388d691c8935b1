"""The broker on RabbitMQ, through aio-pika: the extra `rabbitmq`.

From below: what things are called (`names`), where the server is (`address`), how messages look on
the wire (`wire`), how they are packed (`parcels`) and how they are delayed (`delays`) knows no server;
`connection` and `topology` deal with it; `publisher`, `consumer` and `settling` with messages; `ownership`, `members` and `inboxes` share the
inboxes among processes; `dead` and `looking` are for operators; `broker` is the port.
"""

from amends.broker.rabbitmq.address import BrokerAddress
from amends.broker.rabbitmq.broker import RabbitBroker

__all__ = ["BrokerAddress", "RabbitBroker"]
