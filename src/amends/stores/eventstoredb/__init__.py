"""The event store on EventStoreDB and KurrentDB, through gRPC: the extras `eventstoredb`, `kurrentdb`.

From below: `address` says where the server is; `client` is whichever client package is installed;
`wire` is how events and requests look, and `errors` what failures mean. `link` is a connection to one
node, `connection` the way to the node that is wanted, and `calling` tries again. `places` remembers
where streams are; `reading` and `writing` are for one stream, `log_reading` for all of them. `store`
is the port.
"""

from amends.stores.eventstoredb.address import StoreAddress
from amends.stores.eventstoredb.client import PACKAGE
from amends.stores.eventstoredb.store import EventStoreDb

__all__ = ["PACKAGE", "EventStoreDb", "StoreAddress"]
