"""Runnable examples of sagas."""
