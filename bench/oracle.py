"""The bodies that the service has to send, made with nothing but the standard library."""

import json
from pathlib import Path

BUNDLED = Path(__file__).parent.parent / "app" / "service" / "dataset.json"
# Each (count, m) that the arena requests.
MIX = ((1, 3), (5, 7), (10, 2), (15, 5), (25, 4), (40, 8), (50, 6))

# A subject is checked with these before it is measured; none is in the mix.
CHECKS = ((1, 89), (2, 31), (7, 11), (13, 53), (22, 17), (33, 2), (44, 71), (50, 9))


def body(count: int, multiplier: int, dataset: Path = BUNDLED) -> bytes:
    """Make a body from the dataset."""
    items = json.loads(dataset.read_text(encoding="utf-8"))[:count]
    for item in items:
        item["total"] = item["price"] * item["quantity"] * multiplier
    return json.dumps({"items": items, "count": len(items)}, ensure_ascii=False, separators=(",", ":")).encode()
