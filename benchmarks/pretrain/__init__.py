"""What pre-training without labels buys."""
