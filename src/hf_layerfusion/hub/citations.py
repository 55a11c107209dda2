"""BibTeX entries of the sources, by name. A new source is a row here."""

CITATIONS = {
    "grubert": """@inproceedings{horne-etal-2020-grubert,
    title = "{GRUBERT}: A {GRU}-Based Method to Fuse {BERT} Hidden Layers for {T}witter Sentiment Analysis",
    author = "Horne, Leo and Matti, Matthias and Pourjafar, Pouya and Wang, Zuowen",
    booktitle = "Proceedings of the 1st Conference of the Asia-Pacific Chapter of the Association for
        Computational Linguistics and the 10th International Joint Conference on Natural Language
        Processing: Student Research Workshop",
    month = dec,
    year = "2020",
    address = "Suzhou, China",
    publisher = "Association for Computational Linguistics",
    url = "https://aclanthology.org/2020.aacl-srw.19",
    doi = "10.18653/v1/2020.aacl-srw.19",
    pages = "130--138",
}""",
    "bert-intermediate-layers": """@article{song-etal-2020-utilizing,
    title = "Utilizing {BERT} Intermediate Layers for Aspect Based Sentiment Analysis and Natural Language Inference",
    author = "Song, Youwei and Wang, Jiahai and Liang, Zhiwei and Liu, Zhiyue and Jiang, Tao",
    journal = "arXiv preprint arXiv:2002.04815",
    year = "2020",
}""",
    "serbertus": """@misc{hayes-serbertus,
    title = "{SerBERTus}: A {SMART} Three-Headed {BERT} Ensemble",
    author = "Hayes, Matthew",
    howpublished = "Stanford University, CS 224N, default project",
}""",
    "elmo": """@inproceedings{peters-etal-2018-deep,
    title = "Deep Contextualized Word Representations",
    author = "Peters, Matthew E. and Neumann, Mark and Iyyer, Mohit and Gardner, Matt and
        Clark, Christopher and Lee, Kenton and Zettlemoyer, Luke",
    booktitle = "Proceedings of the 2018 Conference of the North {A}merican Chapter of the Association for
        Computational Linguistics: Human Language Technologies, Volume 1 (Long Papers)",
    month = jun,
    year = "2018",
    address = "New Orleans, Louisiana",
    publisher = "Association for Computational Linguistics",
    url = "https://aclanthology.org/N18-1202",
    doi = "10.18653/v1/N18-1202",
    pages = "2227--2237",
}""",
}
"""BibTeX entries by the names that `CardFacts.methods` uses."""

METHODS = {
    "gru_fusion": ["grubert"],
    "layer_pooling": ["bert-intermediate-layers"],
    "cerbertus": ["serbertus"],
}
"""Sources of each of this package's architectures, by `model_type`."""
