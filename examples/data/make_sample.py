"""Makes the demo's sample: made-up tweets, the same bytes on every machine.

Usage: python examples/data/make_sample.py [FOLDER]    (default: the folder of this file)

Each split has sentence templates of its own: a model cannot score on validation or test by remembering them.
"""

import csv
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SEED = 20240607
SIZES = {"train": 1200, "validation": 240, "test": 240}
LABELS = ("negative", "positive")
LABEL_NOISE = 0.05

TEMPLATES: dict[str, dict[str, list[str]]] = {
    "train": {
        "positive": [
            "i love {thing}, it is so {good}",
            "had a {good} {time} with {person}",
            "so glad that {event} is finally here",
            "thank you {person}, you made my {time}",
            "{thing} turned out {good}, we could not stop smiling",
            "can not wait for {event}, going to be {good}",
            "{place} looks {good} in the sun, staying all {time}",
            "best {time} in ages thanks to {person}",
            "finally tried {thing} and wow, {good}",
            "we won at {place} and everybody cheered",
            "feeling {good} after {event}, what a {time}",
            "{person} sang for me, it was {good}",
            "my new {item} works like a charm",
            "passed my exam, {good} {time} ahead",
            "{person} just told me the {good} news, so proud",
            "cuddled up with {thing} and my {item}, pure bliss",
            "{event} was {good} again, well done {person}",
            "the crowd at {place} was {good}, still buzzing",
            "got a hug from {person} and now the {time} is perfect",
            "{thing} on a free {time}, life is sweet",
            "happy birthday {person}, have a {good} {time}",
            "found my lost {item} again, lucky me",
        ],
        "negative": [
            "i hate {thing}, it is so {bad}",
            "had a {bad} {time} without {person}",
            "so upset that {event} is already over",
            "sorry {person}, i ruined your {time}",
            "{thing} turned out {bad}, we had to throw it away",
            "not ready for {event}, going to be {bad}",
            "{place} looks {bad} in the rain, stuck here all {time}",
            "worst {time} in ages because of {person}",
            "finally tried {thing} and yuck, {bad}",
            "we lost at {place} and everybody cried",
            "feeling {bad} after {event}, what a {time}",
            "{person} yelled at me, it was {bad}",
            "my new {item} is broken already",
            "failed my exam, {bad} {time} ahead",
            "{person} just told me the {bad} news, so worried",
            "home sick with a headache, no {thing}, no {item}, pure misery",
            "{event} was {bad} again, shame on you {person}",
            "the queue at {place} was {bad}, still angry",
            "got a rude mail from {person} and now the {time} is spoiled",
            "no time for {thing} on a busy {time}, life is unfair",
            "missing {person} so much, such a {bad} {time}",
            "someone stole my {item}, poor me",
        ],
    },
    "validation": {
        "positive": [
            "nothing beats {thing} after {event}, simply {good}",
            "{person} surprised us with tickets for {event}, hooray",
            "woke up to {good} weather, off to {place} with my {item}",
            "this {item} is worth every cent, {good} buy",
            "laughed until the end of {event}, {person} is hilarious",
            "slept well, {thing} for breakfast, i feel {good}",
            "proud of {person}, that show at {place} was {good}",
            "everything went smoothly this {time}, yay",
        ],
        "negative": [
            "nothing worse than {thing} after {event}, simply {bad}",
            "{person} cancelled our tickets for {event}, ugh",
            "woke up to {bad} weather, stuck at {place} without my {item}",
            "this {item} is a waste of money, {bad} buy",
            "bored until the end of {event}, {person} was annoying",
            "slept two hours, no {thing} for breakfast, i feel {bad}",
            "ashamed of {person}, that show at {place} was {bad}",
            "everything went wrong this {time}, argh",
        ],
    },
    "test": {
        "positive": [
            "big thanks to everyone at {place}, {event} felt {good}",
            "guess who got a free {item}, me, thanks {person}",
            "if you like {thing} go to {place}, it is {good} there",
            "cheers to a {good} {time} and to {person}",
            "my {item} arrived early and it looks {good}",
            "could listen to {person} all {time}, {good} voice",
            "beautiful evening at {place}, {thing} included",
            "{event} was a dream, would go again any {time}",
        ],
        "negative": [
            "big fail of everyone at {place}, {event} felt {bad}",
            "guess who dropped a new {item}, me, sorry {person}",
            "if you like {thing} avoid {place}, it is {bad} there",
            "tears over a {bad} {time} and over {person}",
            "my {item} arrived late and it looks {bad}",
            "could not stand {person} all {time}, {bad} voice",
            "ruined evening at {place}, {thing} burnt",
            "{event} was a nightmare, would not go again any {time}",
        ],
    },
}

