"""Amends: durable execution for Python."""
