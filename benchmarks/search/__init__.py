"""Search by sound: quality and latency."""
