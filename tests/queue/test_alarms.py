"""An operator hears of the same trouble once an hour."""

from pillarbox.queue.alarms import Alarms


def test_the_same_trouble_is_told_once_an_hour():
    alarms = Alarms()
    told = [minute for minute in range(0, 181, 10) if alarms.is_due("blocked", 1, minute * 60.0)]
    assert told == [0, 60, 120, 180]
    assert alarms.is_due("another", 1, 60.0)


def test_some_troubles_are_told_only_when_they_happen_again():
    alarms = Alarms()
    assert [alarms.is_due("odd", 3, float(second)) for second in range(5)] == [
        False,
        False,
        True,
        False,
        False,
    ]


def test_troubles_are_counted_for_an_hour_each_and_never_more_than_fit():
    alarms = Alarms()
    assert not alarms.is_due("odd", 2, 0.0)
    assert not alarms.is_due("odd", 2, 3600.0)
    for number in range(2000):
        alarms.is_due(str(number), 1, 0.0)
    assert alarms.is_due("0", 1, 1.0)  # it was forgotten
