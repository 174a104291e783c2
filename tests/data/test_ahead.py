import threading
from collections.abc import Iterator

import pytest

from sa2va_ray.data.ahead import one_ahead

_LIMIT_S = 60


@pytest.mark.parametrize("number", [0, 1, 5])
def test_all_items_in_their_order(number):
    assert list(one_ahead(iter(range(number)))) == list(range(number))


def test_an_item_is_made_while_its_caller_has_the_one_before():
    begun = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(begun):
            event.set()
            yield number

    ahead = one_ahead(items())
    assert begun[0].wait(_LIMIT_S)
    assert not begun[1].is_set()
    assert next(ahead) == 0
    assert begun[1].wait(_LIMIT_S)
    assert not begun[2].is_set()


def test_an_error_comes_in_its_place():
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no second")

    ahead = one_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="no second"):
        next(ahead)
