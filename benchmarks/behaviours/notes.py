"""What a reader must know of an answer beyond what a script can see. Each note stands beside the very answer it is about."""

_LEASE = "its lease (`Trials(lease=...)`; by default the open time, at least 30 seconds), and then the open time once more"
_HOUR = "not within the hour of this script: only its trials, or an order by hand, end the half-open state"
_BY_NAME = "a call remembers the name of the state that it was admitted in, not which of its lives"
_ONE_OBJECT = "late results are known by the object of the state, and there is one for all lives of that state"
_BLOCK = "in the decorator; an `async with` block takes a cancellation for a success"
_YIELDS = "every 64th gives way to the event loop; trio takes ready tasks in random order, so one may come first twice running"

NOTES: dict[tuple[str, str, str], str] = {
    ("hung_trial", "this one", "60 s"): _LEASE,
    ("hung_trial", "interlock-cb", "never"): _HOUR,
    ("hung_trial", "nopanic", "never"): _HOUR,
    ("late_cancellation", "nopanic", "3"): _BY_NAME,
    ("late_failures", "nopanic", "open it again"): _BY_NAME,
    ("late_failures", "fluxgate", "open it again"): _ONE_OBJECT,
    ("cancelled_trial", "hyx", "nothing"): _BLOCK,
    ("cancelled_call", "hyx", "nothing"): _BLOCK,
    ("never_answers", "this one", "yes"): "by `SlowCallRate(..., count_in_flight=True)`, which is off by default",
    ("window_forgets", "fluxgate", "no"): "what a second held is taken out when its place is needed again, not when it is old",
    ("traceback_growth", "purgatory", "5,994"): "one exception is made at each opening and raised for every refusal",
    ("starvation", "this one", "64; under trio 128"): _YIELDS,
    ("retry_after", "circuitbreaker", "in 20 s"): "in the text of its message",
    ("retry_after", "aiobreaker 1.2.0", "in 20 s"): "where the local time is UTC; elsewhere it is off by the difference",
    ("ordering_observer", "aiobreaker 1.2.0", "it stays open"): "the observer is called before the new state is stored",
    ("half_open_told", "pyresilience", "never"): "there is an event type for it, which nothing sends",
    ("half_open_told", "purgatory", "after the trial"): "events are handed out when a call has ended",
    ("two_threads", "fluxgate", "raises `RuntimeError`"): "it is written for one event loop",
}
