"""Real clients and servers on loopback."""