FILLERS = {
    "good": "great magical lovely stunning fantastic brilliant wonderful sweet delightful superb".split(),
    "bad": "horrid terrible horrible nasty dreadful miserable rubbish lousy disgusting pathetic".split(),
    "thing": (
        "chocolate cake/my mums soup/that new song/the last season/iced coffee/homemade pizza/"
        "the new album/a good book/sushi/grandmas pie/this movie/pancakes"
    ).split("/"),
    "item": "phone laptop guitar jacket bike camera headset backpack watch tent".split(),
    "event": (
        "the concert/my holiday/the party/graduation/the wedding/summer camp/the road trip/the match/"
        "game night/the festival"
    ).split("/"),
    "place": (
        "the beach/the stadium/school/the new cafe/london/the park/the airport/work/the library/the mall"
    ).split("/"),
    "person": (
        "my sister/my best friend/the boss/my dad/our coach/my neighbour/the band/our team/"
        "{handle}/{handle}/{handle}/{handle}"
    ).split("/"),
    "time": "day weekend morning evening monday friday night afternoon".split(),
}
NAMES = "sunny kate mike jo rocket star daisy leo max finn lucy zoe sam ella".split()
OPENERS = ["omg", "well,", "ok so", "lol", "hey {handle}", "{handle}", "rt {handle}", "so", "haha", "btw"]
CLOSERS = [
    "#{tag}",
    "#{tag} #{tag}",
    "{link}",
    "!!",
    "...",
    "{handle}",
    "right now",
    "#{tag} {link}",
    "today",
]
TAGS = "mylife fb weekend justsaying nowplaying tweet dailynews random thatsme throwback".split()


class Tweet(NamedTuple):
    """One row of the sample, and the template it came from."""

    text: str
    label: str
    template: str


def fill(text: str, rng: random.Random) -> str:
    """Replace each `{slot}` of `text`, slots inside of fillers too."""
    while "{" in text:
        before, _, rest = text.partition("{")
        slot, _, after = rest.partition("}")
        if slot == "handle":
            value = f"@{rng.choice(NAMES)}{rng.choice(['', '_', 'x'])}{rng.randrange(100)}"
        elif slot == "link":
            value = "http://example.com/" + "".join(
                rng.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(5)
            )
        elif slot == "tag":
            value = rng.choice(TAGS)
        else:
            value = rng.choice(FILLERS[slot])
        text = before + value + after
    return text


def without_handles(text: str) -> str:
    """`text` with all @names made one, as preparation will make them."""
    return re.sub(r"@\w+", "@", text)


def blur(word: str, rng: random.Random) -> str:
    """Type `word` as one does in a hurry: at times two letters swapped, one lost, or a vowel held down."""
    if len(word) < 4 or not word.isalpha():
        return word
    chance = rng.random()
    place = 1 + rng.randrange(len(word) - 2)
    if chance < 0.03:
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    if chance < 0.06:
        return word[:place] + word[place + 1 :]
    if chance < 0.09 and any(vowel in word for vowel in "aeiou"):
        last = max(index for index, letter in enumerate(word) if letter in "aeiou")
        return word[:last] + word[last] * (3 + rng.randrange(3)) + word[last + 1 :]
    return word.upper() if chance > 0.98 else word


def tweets(split: str, rng: random.Random) -> Iterator[Tweet]:
    """Endless tweets of `split`, labels in turn, no filled template twice (whoever its @names are)."""
    seen: set[str] = set()
    while True:
        for label in LABELS:
            sentence = ""
            while not sentence or without_handles(sentence) in seen:
                template = rng.choice(TEMPLATES[split][label])
                sentence = fill(template, rng)
            seen.add(without_handles(sentence))
            text = " ".join(blur(word, rng) for word in sentence.split(" "))
            if rng.random() < 0.4:
                text = f"{fill(rng.choice(OPENERS), rng)} {text}"
            if rng.random() < 0.6:
                text = f"{text} {fill(rng.choice(CLOSERS), rng)}"
            yield Tweet(text, label, template)


def make_split(split: str) -> list[Tweet]:
    """The rows of `split`: as many of each label, then a share `LABEL_NOISE` of the labels turned over."""
    rng = random.Random(f"{SEED}:{split}")
    source = tweets(split, rng)
    rows = [next(source) for _ in range(SIZES[split])]
    rng.shuffle(rows)
    for index in rng.sample(range(len(rows)), round(LABEL_NOISE * len(rows))):
        other = LABELS[1 - LABELS.index(rows[index].label)]
        rows[index] = rows[index]._replace(label=other)
    return rows


def write_sample(folder: Path) -> list[Path]:
    """Write `tweets_train.csv`, `tweets_validation.csv` and `tweets_test.csv` into `folder`."""
    paths = []
    for split in SIZES:
        path = folder / f"tweets_{split}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("text", "label"))
            writer.writerows((tweet.text, tweet.label) for tweet in make_split(split))
        paths.append(path)
    return paths


if __name__ == "__main__":
    for written in write_sample(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent):
        print(written)
