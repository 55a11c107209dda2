"""Draw the gain of all layers over the last layer of a frozen encoder, from the table in docs/results/.

python docs/figures/all_layers.py
"""

import csv
import re
from pathlib import Path

import matplotlib.pyplot as plt

FOLDER = Path(__file__).resolve().parent
TABLE = FOLDER.parent / "results" / "layers-frozen.csv"
NAMES = {
    "tweets": "tweets: sentiment",
    "irony": "tweets: irony",
    "hate": "tweets: hate",
    "offensive": "tweets: offensive",
    "emotion": "tweets: emotion",
    "sentiment": "tweets: 3 sentiments",
    "sst5": "movie sentences (SST-5)",
    "cfimdb": "movie reviews (CFIMDB)",
    "snli": "inference (SNLI)",
    "quora": "question pairs (Quora)",
    "laptop": "aspects: laptops",
    "restaurant": "aspects: restaurants",
}
GAIN = re.compile(r"([+-][\d.]+) \[([+-][\d.]+), ([+-][\d.]+)\]")


def gains() -> list[tuple[str, float, float, float, bool]]:
    """Return each data set with its gain, the interval's ends and whether it is significant."""
    rows = []
    with TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name, _, variant = row["variant"].rpartition("-")
            if variant == "concat":
                found = GAIN.match(row["difference [95 %]"])
                if found is None:
                    raise ValueError(f"{TABLE}: no difference in the row {row['variant']}")
                gain, low, high = map(float, found.groups())
                # An unmarked row is significant over the test rows and over the draws.
                rows.append((NAMES[name], gain, low, high, not row[""]))
    return sorted(rows, key=lambda row: row[1])


def main() -> None:
    """Draw `all-layers.png`."""
    rows = gains()
    better, significant = sum(row[1] > 0 for row in rows), sum(row[4] for row in rows)
    figure, axis = plt.subplots(figsize=(8, 3.5), dpi=150)
    for place, (_, gain, low, high, shown) in enumerate(rows):
        color = "#1f77b4" if shown else "#9ab8cf"
        axis.barh(place, gain, color=color, height=0.68)
        axis.plot([low, high], [place, place], color="#333333", linewidth=1.1)
        axis.text(
            high + 0.15,
            place,
            f"{gain:+.1f}".replace("-", "−"),
            va="center",
            fontsize=8.5,
            fontweight="bold" if shown else None,
        )
    axis.set_yticks(range(len(rows)), [row[0] for row in rows], fontsize=9)
    axis.axvline(0, color="#333333", linewidth=0.8)
    axis.set_xlabel("accuracy points gained by reading all layers instead of the last one")
    title = f"A frozen MiniLM: all layers are better on {better} of {len(rows)} data sets"
    title += f", significantly on {significant}"
    axis.set_title(title, fontsize=11.5, x=-0.28, ha="left")
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in ("#1f77b4", "#9ab8cf")]
    labels = [f"significant, corrected for {len(rows)} tests", "within noise, or the draws' spread"]
    axis.legend(handles, labels, loc="lower right", frameon=False, fontsize=9)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.set_xlim(right=12.3)
    figure.tight_layout()
    figure.savefig(FOLDER / "all-layers.png", metadata={"Software": None})


if __name__ == "__main__":
    main()
