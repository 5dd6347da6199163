"""Lines of a report: they are text, and keep what stands out where they are joined, copied and put together."""

import copy

import support

constants = support.dev.load_pack("constants")


def test_lines_are_their_text_and_keep_what_stands_out():
    inner = constants.Lines(["a", constants.Line("hint: ", "info", "b")])
    whole = constants.Lines(["first", inner, "last"])
    assert whole == "first\na\nhint: b\nlast"
    assert [type(line) is constants.Line for line in whole.lines] == [False, False, True, False]
    assert (whole.lines[2].head, whole.lines[2].level) == ("hint: ", "info")


def test_a_copy_is_the_same():
    line = constants.Line("WARNING: ", "warning", "x")
    text = copy.deepcopy(constants.Lines(["a", line]))
    assert text == "a\nWARNING: x" and (text.lines[1].head, text.lines[1].level) == ("WARNING: ", "warning")
    assert copy.copy(line) == "WARNING: x" and constants.Lines("a\nb").lines == ["a", "b"]
