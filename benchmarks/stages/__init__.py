"""What stages cost by themselves, without a server."""
