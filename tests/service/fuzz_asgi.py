"""The application under atheris: `python -m tests.service.fuzz_asgi -runs=20000`, or any other options of libFuzzer."""

import sys

import atheris

with atheris.instrument_imports(include=["app.service.application", "app.service.negotiation"]):
    import app
    from tests.support import model


def test_one_input(content: bytes) -> None:
    """Make a request of the fuzzer's bytes, near enough to a valid one that it gets beyond the path."""
    data = atheris.FuzzedDataProvider(content)
    method = model.METHODS[data.ConsumeIntInRange(0, len(model.METHODS) - 1)]
    prefix = "/json/" if data.ConsumeIntInRange(0, 9) else ""
    path = prefix + data.ConsumeUnicodeNoSurrogates(data.ConsumeIntInRange(0, 20))
    query = b"m=" if data.ConsumeBool() else b""
    fields = [data.ConsumeBytes(20) for _ in range(data.ConsumeIntInRange(0, 2))]
    model.check(app.app, method, path, query + data.ConsumeBytes(100), fields)


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
