"""What Prometheus scrapes."""

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from weighbridge.adapters.http.dependencies import MetricsDep

router = APIRouter(tags=["metrics"])


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(metrics: MetricsDep) -> Response:
    """The service's metrics, in Prometheus' text format."""
    return Response(metrics.exposition(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
