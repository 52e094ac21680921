import os

from weighbridge.application.catalogue import EMBEDDED, ModelEntry, VersionEntry, VersionState
from weighbridge.server.lineup import Lineup


def test_a_lineup_of_any_size_is_read_by_all_who_have_its_descriptor() -> None:
    versions = tuple(VersionEntry(str(number), VersionState.REFUSED, "it is broken") for number in range(5000))
    lineup = Lineup({"m": "1"}, {"m": ModelEntry("m", "1", "2", versions, "another is broken"), "default": EMBEDDED})
    with lineup.lent() as descriptor:
        other = os.dup(descriptor)
        assert [Lineup.read(descriptor), Lineup.read(other)] == [lineup, lineup]
        os.close(other)


def test_without_models_there_is_the_embedded_one() -> None:
    assert Lineup() == Lineup({}, {"default": EMBEDDED})
