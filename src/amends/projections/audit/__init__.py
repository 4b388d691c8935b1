"""The audit trail: a hash chain over the log, with signed checkpoints. See docs/audit.md.

`canonical`, `chain`, `keys`, `checkpoints` and `bundle` are pure, and all that an auditor needs;
`projection` keeps the chain, `verify` compares it with the log, and `export` makes bundles.
"""
