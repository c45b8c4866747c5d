"""What the policies are called, and the settings that are said to all of them."""

RETRY = "Retry"
RETRY_BUDGET = "Retry with a budget"
TIMEOUT = "Timeout"
DEADLINE = "Deadline"
BULKHEAD = "Bulkhead"
RATE = "RateLimit"
RATE_KEYED = "RateLimit per key"
FALLBACK = "Fallback"
CACHE_HIT = "Cache hit"
CACHE_MISS = "Cache miss"
CACHE_FULL = "Cache miss when full"
HEDGE = "Hedge"
RETRY_BREAKER = "Retry, breaker"
RETRY_BREAKER_TIMEOUT = "Retry, breaker, Timeout"
CHAIN = "chain of six"

ATTEMPTS = 3
FIRST_DELAY, LONGEST_DELAY = 0.1, 30.0
LIMIT = 60.0  # seconds of a timeout, a deadline, a hedge's delay
AT_ONCE = 10
RATE_PER_SECOND = 10_000_000  # more than anybody can make
TTL = 3600.0
KEYS, ROOM = 1024, 1_000_000  # of a cache that is full at once, or never
FAILURES, OPEN_FOR, TRIALS = 5, 30.0, 1
