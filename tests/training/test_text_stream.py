"""Order and seeds of a stream."""

from tests.tiny import tiny_texts, tiny_tokenizer
from tests.training.small_texts import text_stream


def texts_of(stream):
    tokenizer = tiny_tokenizer()
    return [tokenizer.decode(row["input_ids"], skip_special_tokens=True) for row in stream]


def test_every_epoch_has_every_text_in_an_order_of_its_own():
    texts = [text for text, _ in tiny_texts(40)]
    assert texts_of(text_stream(40)) == texts
    shuffled = text_stream(40, buffer_size=10)
    orders = []
    for epoch in range(3):
        shuffled.set_epoch(epoch)
        orders.append(texts_of(shuffled))
        assert sorted(orders[-1]) == sorted(texts)
    assert len({tuple(order) for order in [*orders, texts]}) == 4
    shuffled.set_epoch(1)
    assert texts_of(shuffled) == orders[1]


def test_no_more_than_the_buffer_is_mixed():
    """Text n cannot come before place n - buffer."""
    texts = [text for text, _ in tiny_texts(40)]
    for place, text in enumerate(texts_of(text_stream(40, buffer_size=5))):
        assert texts.index(text) <= place + 5


def test_seeds_of_rows_differ_by_place_and_epoch_and_come_again():
    stream = text_stream(30, buffer_size=10)
    draws = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        draws.append([row["draw"] for row in stream])
    assert draws[0] == draws[2]
    assert len({*draws[0], *draws[1]}) == 60
    assert len(stream) == 30


def test_other_draws_leave_the_order():
    stream = text_stream(30, buffer_size=10)
    other = stream.with_draws_of(stream.seed + 1)
    assert texts_of(other) == texts_of(stream)
    assert not {row["draw"] for row in other} & {row["draw"] for row in stream}
