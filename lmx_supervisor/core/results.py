"""Whether vectors and scores fit the request they are for, so that no reader has to doubt them."""

from lmx_protocol.messages import AnyRequest, AnyRequestEvent, EmbedRequest, RankRequest, Scores, Vectors

FLOAT_BYTES = 4


def fits(request: AnyRequest, event: AnyRequestEvent) -> bool:
    """False: no honest worker sends this event for this request. Events that are no results always fit."""
    match event:
        case Vectors():
            if not isinstance(request, EmbedRequest):
                return False
            count, rest = divmod(len(event.data), event.dimensions * FLOAT_BYTES)
            is_as_asked = request.dimensions in (None, event.dimensions)
            return rest == 0 and is_as_asked and event.first_index + count <= len(request.inputs)
        case Scores():
            return isinstance(request, RankRequest) and event.first_index + len(event.values) <= len(request.documents)
        case _:
            return True
