"""What the judge makes of exceptions at the edges of its rules, and that its quick look never says more than it does."""

import pytest

from aiobreaker.core.outcomes import ErrorRule, Judge, Outcome


def bad(error: BaseException) -> bool:
    return "bad" in str(error)


GROUP = BaseExceptionGroup("several", [OSError(), OSError()])


@pytest.mark.parametrize(
    ("failure_on", "ignore", "error", "plain"),
    [
        (Exception, (), OSError(), True),
        (OSError, (), ConnectionResetError(), True),
        ((KeyError, OSError), ConnectionError, FileNotFoundError(), True),
        (OSError, (), ValueError(), False),
        ((KeyError, OSError), ConnectionError, ConnectionResetError(), False),
        (BaseException, (), KeyboardInterrupt(), False),
        (Exception, (), GROUP, False),
        (Exception, bad, OSError("good"), False),
        (bad, (), OSError("bad"), False),
    ],
)
def test_a_plain_failure_is_a_listed_exception_that_nothing_else_could_speak_for(
    failure_on: ErrorRule, ignore: ErrorRule, error: BaseException, plain: bool
) -> None:
    judge = Judge(failure_on, ignore, None)
    assert judge.is_plain_failure(error) is plain
    if plain:
        assert judge.error(error) is Outcome.FAILURE


class Temporary(type):
    def __instancecheck__(cls, error: object) -> bool:
        return "temporary" in str(error)


class TemporaryError(Exception, metaclass=Temporary): ...


@pytest.mark.parametrize(("failure_on", "ignore"), [(TemporaryError, ()), (OSError, TemporaryError)])
def test_where_a_type_looks_at_the_instance_nothing_is_plain(failure_on: ErrorRule, ignore: ErrorRule) -> None:
    judge = Judge(failure_on, ignore, None)
    for words in ("temporary", "final"):
        assert not judge.is_plain_failure(OSError(words))
    assert judge.error(OSError("temporary")) is (Outcome.IGNORED if ignore else Outcome.FAILURE)
    assert judge.error(OSError("final")) is (Outcome.FAILURE if ignore else Outcome.SUCCESS)


def test_rules_of_types_and_of_functions_go_together() -> None:
    judge = Judge(OSError, bad, None)
    assert judge.error(OSError("bad")) is Outcome.IGNORED
    assert judge.error(OSError("good")) is Outcome.FAILURE
    judge = Judge(bad, (KeyError, OSError), None)
    assert judge.error(OSError("bad")) is Outcome.IGNORED
    assert judge.error(ValueError("bad")) is Outcome.FAILURE


def test_a_class_whose_instances_are_callable_is_no_function() -> None:
    class Callback(OSError):
        def __call__(self) -> None: ...

    assert Judge(Callback, (), None).error(Callback()) is Outcome.FAILURE
    assert Judge(Callback, (), None).error(OSError()) is Outcome.SUCCESS


def test_leaves_are_judged_one_by_one_however_deep() -> None:
    judge = Judge((OSError, ExceptionGroup), KeyError, None)
    deep = ExceptionGroup("", [ExceptionGroup("", [KeyError()]), ExceptionGroup("", [ValueError(), KeyError()])])
    assert judge.error(deep) is Outcome.SUCCESS
    deeper = ExceptionGroup("", [deep, ExceptionGroup("", [OSError()])])
    assert judge.error(deeper) is Outcome.FAILURE


@pytest.mark.parametrize(("answer", "fails"), [(1, True), ("yes", True), (0, False), ("", False)])
def test_what_a_result_rule_answers_is_taken_for_its_truth(answer: object, fails: bool) -> None:
    assert Judge(Exception, (), lambda _: answer).fails("any") is fails
