"""What a guarded call costs, beside a pass-through wrapper and other circuit breakers. See `run`."""
