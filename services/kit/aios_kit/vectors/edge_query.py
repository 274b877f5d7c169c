"""How the port's filters are said to the embedded engine."""

import qdrant_edge as qdrant

from aios_kit.vectors.port import Where


def edge_filter(where: Where) -> qdrant.Filter | None:
    """The engine's filter; None where everything matches."""
    must: list[qdrant.ConditionType] = [
        qdrant.FieldCondition(field, match=qdrant.MatchValue(text)) for field, text in where.equals.items()
    ]
    must += [qdrant.FieldCondition(field, match=qdrant.MatchAny(list(texts))) for field, texts in where.one_of.items()]
    must += [
        qdrant.FieldCondition(field, match=qdrant.MatchValue(text))
        for field, texts in where.all_of.items()
        for text in texts
    ]
    must += [
        qdrant.FieldCondition(
            field,
            range=qdrant.RangeFloat(
                gte=None if span.at_least is None else float(span.at_least),
                lt=None if span.below is None else float(span.below),
            ),
        )
        for field, span in where.within.items()
        if span.at_least is not None or span.below is not None
    ]
    must_not: list[qdrant.ConditionType] = [
        qdrant.FieldCondition(field, match=qdrant.MatchAny(list(texts)))
        for field, texts in where.none_of.items()
        if texts
    ]
    if not must and not must_not:
        return None
    return qdrant.Filter(must=must or None, must_not=must_not or None)
