"""What the service has to answer, written with nothing but the standard library."""

import json
from pathlib import Path

BUNDLED = Path(__file__).parent.parent / "app" / "service" / "dataset.json"
# (count, m), as the arena asks for them.
MIX = ((1, 3), (5, 7), (10, 2), (15, 5), (25, 4), (40, 8), (50, 6))

# None of the mix: what a subject is checked with before it counts.
CHECKS = ((1, 89), (2, 31), (7, 11), (13, 53), (22, 17), (33, 2), (44, 71), (50, 9))


def body(count: int, multiplier: int, dataset: Path = BUNDLED) -> bytes:
    """Make the body from the dataset, afresh."""
    items = json.loads(dataset.read_text(encoding="utf-8"))[:count]
    for item in items:
        item["total"] = item["price"] * item["quantity"] * multiplier
    return json.dumps({"items": items, "count": len(items)}, ensure_ascii=False, separators=(",", ":")).encode()
