"""Draw the gain of `--recipe tuned` over plain tuning by the number of labelled texts, from tables in docs/results/.

python docs/figures/few_labels.py
"""

import csv
import re
from pathlib import Path

import matplotlib.pyplot as plt

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER.parent / "results"
NAMES = {
    "snli": "inference (SNLI)",
    "quora": "question pairs (Quora)",
    "offensive": "tweets: offensive",
    "hate": "tweets: hate",
    "irony": "tweets: irony",
    "tweets": "tweets: sentiment",
    "sentiment": "tweets: 3 sentiments",
}
SIZES = ["16 a class", "64 a class", "256 a class", "1,000 in all"]
FEW = re.compile(r"(\w+)-(16|64|256)-interpolated")
THOUSAND = re.compile(r"(\w+)-interpolated-[\de-]+")


def gains() -> dict[str, dict[int, tuple[float, bool]]]:
    """Return each data set's gain, by the place of its number of texts in `SIZES`, and whether it is significant."""
    found: dict[str, dict[int, tuple[float, bool]]] = {name: {} for name in NAMES}
    for table in ("layers-few", "layers-tuned"):
        with (RESULTS / f"{table}.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                few, thousand = FEW.fullmatch(row["variant"]), THOUSAND.fullmatch(row["variant"])
                if few:
                    name, place = few[1], [size.split()[0] for size in SIZES].index(few[2])
                elif thousand:
                    name, place = thousand[1], len(SIZES) - 1
                else:
                    continue
                # An unmarked row is significant over the test rows and over the draws.
                gain = float(row["difference [95 %]"].partition(" ")[0])
                found[name][place] = gain, not row[""]
    return found


def main() -> None:
    """Draw `few-labels.png`."""
    figure, axis = plt.subplots(figsize=(8, 3.8), dpi=150)
    for name, by_size in gains().items():
        places = sorted(by_size)
        values = [by_size[place][0] for place in places]
        (line,) = axis.plot(places, values, linewidth=1.4, label=NAMES[name])
        for place, value in zip(places, values, strict=True):
            face = line.get_color() if by_size[place][1] else "white"
            axis.plot(place, value, "o", color=line.get_color(), markerfacecolor=face, markersize=6)
    axis.axhline(0, color="#333333", linewidth=0.8)
    axis.set_xticks(range(len(SIZES)), SIZES)
    axis.set_xlabel("labelled texts")
    axis.set_ylabel("accuracy points over plain tuning")
    axis.set_title(
        "A start from all layers (--recipe tuned) pays most where labels are few", fontsize=11.5, loc="left"
    )
    (solid,) = axis.plot([], [], "o", color="#555555", label="significant")
    (hollow,) = axis.plot(
        [], [], "o", color="#555555", markerfacecolor="white", label="within noise, or the draws' spread"
    )
    lines = [each for each in axis.get_lines() if each.get_label() in NAMES.values()]
    axis.legend(handles=[*lines, solid, hollow], loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(FOLDER / "few-labels.png", metadata={"Software": None})


if __name__ == "__main__":
    main()
