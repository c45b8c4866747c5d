"""What the telemetry says of breakers that live."""
