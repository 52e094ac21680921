import os

from weighbridge.adapters.runners.terms import Placed, Terms
from weighbridge.adapters.system.lending import borrowed, lent
from weighbridge.application.catalogue import EMBEDDED, ModelEntry, VersionEntry, VersionState
from weighbridge.server.catalogue import Catalogue


def test_a_catalogue_of_any_size_is_read_by_all_who_have_its_descriptor() -> None:
    versions = tuple(VersionEntry(str(number), VersionState.REFUSED, "it is broken") for number in range(5000))
    terms = Terms(7, 2, 256, shares=True, call_seconds=0.001, row_seconds=0.0001)
    live = {"m": Placed("1", 3, terms, 'runtime = "sklearn"'), "n": Placed("2", 1000)}
    catalogue = Catalogue(live, {"m": ModelEntry("m", "1", "2", versions, "another is broken"), "default": EMBEDDED})
    with lent(catalogue) as descriptor:
        other = os.dup(descriptor)
        assert [borrowed(Catalogue, descriptor), borrowed(Catalogue, other)] == [catalogue, catalogue]
        os.close(other)
