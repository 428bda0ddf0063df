"""execute(): the text semantics of the python tool, in-process."""

import pytest

from openk2.sandbox.worker import execute


@pytest.mark.parametrize(
    ("code", "text", "is_error"),
    [
        ("1 + 1", "2", False),
        ("print('a')\n'b'", "a\n'b'", False),
        ("x = 5", "(no output)", False),
        ("None", "(no output)", False),
        ("", "(no output)", False),
        ("print(1, end='')", "1", False),
        ("y", "NameError: name 'y' is not defined", True),
        ("1 +", "SyntaxError: invalid syntax", True),
        ("print('a'); 1 / 0", "a\nZeroDivisionError: division by zero", True),
        ("raise SystemExit(3)", "SystemExit: 3", True),
        ("input()", "EOFError: EOF when reading a line", True),
        ("class E(Exception):\n  def __str__(self): return 1 / 0\nraise E", "E: <exception str() failed>", True),
        ("e = ValueError('v'); e.add_note('n'); raise e", "ValueError: v", True),
        ("def f(): return f()\nf()", "RecursionError: maximum recursion depth exceeded", True),
    ],
)
def test_text(code: str, text: str, is_error: bool):
    assert execute(code, {}) == (text, is_error)


def test_the_namespace_is_kept():
    namespace: dict[str, object] = {}
    assert execute("import math\nx = 3", namespace) == ("(no output)", False)
    assert execute("math.factorial(x)", namespace) == ("6", False)
