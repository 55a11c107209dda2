"""Trains the releases that `reproduction/releases.json` declares, and publishes them.

accelerate launch -m reproduction.train_releases --organization ORG --push_to_hub True

trains grubert-share-3, bert-lstm, bert-attention and cerbertus-2 on BERT-base and BERTweet, on public data by name. A
release that has finished is not trained again, one that was cut off goes on at its last checkpoint.
"""

from hf_layerfusion.cli.script import parse_arguments, run_script
from reproduction.release_run import ReleaseArguments, chosen_releases, train_release


def main() -> None:
    (arguments,) = parse_arguments(ReleaseArguments)
    for release in chosen_releases(arguments):
        print(train_release(release, arguments))


if __name__ == "__main__":
    run_script(main)
