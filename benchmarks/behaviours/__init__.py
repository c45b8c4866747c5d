"""What circuit breakers do, not how fast: small scripts run against this one and its peers, the answers as measured."""
