"""Value types do not mix with the strings and numbers that they are made of."""

from typing import assert_type

from amends.domain.ids import InstanceId, Position, StreamName

instance = InstanceId.of("transfer_money", "t-1")
assert_type(instance.stream, StreamName)
assert_type(InstanceId.of_stream("account-1"), InstanceId | None)

stream: StreamName = "account-1"  # error: assignment
position: Position = 3  # error: assignment
