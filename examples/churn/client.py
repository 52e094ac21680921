"""Ask the service which customers of a data frame will leave."""

from typing import Any

import pandas as pd

URL = "http://127.0.0.1:8000/models/churn/predict"


def leaving(client: Any, customers: pd.DataFrame) -> list[bool]:
    """Whether each customer leaves; `client` is a session of `requests`, or a client of another library like it."""
    rows = customers.astype(object).where(customers.notna(), None).to_dict("records")  # JSON has null, but no NaN
    reply = client.post(URL, json=rows)
    reply.raise_for_status()
    return [prediction["label"] == "leaves" for prediction in reply.json()["predictions"]]


if __name__ == "__main__":
    import requests
    from train import customers

    frame = customers(10, seed=2)
    print(frame[leaving(requests.Session(), frame)])
