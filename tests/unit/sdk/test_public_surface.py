"""What agent authors import is one module, and it is whole."""

import inspect

import aios
from aios_proto import errors


def test_every_error_class_can_be_imported_from_aios() -> None:
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.AiosError)]
    assert len(classes) > 40
    for cls in classes:
        assert getattr(aios, cls.__name__) is cls
        assert cls.__name__ in aios.__all__


def test_everything_public_is_there_and_documented() -> None:
    assert len(aios.__all__) == len(set(aios.__all__))
    for name in aios.__all__:
        assert not name.startswith("_")
        assert inspect.getdoc(getattr(aios, name)), name


def test_the_blocking_agent_offers_what_the_other_offers() -> None:
    def offered(cls: type) -> set[str]:
        return {name for name in dir(cls) if not name.startswith("_")}

    assert offered(aios.Agent) - offered(aios.SyncAgent) == {"connected"}
    assert offered(aios.LLM) == offered(aios.SyncLLM)
    assert offered(aios.Calls) == offered(aios.SyncCalls)
