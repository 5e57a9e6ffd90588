"""uvicorn's HTTP protocol with limits. Used by `uvicorn --http app.api.server:Protocol`."""

from uuid_utils.compat import uuid7
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.api.errors import ProblemResponse
from app.api.middleware import MOST_HEADERS, MOST_TARGET_BYTES, access_log
from app.core.errors import AppError, BadRequest, HeadersTooLarge, UriTooLong
from app.core.logs import request_id

MOST_UNPARSED_BYTES = 64 * 1024
"""Of a head, a chunk size or trailers, which the parser buffers until they are complete."""

MOST_UNREAD_BYTES = 16 * 1024 * 1024
"""Of a body, after its request was answered. Clients that read the answer only after sending the body still get it."""

MOST_WAITING = 100
"""The maximum number of requests that a client may send before the first answer (pipelining)."""


class Protocol(HttpToolsProtocol):
    """uvicorn's own, with the limits that it lacks. Ignores trailers, which uvicorn treats as headers."""

    url = b""
    _unparsed = 0
    _unread = 0
    _in_body = False

    def data_received(self, data: bytes) -> None:
        self._unparsed += len(data)
        if self._in_body and self.cycle and self.cycle.response_complete:
            self._unread += len(data)
        super().data_received(data)
        if self._unread > MOST_UNREAD_BYTES:
            self.transport.close()
        elif self._unparsed > MOST_UNPARSED_BYTES and not self.transport.is_closing():
            self._refuse(UriTooLong() if len(self.url) > MOST_TARGET_BYTES else HeadersTooLarge())

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) > MOST_HEADERS:
            raise HeadersTooLarge  # stops the parser, which then calls send_400_response
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unparsed, self._unread, self._in_body = 0, 0, True
        self.scope["headers"] = self.headers.copy()  # trailers are appended to the other list
        if len(self.pipeline) >= MOST_WAITING:
            raise BadRequest
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed, self._in_body = 0, False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # uvicorn's own text
        too_many = len(self.headers or ()) > MOST_HEADERS
        self._refuse(HeadersTooLarge() if too_many else BadRequest("The request cannot be parsed"))

    def _refuse(self, error: AppError) -> None:
        """Answer with this error, unless it could be mistaken for the answer to another request. Then close."""
        earlier = self.cycle and not self.cycle.response_complete
        if not self.pipeline and (not earlier or (self._in_body and not self.cycle.response_started)):
            token = request_id.set(str(uuid7()))
            response = ProblemResponse(error, {"X-Request-ID": request_id.get() or "", "Connection": "close"})
            data = {"method": "-", "route": "-", "status": error.status}
            access_log.info("request", extra={"data": data})
            request_id.reset(token)
            head = [STATUS_LINE[error.status], *(b"%s: %s\r\n" % header for header in response.raw_headers)]
            self.transport.write(b"".join([*head, b"\r\n", response.body]))
        self.transport.close()
