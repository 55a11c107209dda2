"""Train and publish the releases that `reproduction/releases.json` declares.

accelerate launch -m reproduction.train_releases --organization ORG --push_to_hub True

This trains grubert-share-3, bert-lstm, bert-attention and cerbertus-2 on BERT-base and BERTweet, on public data by
default. Finished releases are not trained again, interrupted ones resume from their last checkpoint.
"""

from hf_layerfusion.cli.script import parse_arguments, run_script
from reproduction.release_run import ReleaseArguments, chosen_releases, train_release


def main() -> None:
    """Run the command line."""
    (arguments,) = parse_arguments(ReleaseArguments)
    for release in chosen_releases(arguments):
        print(train_release(release, arguments))


if __name__ == "__main__":
    run_script(main)
