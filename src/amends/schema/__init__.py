"""What an application's events and commands look like, for those who read or send them."""
