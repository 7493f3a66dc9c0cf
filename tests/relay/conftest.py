"""Couriers for the tests of the sending side."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from pillarbox.mail.route import parse_route
from pillarbox.relay.couriers import Couriers
from pillarbox.relay.plan import Tls
from pillarbox.relay.protection import Protection
from pillarbox.relay.session import SmtpSettings
from pillarbox.relay.transaction import SmtpCourier
from pillarbox.testing import FakeResolver


@pytest.fixture
async def courier_for() -> AsyncIterator[Callable[..., SmtpCourier]]:
    """Make couriers: `courier_for("smtp://127.0.0.1:2525", patience=..., ...)`; all are closed at the end.

    Those made with an equal `shared` know the same about hosts; the settings of the first one count.
    """
    factories: dict[object, Couriers] = {}
    made: list[SmtpCourier] = []

    def make(
        route: str,
        *,
        resolver: object = None,
        shared: object = None,
        is_us: Callable[[str, int], bool] = lambda _address, _port: False,
        protection: Protection | None = None,
        level: Tls | None = None,
        **settings: object,
    ) -> SmtpCourier:
        key = shared if shared is not None else object()
        if key not in factories:
            dns = resolver if resolver is not None else FakeResolver()
            factories[key] = Couriers(
                SmtpSettings(**settings),
                dns,
                hostname="here.test",
                local=None,
                is_us=is_us,
                protection=protection,
                level_of=lambda _domain: level,
            )
        courier = factories[key](parse_route(route))
        made.append(courier)
        return courier

    yield make
    for courier in made:
        await courier.close()


_ON_BOTH_LOOPS = {"test_pipe.py", "test_transaction_smtp.py"}


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests of what the two loops treat differently, processes and transports, run on both."""
    loops = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return loops if item.path.name in _ON_BOTH_LOOPS else {"asyncio": loops["asyncio"]}
