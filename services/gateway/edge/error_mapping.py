"""What an error of a route means to its client: the one place where other errors become a RequestError."""

from stoker.services.bus.errors import BusError
from stoker.services.gateway.edge.problems import RETRY_AFTER_S, RequestError
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import LimitExceeded
from stoker.services.records.blobs import BlobGone

log = get_logger("http")


def request_error(error: Exception, path: str, request: str = "") -> RequestError:
    """What an error of a route means to its client. Only what nobody foresaw is logged with its traceback.

    request: what the request is called in its answer.
    """
    match error:
        case RequestError():
            return error
        case BlobGone():
            return RequestError(404, str(error), code="image_not_found")
        case BusError() | LimitExceeded():
            log.warning("request.not_served", path=path, request=request, error=str(error))
            return RequestError(503, str(error), retry_after_s=RETRY_AFTER_S)
        case _:
            log.error("request.failed", path=path, request=request, exc_info=error)
            return RequestError(
                500, f"an internal error; the log of the gateway says more of the request {request}"
            )
