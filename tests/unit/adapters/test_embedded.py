from hypothesis import given
from hypothesis import strategies as st

from tests.unit.models import CHURN, FakeLoader, constant
from weighbridge.adapters.embedded import EmbeddedFirst, embedded_model
from weighbridge.application.predict import PredictUseCase
from weighbridge.domain.batch import Batch
from weighbridge.domain.signature import Column, Kind
from weighbridge.domain.weights import Weights

WEIGHTS = Weights((0.1, -0.2, 0.3))
numbers = st.floats(-1e100, 1e100)


def test_it_takes_one_vector_and_gives_one_number() -> None:
    signature = embedded_model(WEIGHTS).signature

    assert signature.inputs == (Column(name="features", kind=Kind.FLOAT, width=3),)
    assert signature.outputs == (Column(name="prediction", kind=Kind.FLOAT),)


@given(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=5))
def test_it_says_to_the_bit_what_the_use_case_says(rows: list[list[float]]) -> None:
    model, use_case = embedded_model(WEIGHTS), PredictUseCase(WEIGHTS, max_rows=10)

    [predictions] = model.predict(Batch(model.signature, rows))

    assert [score.hex() for score in predictions.tolist()] == [use_case(row).hex() for row in rows]


def test_the_embedded_model_is_there_and_the_others_are_where_they_were() -> None:
    embedded, churn = embedded_model(WEIGHTS), constant(CHURN, 0.5)
    loader = EmbeddedFirst(lambda: embedded, FakeLoader({("churn", "1"): churn}))

    assert loader.load("default", "embedded") is embedded
    assert loader.load("churn", "1") is churn
