"""`storage.search`: by words, by meaning, or by both; only what the caller may read."""

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from aios_kit.logs import Log
from aios_proto.errors import AiosError, InvalidRequest, ManagerUnavailable
from aios_proto.headers import CallHeaders
from aios_proto.messages.storage import FileInfo, FilesResult, SearchRequest
from aios_storage.commits import Caller
from aios_storage.core.catalogue import Catalogue
from aios_storage.core.grants import Grants
from aios_storage.core.keyword_index import excerpt, fused, words_of
from aios_storage.core.paths import Home, Mounted, folder_place, is_below
from aios_storage.core.records import info
from aios_storage.indexing import Indexing
from aios_storage.library import Library
from aios_storage.sealed_store import SealedStore

KEYWORD_LAG_S = 1.0
"""Seconds a search waits at most for what was written before it; what is not indexed by then is found later."""

_CANDIDATES = 4


class Meaning(Protocol):
    """Finds files by what they mean."""

    async def search(
        self, on_behalf: CallHeaders, query: str, owner: str, limit: int, allowed: Callable[[str], bool]
    ) -> list[tuple[str, float]]:
        """The keys of the files nearest to the query, with their similarity, the nearest first.

        Raises:
            ManagerUnavailable: nobody makes embeddings now.
        """


class Searching:
    """Searches files.

    Args:
        library: knows by which grants a caller sees files.
        store: checks that the tenant has its keys.
        catalogue: knows which files there are.
        indexing: knows their words.
        meaning: knows what they mean; None where that is switched off.
        log: for searches that had to do without meaning.
    """

    def __init__(
        self,
        library: Library,
        store: SealedStore,
        catalogue: Catalogue,
        indexing: Indexing,
        meaning: Meaning | None,
        log: Log,
    ) -> None:
        self._library = library
        self._store = store
        self._catalogue = catalogue
        self._indexing = indexing
        self._meaning = meaning
        self._log = log

    async def search(self, headers: CallHeaders, request: SearchRequest) -> FilesResult:
        """The best files, each with its score and an excerpt.

        Raises:
            ManagerUnavailable: a search by meaning was asked for and nobody makes embeddings now.
            InvalidRequest: the prefix is none, or lies in a mount.
        """
        caller = Caller(headers.tenant, headers.agent, headers.id)
        folder = folder_place(caller.agent, request.prefix)
        if isinstance(folder, Mounted):
            raise InvalidRequest("files of a mount are not searched", field="prefix")
        await self._store.check(caller.tenant)
        grants = await self._library.visible(caller, folder.owner)
        allowed = self._filter(caller, folder, grants)
        await self._indexing.caught_up(caller.tenant, KEYWORD_LAG_S)
        words = words_of(request.query)
        found = await self._ranked(headers, request, folder.owner, words, allowed)
        return FilesResult(files=[shown async for shown in self._shown(caller, found, words)])

    async def _ranked(
        self,
        headers: CallHeaders,
        request: SearchRequest,
        owner: str,
        words: list[str],
        allowed: Callable[[str], bool],
    ) -> list[tuple[str, float]]:
        limit, index = request.limit, self._indexing.of_tenant(headers.tenant)
        if request.mode == "keyword":
            return index.search(words, limit, allowed)
        by_words = [key for key, _ in index.search(words, limit * _CANDIDATES, allowed)]
        try:
            if self._meaning is None:
                raise ManagerUnavailable("search by meaning is switched off here", retryable=False)
            by_meaning = await self._meaning.search(headers, request.query, owner, limit * _CANDIDATES, allowed)
        except AiosError as error:
            if request.mode == "semantic":
                raise
            self._log.info("a search went by words alone", reason=error.message)
            by_meaning = []
        if request.mode == "semantic":
            return by_meaning[:limit]
        return fused([by_words, [key for key, _ in by_meaning]], limit)

    def _filter(self, caller: Caller, folder: Home, grants: Grants | None) -> Callable[[str], bool]:
        def allowed(key: str) -> bool:
            known = self._catalogue.by_key(caller.tenant, key)
            if known is None or known.owner != folder.owner or not known.head.alive:
                return False
            path = known.head.path
            return is_below(path, folder.path) and (grants is None or grants.allow(caller.agent, path, "read"))

        return allowed

    async def _shown(self, caller: Caller, found: list[tuple[str, float]], words: list[str]) -> AsyncIterator[FileInfo]:
        for key, score in found:
            known = self._catalogue.by_key(caller.tenant, key)
            text = None if known is None else await self._indexing.text_of(caller.tenant, known)
            if known is None or text is None:
                continue
            about: FileInfo = info(known.head.newest, Home(known.owner, known.head.path).shown_to(caller.agent))
            yield about.model_copy(update={"score": score, "excerpt": excerpt(text, words) or None})
