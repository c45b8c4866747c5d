"""Floor 0, the part that decides. Pure: no clock, no event loop, no await, no logging, no randomness of its own."""
