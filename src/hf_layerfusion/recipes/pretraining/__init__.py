"""The pretraining recipe: further pretraining of an encoder on unlabelled texts."""
