"""The cache of recently used values."""

import threading

from ssl_zoo.explore.recent import Recent


def test_of_more_the_least_recently_used_is_dropped() -> None:
    recent = Recent[str](2)
    for key in ("a", "b"):
        assert recent.put(key, key.upper()) == key.upper()
    assert recent.get("a") == "A"  # so that `b` was used longest ago
    recent.put("c", "C")
    assert [recent.get(key) for key in ("a", "b", "c")] == ["A", None, "C"]


def test_a_value_is_made_once() -> None:
    recent, made = Recent[list[int]](2), []

    def make() -> list[int]:
        made.append(1)
        return made

    assert recent.get_or_make("a", make) is recent.get_or_make("a", make)
    assert made == [1]


def test_threads_may_share_it() -> None:
    recent = Recent[int](3)
    errors: list[BaseException] = []

    def use(start: int) -> None:
        try:
            for number in range(start, start + 3000):
                recent.put(number % 7, number)
                recent.get((number + 3) % 7)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=use, args=(start,)) for start in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert errors == []
    assert sum(recent.get(key) is not None for key in range(7)) == 3
