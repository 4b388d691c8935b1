"""The parts of the contract suites; `amends.testing.store_contract` and its kin assemble them."""
