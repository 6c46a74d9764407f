"""The drawing of who imports whom is the code's."""

from tools.drawing import PAGE, replaced


def test_the_drawing_is_up_to_date() -> None:
    page = PAGE.read_text()
    assert replaced(page) == page, "run: python -m tools.drawing"
